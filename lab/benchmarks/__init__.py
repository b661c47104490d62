"""Benchmarks: programs that run real load on a real stack and write what they saw."""
