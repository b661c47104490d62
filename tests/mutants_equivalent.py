"""Mutants that change nothing that could be seen, and why; named as :mod:`tests.mutate` prints them."""

EQUIVALENT: dict[str, str] = {}
