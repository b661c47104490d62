"""Benchmarks: programs that run load on a real stack and write their measurements."""
