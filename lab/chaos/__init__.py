"""Chaos runs: load, faults by a seeded plan, recovery, proof that the promise holds whatever dies, whenever."""
