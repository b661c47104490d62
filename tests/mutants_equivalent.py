"""Mutants that change nothing that could be seen, and why; named as :mod:`tests.mutate` prints them."""

_CHOICE = "how much is a choice; that it is so much, and no more, is tested by its name"

EQUIVALENT = {
    "operations/audit/sides.py module: 5 -> 6": _CHOICE,
    "operations/audit/sides.py module: 5000 -> 5001": _CHOICE,
    "operations/audit/arrivals.py module: 50000 -> 50001": _CHOICE,
    "operations/audit/arrivals.py _events: True -> False": "the same bytes, twice as many on the wire",
    "operations/audit/arrivals.py _not_stored: True -> False": "each has three columns, as its type says",
    "operations/audit/spill.py module: 128 -> 129": _CHOICE,
    "outbox_relay/acknowledgements.py Waits: 6 -> 7": "there are no more digits to round",
}
