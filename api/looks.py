"""Looks at the whole system: what each service has to read, outboxes, open withdrawals, endings, the last audit.

One look serves all who ask within a second, and each keeps what rates are made of. What does not answer is named
in it, and the rest is there all the same.
"""

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterable
from datetime import UTC, datetime
from statistics import median
from typing import Any, TypeVar

import msgspec
import psycopg

from api.headline import KAFKA, RELAY, Backlog, Found, Headline, headline
from api.operators import Operators
from api.problems import Problem
from api.readers import Readers
from contracts.services import API, NAMES, READ_BY
from contracts.topics import WITHDRAWAL_REQUESTS
from operations.accepted import count_waiting
from operations.audit.history import AuditRun, history
from operations.dead_letters.kept import KeptLetters
from operations.endings import endings_after, latest
from operations.lag import Progress, Sample, progress, sample, without_members
from operations.outboxes import oldest_s
from operations.withdrawals import OpenOnes, count_open, of_ids
from outbox_relay.errors import RelayError
from outbox_relay.status import outbox_status

FRESH_S = 0.9
"""How long a look serves those who ask, from its beginning: who asks every second has a new one each time."""

KAFKA_S = 2.0
"""For each of Kafka's answers."""

LETTERS_EVERY_S = 3.0
"""Between two counts of the dead letters; ten times what the last one took, where there are too many to keep."""

RATES_S = 10.0
"""The time that rates are taken over."""

ENDINGS_MAX = 5_000
"""Endings that one look counts; more are counted by the next."""

TIMED_MAX = 200
"""Of the last endings, those whose duration is asked for."""

T = TypeVar("T")
_PART = re.compile(r"^(?:a database|the \S+ database|Kafka) ")


class Outbox(msgspec.Struct, frozen=True):
    """Where the outbox of a service stands.

    Attributes:
        rows: published rows stay for a moment; the others wait.
        oldest_s: the age of the oldest, seconds.
        lag_bytes: of the write-ahead log, not confirmed as published.
        active: whether a relay reads it.
    """

    service: str
    rows: int
    oldest_s: float | None
    lag_bytes: int | None
    active: bool
    dead_rows: int


class Endings(msgspec.Struct, frozen=True):
    """Withdrawals that end: by state, a second; and the median of how long the last ones took, milliseconds."""

    per_s: dict[str, float]
    median_ms: float | None


class LastAudit(msgspec.Struct, frozen=True):
    """The newest audit: its state and when it began and ended."""

    audit_id: str
    state: str
    started_at: datetime
    finished_at: datetime | None
    withdrawals: int | None


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """The system at a moment; what could not be asked is null, and named.

    Attributes:
        at: the moment.
        headline: whether money moves, in words.
        steps: lag and rates of each service and topic, the rates over the last ten seconds.
        stuck_s: without an event for so long, an open withdrawal is silent: stuck.
        dead_letters: open ones.
        away: what does not answer or does not run, and why.
        unasked: what this API may not ask, and why.
    """

    at: datetime
    headline: Headline
    steps: list[Progress] | None
    outboxes: list[Outbox]
    open: list[OpenOnes] | None
    stuck_s: float
    endings: Endings | None
    dead_letters: int | None
    audit: LastAudit | None
    away: dict[str, str]
    unasked: dict[str, str]

    @property
    def open_count(self) -> int | None:
        """All withdrawals that are not finished."""
        return sum(one.open for one in self.open) if self.open is not None else None

    @property
    def stuck_count(self) -> int | None:
        """Those without an event for some time."""
        return sum(one.silent for one in self.open) if self.open is not None else None


