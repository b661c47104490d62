"""Chaos runs: load, faults by a seeded plan, recovery, and a verdict on the promises."""
