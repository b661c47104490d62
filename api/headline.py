"""Whether money moves, in words: the one sentence about the whole system, decided from what was found."""

from collections.abc import Mapping, Sequence

import msgspec

from operations.withdrawals import OpenOnes
from processors.saga.decide import COMPENSATING, DEDUCTED, INCOMPLETE, PAID, REQUESTED

OK, WARN, BAD, UNKNOWN = "ok", "warn", "bad", "unknown"
"""The tones of a sentence, or of a part of the system."""

BEHIND_RECORDS = 1_000
"""A service with more records to read is behind, if they do not get fewer."""

KAFKA, RELAY = "Kafka", "the relay"

WAITS_AT: dict[str, str] = {
    INCOMPLETE: "saga",
    REQUESTED: "account",
    DEDUCTED: "payment",
    PAID: "notification",
    COMPENSATING: "account",
}
"""The service whose step is next in each state."""


class Headline(msgspec.Struct, frozen=True):
    """Whether money moves.

    Attributes:
        tone: ``ok``, ``warn`` (somebody should look, money moves), ``bad`` (it does not, or not as it should),
            ``unknown`` (what would say so could not be asked).
        words: a sentence without a full stop.
        details: further sentences, the most important first.
    """

    tone: str
    words: str
    details: list[str]


class Backlog(msgspec.Struct, frozen=True):
    """What a service has yet to read, and how fast that changes, records a second; None where not known yet."""

    service: str
    lag: int
    arriving_per_s: float | None
    reading_per_s: float | None

    @property
    def grows(self) -> bool:
        """Whether it is large and does not get smaller."""
        arriving, reading = self.arriving_per_s, self.reading_per_s
        return self.lag > BEHIND_RECORDS and arriving is not None and reading is not None and arriving >= reading


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the sentence is made of.

    Attributes:
        away: parts that do not answer or do not run, and why: names of services, ``Kafka``, ``the relay``,
            ``the saga database``.
        unasked: parts that could not be asked, for lack of a right as a rule, and why.
        unread_outboxes: rows that wait in an outbox which no relay reads.
        dead_rows: rows of outboxes that Kafka never accepts.
        paused: services whose outbox somebody has paused.
        open: withdrawals that are not finished, by state; None where that could not be asked. With those that the
            API has accepted where nobody publishes them.
        unrecorded: requests in Kafka that the saga service has yet to record, where it does not run.
        backlogs: of each service; none where Kafka could not be asked.
        ended_per_s: withdrawals that end, a second; None where that is not known yet.
        dead_letters: open ones; None where that could not be asked.
        audit: the state of the last audit, as :mod:`operations.audit.history` names it; None where there is none.
    """

    away: Mapping[str, str] = {}
    unasked: Mapping[str, str] = {}
    unread_outboxes: int = 0
    dead_rows: int = 0
    paused: Sequence[str] = ()
    open: Sequence[OpenOnes] | None = ()
    unrecorded: int = 0
    backlogs: Sequence[Backlog] = ()
    ended_per_s: float | None = None
    dead_letters: int | None = 0
    audit: str | None = None


def headline(found: Found) -> Headline:
    """The sentence, and what else there is to say; what is worst comes first."""
    said = [*_bad(found), *_warnings(found), *_unknown(found)]
    tone, words, _ = said[0] if said else (OK, _moves(found), "")
    details = [_sentence(words, more) for _, words, more in said[1:]]
    if said and said[0][2]:
        details.insert(0, said[0][2])
    return Headline(tone, words, [*details, *_rates(found)])


def _bad(found: Found) -> list[tuple[str, str, str]]:
    said = []
    if KAFKA in found.away:
        said.append(
            (BAD, f"Kafka is away: {_wait(_count(found))}", "Requests are accepted, and wait in the API's outbox.")
        )
    if RELAY in found.away:
        rows = _many(found.unread_outboxes, "event")
        said.append(
            (BAD, f"The relay is away: {rows} in outboxes", "Nothing that the services decide gets any further.")
        )
    for name, why in found.away.items():
        if name not in (KAFKA, RELAY):
            said.append((BAD, f"{name[0].upper()}{name[1:]} is away{_who_waits(name, found)}", f"It {why}."))
    if found.audit == "does not hold":
        said.append((BAD, "The last audit does not hold", "See what it found, and run it again."))
    return said


def _warnings(found: Found) -> list[tuple[str, str, str]]:
    said = [
        (WARN, f"{one.service.capitalize()} falls behind: {one.lag:,} records to read", "")
        for one in sorted(found.backlogs, key=lambda one: -one.lag)
        if one.grows and one.service not in found.away
    ]
    stuck = sum(one.silent for one in found.open or ())
    moves = f"{_moves(found)}, but " if not found.away and not found.unasked else ""
    if stuck:
        said.append((WARN, f"{moves}{_many(stuck, 'withdrawal')} {_are(stuck)} stuck", ""))
    if found.dead_letters:
        said.append((WARN, f"{moves}{_many(found.dead_letters, 'dead letter')} {_needs(found.dead_letters)}", ""))
    if found.dead_rows:
        said.append(
            (WARN, f"{moves}{_many(found.dead_rows, 'dead row')} of outboxes {_needs(found.dead_rows)}", "")
        )
    said += [(WARN, f"{moves}the {service} outbox is paused", "") for service in found.paused]
    if found.open is None and not found.away:
        said.append((WARN, "It is not known how many withdrawals are open", ""))
    return said


def _unknown(found: Found) -> list[tuple[str, str, str]]:
    """What could not be asked: all that was may be well, and money stand still."""
    return [
        (UNKNOWN, f"It is not known whether money moves: {name} could not be asked", f"It says: {why}.")
        for name, why in found.unasked.items()
    ]


def _moves(found: Found) -> str:
    return "All is quiet" if not _count(found) and not found.ended_per_s else "Money moves"


def _rates(found: Found) -> list[str]:
    said = []
    if found.ended_per_s:
        said.append(f"{found.ended_per_s:,.1f} withdrawals a second come to their end.")
    open_ones = _count(found)
    if open_ones is not None:
        said.append(
            f"{_many(open_ones, 'withdrawal')} {_are(open_ones)} under way." if open_ones else "None is under way."
        )
    return said


def _count(found: Found) -> int | None:
    return sum(one.open for one in found.open) + found.unrecorded if found.open is not None else None


def _who_waits(name: str, found: Found) -> str:
    """How many withdrawals wait for a service; nothing for other parts."""
    service = name.removeprefix("the ").removesuffix(" database")
    if found.open is None:
        return ": nobody can say what waits" if service == "saga" else ""
    if service == "saga":
        return f": {_wait(_count(found))}"
    count = sum(one.open for one in found.open if WAITS_AT.get(one.state) == service)
    return f": {_wait(count)}" if service in WAITS_AT.values() else ""


def _wait(count: int | None) -> str:
    if count is None:
        return "nothing moves"
    return f"{_many(count, 'withdrawal')} {'waits' if count == 1 else 'wait'}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _needs(count: int) -> str:
    return f"{'needs' if count == 1 else 'need'} a person"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _sentence(words: str, more: str) -> str:
    words = words.rpartition(", but ")[2]
    return f"{words[0].upper()}{words[1:]}. {more}".strip()
