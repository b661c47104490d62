"""The figures as a few small tables of text, the same on a terminal and in a document."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from contracts.money import format_amount
from lab.comparison.results import Comparison, Consistency, Fault, Result

NOTHING = "–"
CURRENCY = "USD"


class Sheet(NamedTuple):
    """A table.

    Attributes:
        title: what it answers.
        note: how to read it, a sentence or two.
        header: names of the columns; the first column names the approach.
        rows: cells.
        alarms: cells (row, column) that nobody should accept.
        words: whether cells are words, to be set to the left.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    alarms: frozenset[tuple[int, int]] = frozenset()
    words: bool = False


def sheets(comparison: Comparison) -> list[Sheet]:
    """All of a comparison."""
    results = comparison.results
    return [
        _speed(comparison),
        _reader(comparison),
        _money(results),
        _waiting(comparison),
        _effort(results),
        _finished(results),
    ]


def _speed(comparison: Comparison) -> Sheet:
    load = comparison.results[0].load
    return Sheet(
        "How fast?",
        f"{load.withdrawals:,} withdrawals by {load.clients} clients, each waiting for its answer. Accepted: "
        "the caller has an answer to rely on. Milliseconds.",
        ("approach", "per second", "accepted p50", "p99", "finished p50", "p99"),
        [
            (
                one.title,
                f"{one.load.per_second:,.0f}",
                milliseconds(one.load.accepted.p50_ms),
                milliseconds(one.load.accepted.p99_ms),
                *(
                    (milliseconds(one.load.finished.p50_ms), milliseconds(one.load.finished.p99_ms))
                    if one.name != "naive"
                    else ("nobody", "knows")
                ),
            )
            for one in comparison.results
        ],
    )


def _reader(comparison: Comparison) -> Sheet:
    seen = comparison.results[0].consistency
    return Sheet(
        "Can others see money that is gone and not paid?",
        f"A reader of both sides' tables, {seen.withdrawals} withdrawals at {seen.per_second:g} a second; it can "
        "miss what is shorter than its look. If refused: how long that money was away. Milliseconds.",
        ("approach", "caught", "median", "longest", "if refused", "a look"),
        [
            (
                one.title,
                f"{one.consistency.seen} of {one.consistency.withdrawals}",
                median(one.consistency),
                milliseconds(one.consistency.longest_ms) if one.consistency.seen else NOTHING,
                _away(one.faults["refused"]),
                milliseconds(one.consistency.resolution_ms),
            )
            for one in comparison.results
        ],
    )


_MONEY = ("refused", "killed", "worker", "repeated")


def _money(results: Sequence[Result]) -> Sheet:
    return Sheet(
        "Where is the money after a fault?",
        "Refused by the provider; killed at every step (the saga: every service and the relay at once); the "
        "worker killed between publishing and marking (naive: the payer, after paying); asked five times.",
        ("approach", "refused", "killed", "worker killed", "repeated"),
        [(one.title, *(_verdict(name, one.faults[name]) for name in _MONEY)) for one in results],
        frozenset(
            (row, column)
            for row, one in enumerate(results)
            for column, name in enumerate(_MONEY, 1)
            if is_wrong(one.faults[name])
        ),
        words=True,
    )


def _waiting(comparison: Comparison) -> Sheet:
    settings, results = comparison.settings, comparison.results
    return Sheet(
        "Who waits, and who puts it right?",
        "Waiting: others on the account of one who died halfway, until recovery after "
        f"{settings['halfway_s']:g} s. Accepted: while the payment service's database was away for "
        f"{settings['outage_s']:g} s; paid after its return. Put right: what was killed at every step.",
        ("approach", "waiting", "longest", "accepted", "paid after", "put right by"),
        [
            (
                one.title,
                _of(one.faults["halfway"], lambda fault: f"{fault.waited} of {fault.asked}"),
                _of(one.faults["halfway"], lambda fault: f"{fault.waited_s_max:.2f} s"),
                _of(one.faults["outage"], lambda fault: f"{fault.accepted} of {fault.asked}"),
                _of(one.faults["outage"], lambda fault: _seconds(fault.recovery_s)),
                _of(one.faults["killed"], lambda fault: fault.healed_by or "nobody"),
            )
            for one in results
        ],
        frozenset((row, 2) for row, one in enumerate(results) if is_blocking(one.faults["halfway"])),
        words=True,
    )


def _effort(results: Sequence[Result]) -> Sheet:
    return Sheet(
        "What does it take?",
        "Lines of code, counted. Databases; processes beside the caller's; parts: these and Kafka. Trips: times "
        "the caller waits for a server. fsyncs of the write-ahead log for a withdrawal: alone, and under load.",
        ("approach", "lines", "bases", "procs", "parts", "trips", "fsyncs", "in load"),
        [
            (
                one.title,
                f"{one.facts.code_lines:,}",
                f"{one.facts.databases}",
                f"{one.facts.processes}",
                f"{one.facts.moving_parts}",
                f"{one.facts.round_trips:.0f}",
                _count(one.facts.fsyncs),
                _count(one.load.fsyncs_each),
            )
            for one in results
        ],
    )


def _finished(results: Sequence[Result]) -> Sheet:
    return Sheet(
        "When is a withdrawal finished?",
        "",
        ("approach", "finished"),
        [(one.title, one.finished) for one in results],
        words=True,
    )


def is_blocking(fault: Fault | None) -> bool:
    """Whether others had to wait until somebody recovered."""
    return fault is not None and fault.waited > 0


def is_wrong(fault: Fault | None) -> bool:
    """Whether money is where it does not belong."""
    return fault is not None and (not fault.right or fault.for_a_person > 0)


def _verdict(name: str, fault: Fault | None) -> str:
    if fault is None:
        return NOTHING
    if is_wrong(fault):
        return not_returned(fault) if name == "refused" else wrong(fault)
    if name == "refused":
        return "given back" if "compensation" in fault.note else "rolled back"
    if fault.published is not None:
        return f"ok, sent {fault.published:.0f}×"
    return "ok"


def not_returned(fault: Fault) -> str:
    """What nobody gives back after a refusal."""
    return f"{format_amount(fault.lost_minor, CURRENCY)} not returned"


def wrong(fault: Fault) -> str:
    """What is wrong, in few words."""
    parts = [
        f"{format_amount(minor, CURRENCY)} {what}"
        for minor, what in (
            (fault.lost_minor, "lost"),
            (fault.doubled_minor, "doubled"),
            (fault.unfunded_minor, "given away"),
        )
        if minor
    ]
    return ", ".join(parts)


def _away(fault: Fault | None) -> str:
    if fault is None or not fault.away_ms:
        return NOTHING
    return "for good" if fault.for_a_person else milliseconds(fault.away_ms)


def _of(fault: Fault | None, what: Callable[[Fault], str]) -> str:
    return NOTHING if fault is None else what(fault)


def _count(number: float | None) -> str:
    return NOTHING if number is None else f"{number:.1f}"


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


def median(seen: Consistency) -> str:
    """How long money was gone and not paid, of most; below the length of a look where most were not caught."""
    if not seen.seen:
        return NOTHING
    return milliseconds(seen.median_ms) if seen.median_ms else f"< {milliseconds(seen.resolution_ms)}"


def milliseconds(value: float) -> str:
    """With as many digits as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
