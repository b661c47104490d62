"""The comparison: approaches are run, measured and made to fail here, so that their modules are free of it."""
