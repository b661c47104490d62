"""The comparison: where approaches are run, measured and made to fail, so that their pages need not know of it."""
