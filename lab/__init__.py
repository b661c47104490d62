"""Experiments: five approaches side by side, chaos runs, benchmarks; not in the production image."""
