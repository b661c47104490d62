"""What proves and compares: five approaches side by side, chaos, benchmarks; not in the production image."""