class Looks:
    """Takes looks, one at a time.

    Args:
        readers: of the databases.
        operators: what asks Kafka; for nobody else, so that it always has room.
        letters: the dead letters.
        stuck_s: without an event for so long, an open withdrawal is stuck.
    """

    def __init__(self, readers: Readers, operators: Operators, letters: KeptLetters, stuck_s: float) -> None:
        self._readers, self._operators, self._kept, self._stuck_s = readers, operators, letters, stuck_s
        self._last: Flow | None = None
        self._begun_at = 0.0
        self._under_way: asyncio.Task[Flow] | None = None
        self._samples: deque[Sample] = deque()
        self._ended: deque[tuple[float, Counter[str]]] = deque()
        self._place: str | None = None
        self._median_ms: float | None = None
        self._letters: int | None = None
        self._count_letters_at = 0.0

    async def close(self) -> None:
        """Take no look any more."""
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.gather(self._under_way, return_exceptions=True)

    @property
    def last(self) -> Flow | None:
        """The last look there was, however old."""
        return self._last

    async def now(self) -> Flow:
        """A look that was begun less than a second ago, or the one that is under way, or a new one."""
        is_under_way = self._under_way is not None and not self._under_way.done()
        if self._last is not None and time.monotonic() - self._begun_at < FRESH_S and not is_under_way:
            return self._last
        return await asyncio.shield(self._taking())

    async def within(self, limit_s: float) -> Flow | None:
        """The same, or within a time the last one there was; None before the first."""
        try:
            async with asyncio.timeout(limit_s):
                return await self.now()
        except TimeoutError:
            return self._last

    def _taking(self) -> "asyncio.Task[Flow]":
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.get_running_loop().create_task(self._take(), name="look")
        return self._under_way

    async def _take(self) -> Flow:
        self._begun_at = time.monotonic()
        away: dict[str, str] = {}
        unasked: dict[str, str] = {}

        async def part(name: str, asked: Coroutine[Any, Any, T]) -> T | None:
            try:
                return await asked
            except Problem as problem:
                (unasked if problem.kind == "forbidden" else away)[name] = _why(problem.detail)
            except (RelayError, psycopg.Error) as error:
                unasked[name] = " ".join(str(error).split())
            return None

        async with asyncio.TaskGroup() as group:
            ask = group.create_task
            kafka_asked = ask(part(KAFKA, self._operators.run(_ask_kafka, self._operators.bootstrap)))
            open_asked = ask(part("the saga database", self._readers.run(("saga",), count_open, self._stuck_s)))
            ended_asked = ask(part("the saga database", self._count_endings()))
            accepted_asked = ask(
                part(f"the {API} database", self._readers.run((API,), count_waiting, self._stuck_s))
            )
            audits_asked = ask(part(f"the {API} database", self._readers.run((API,), history, 1)))
            letters_asked = ask(part(KAFKA, self._count_letters()))
            outboxes_asked = [
                ask(part(f"the {name} database", self._readers.run((name,), _outbox, name))) for name in NAMES
            ]
        open_ones, endings, letters = open_asked.result(), ended_asked.result(), letters_asked.result()
        audits, outboxes = audits_asked.result(), [one for task in outboxes_asked if (one := task.result())]
        steps: list[Progress] | None = None
        unread = [one for one in outboxes if not one.active]
        if (kafka := kafka_asked.result()) is not None:
            now, idle = kafka
            steps = self._progress(now)
            away |= dict.fromkeys(sorted(idle), "does not run: no instance reads its topics")
            if unread:
                away[RELAY] = f"reads no outbox of {', '.join(one.service for one in unread)}"
        if KAFKA in away or any(one.service == API for one in unread):
            open_ones = _with_accepted(open_ones, accepted_asked.result())
        found = Found(
            away=away,
            unread_outboxes=sum(one.rows for one in unread),
            open=open_ones,
            unrecorded=_unrecorded(steps or ()) if "saga" in away else 0,
            backlogs=backlogs(steps or ()),
            ended_per_s=sum(endings.per_s.values()) if endings is not None else None,
            dead_letters=letters,
            audit=audits[0].state if audits else None,
        )
        self._last = Flow(
            at=datetime.now(UTC),
            headline=headline(found),
            steps=steps,
            outboxes=outboxes,
            open=open_ones,
            stuck_s=self._stuck_s,
            endings=endings,
            dead_letters=letters,
            audit=_last_audit(audits[0]) if audits else None,
            away=away,
            unasked=unasked,
        )
        return self._last

    def _progress(self, now: Sample) -> list[Progress]:
        """Lags, and rates over the time for which samples are kept."""
        self._samples.append(now)
        while len(self._samples) > 2 and (now.at - self._samples[1].at).total_seconds() >= RATES_S:
            self._samples.popleft()
        return progress(now, self._samples[0] if len(self._samples) > 1 else None)

    async def _count_letters(self) -> int | None:
        began = time.monotonic()
        if began >= self._count_letters_at or self._letters is None:
            self._letters = None
            letters = await self._operators.run(self._kept.read)
            self._letters = sum(letter.open for letter in letters)
            now = time.monotonic()
            self._count_letters_at = now + max(LETTERS_EVERY_S, 10 * (now - began))
        return self._letters

    async def _count_endings(self) -> Endings | None:
        try:
            if self._place is None:
                self._place = await self._readers.run(("saga",), latest)
            ended = await self._readers.run(("saga",), endings_after, self._place, ENDINGS_MAX)
        except Problem as problem:
            self._place = None
            self._ended.clear()
            if problem.kind != "invalid":
                raise
            return None  # the server is another one: its endings are counted from now on
        now = time.monotonic()
        self._ended.append((now, Counter(one.state for one in ended)))
        while len(self._ended) > 2 and now - self._ended[1][0] >= RATES_S:
            self._ended.popleft()
        if ended:
            self._place = ended[-1].id
            rows = await self._readers.run(("saga",), of_ids, [one.payment_id for one in ended[-TIMED_MAX:]])
            self._median_ms = _median_ms((one.requested_at, one.finished_at) for one in rows)
        over_s = now - self._ended[0][0]
        if over_s <= 0:
            return None
        # The first count is of the time before the window.
        total = sum((counts for _, counts in list(self._ended)[1:]), Counter[str]())
        return Endings({state: count / over_s for state, count in sorted(total.items())}, self._median_ms)


