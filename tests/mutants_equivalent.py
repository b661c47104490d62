"""Mutants that change nothing that could be seen, and why; named as :mod:`tests.mutate` prints them."""

_CHOICE = "how long is a choice; that it is so long, and no longer, is tested by its name"
_FROZEN = "nothing changes one; frozen says so to the type checker"
_STATEMENT = "each statement in a transaction has a snapshot of its own, so it sees the same"

EQUIVALENT = {
    "operations/audit/run.py module: 5.0 -> 6.0": _CHOICE,
    "operations/audit/run.py Check: True -> False": _FROZEN,
    "operations/audit/run.py Audit: True -> False": _FROZEN,
    "operations/audit/run.py _wait_until_quiet: True -> False": _STATEMENT,
    "operations/audit/run.py _published: True -> False": _STATEMENT,
    "operations/audit/spill.py module: 128 -> 129": _CHOICE,
    "lab/chaos/verdict.py module: 60.0 -> 61.0": _CHOICE,
    "lab/chaos/verdict.py module: 2.0 -> 3.0": _CHOICE,
    "lab/chaos/verdict.py module: 0.1 -> 1.1": _CHOICE,
    "lab/chaos/verdict.py Latency: True -> False": _FROZEN,
    "lab/chaos/verdict.py check_traces: time.monotonic() < deadline -> time.monotonic() <= deadline": (
        "one more look at the very moment of the deadline"
    ),
    "outbox_relay/ledger.py Waits: 6 -> 7": "there are no more digits to round",
    "processors/account/decide.py Booking: True -> False": _FROZEN,
    "processors/saga/decide.py StoredEvent: True -> False": _FROZEN,
}