def backlogs(steps: Iterable[Progress]) -> list[Backlog]:
    """What each service has yet to read, over all of its topics."""
    found: dict[str, list[Progress]] = {}
    for step in steps:
        found.setdefault(step.service, []).append(step)
    return [
        Backlog(
            service,
            sum(one.lag for one in some),
            _sum(one.arriving_per_s for one in some),
            _sum(one.reading_per_s for one in some),
        )
        for service, some in found.items()
    ]


def _ask_kafka(bootstrap: str) -> tuple[Sample, set[str]]:
    return sample(bootstrap, timeout_s=KAFKA_S), without_members(bootstrap, tuple(READ_BY), KAFKA_S)


def _outbox(connection: psycopg.Connection[Any], service: str) -> Outbox:
    status = outbox_status(connection)
    return Outbox(service, status.rows, oldest_s(connection), status.lag_bytes, status.active, status.dead_rows)


def _with_accepted(open_ones: list[OpenOnes] | None, accepted: OpenOnes | None) -> list[OpenOnes] | None:
    """Those that are not finished, with those that nobody publishes: the saga service knows nothing of these."""
    return (
        [accepted, *open_ones] if open_ones is not None and accepted is not None and accepted.open else open_ones
    )


def _unrecorded(steps: Iterable[Progress]) -> int:
    """Requests that the saga service has yet to read."""
    return sum(one.lag for one in steps if one.service == "saga" and one.topic == WITHDRAWAL_REQUESTS.name)


def _last_audit(run: AuditRun) -> LastAudit:
    withdrawals = run.result.withdrawals if run.result is not None else None
    return LastAudit(str(run.audit_id), run.state, run.started_at, run.finished_at, withdrawals)


def _median_ms(times: Iterable[tuple[datetime | None, datetime | None]]) -> float | None:
    took = [(end - begin).total_seconds() * 1_000 for begin, end in times if begin is not None and end is not None]
    return median(took) if took else None


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


def _why(detail: str) -> str:
    """A problem's detail as the rest of a sentence that begins with the part's name."""
    return _PART.sub("", detail)
