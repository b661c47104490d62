"""Looks at the whole system: what each service has to read, outboxes, open withdrawals, endings, the last audit.

One look serves all who ask within a second, and each keeps what rates are made of. What does not answer is named
in it, and the rest is there all the same. A page shows the last look instead of waiting, if it is not old and no
operator has acted since.
"""

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import psycopg

from api.headline import KAFKA, RELAY, Backlog, Found, headline
from api.operators import Operators
from api.problems import Problem
from api.readers import Readers
from api.seen import Endings, Flow, LastAudit, Outbox, Seen
from broker.offsets import Offsets
from broker.provision import existing_topics
from contracts.services import API, NAMES, READ_BY
from contracts.topics import WITHDRAWAL_REQUESTS
from operations.accepted import count_waiting
from operations.audit.history import AuditRun, history
from operations.dead_letters.kept import KeptLetters, Reading
from operations.dead_letters.letters import Letter
from operations.endings import endings_after, latest
from operations.hold_ups import KafkaSays, open_by_payment
from operations.lag import Progress, Sample, ask_members, progress, sample, without_any
from operations.outboxes import oldest_s
from operations.withdrawals import OpenOnes, count_open, of_ids
from outbox_relay.errors import RelayError
from outbox_relay.status import OutboxStatus, outbox_status

FRESH_S = 0.9
"""How long a look serves those who ask, from its beginning: who asks every second has a new one each time."""

KAFKA_S = 2.0
"""For each of Kafka's answers."""

DATABASE_S = 4.0
"""For each of a database's."""

RECENT_S = 3.0
"""A look that has ended since then is shown by pages, which say of when it is, while a new one is taken."""

RECENT_LOOKS = 3
"""So is one that has ended no longer ago than so many times what it took, where each takes long."""

LETTERS_REST = 4
"""Dead letters are read with each look; but not for so many times as long as the last reading took."""

WAITS_S = 1.0
"""A row that is younger does not wait for a topic that Kafka lacks, as far as a look is concerned."""

RATES_S = 10.0
"""The time that rates are taken over."""

ENDINGS_MAX = 5_000
"""Endings that one look counts; more are counted by the next."""

TIMED_MAX = 200
"""Of the last endings, those whose duration is asked for."""

T = TypeVar("T")
_PART = re.compile(r"^(?:a database|the \S+ database|Kafka) ")


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
        self._last: Seen | None = None
        self._last_begun_at = self._last_ended_at = self._begun_at = self._acted_at = 0.0
        self._under_way: asyncio.Task[Seen] | None = None
        self._samples: deque[Sample] = deque()
        self._ended: deque[tuple[float, Counter[str]]] = deque()
        self._place: str | None = None
        self._median_ms: float | None = None
        self._indexed: _Indexed | None = None
        self._open_letters: int | None = None
        self._read_letters_at = 0.0

    async def close(self) -> None:
        """Take no look any more."""
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.gather(self._under_way, return_exceptions=True)

    @property
    def last(self) -> Flow | None:
        """The last look there was, however old."""
        return self._last.flow if self._last is not None else None

    def acted(self) -> None:
        """Somebody has changed the system through this process: a look from before is not shown any more."""
        self._acted_at = time.monotonic()
        self._read_letters_at = 0.0

    async def now(self) -> Seen:
        """A look that was begun less than a second ago, or the one that is under way, or a new one."""
        asked_at = time.monotonic()
        if self._is_fresh and self._last is not None and not self._is_under_way:
            return self._last
        seen = await asyncio.shield(self._taking())
        if self._last_begun_at < self._acted_at <= asked_at:
            return await asyncio.shield(self._taking())  # that one had begun before
        return seen

    async def recent(self) -> Seen:
        """The last look if it is not old, and a new one is begun; else a new one."""
        if self._last is None or not self._is_recent:
            return await self.now()
        if not self._is_fresh:
            self._taking()
        return self._last

    async def within(self, limit_s: float) -> Seen | None:
        """The same, or after so many seconds the last one there was; None before the first."""
        try:
            async with asyncio.timeout(limit_s):
                return await self.recent()
        except TimeoutError:
            return self._last

    def letters(self) -> Reading | None:
        """The dead letters as they were read last, if the last look is not old or that is not long ago."""
        since = self._acted_at if self._is_recent else max(time.monotonic() - RECENT_S, self._acted_at)
        return self._kept.since(since)

    @property
    def _is_recent(self) -> bool:
        """Whether the last look has ended not long ago, and was begun after what was done last."""
        age_s = max(RECENT_S, RECENT_LOOKS * (self._last_ended_at - self._last_begun_at))
        return self._last_ended_at >= time.monotonic() - age_s and self._last_begun_at >= self._acted_at

    @property
    def _is_fresh(self) -> bool:
        """Whether the last look was begun less than a second ago, and after what was done last."""
        return self._last_begun_at >= max(time.monotonic() - FRESH_S, self._acted_at)

    @property
    def _is_under_way(self) -> bool:
        return self._under_way is not None and not self._under_way.done()

    def _taking(self) -> "asyncio.Task[Seen]":
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.get_running_loop().create_task(self._take(), name="look")
        return self._under_way

    async def _take(self) -> Seen:
        begun_at = self._begun_at = time.monotonic()
        away: dict[str, str] = {}
        unasked: dict[str, str] = {}
        errors: dict[str, Exception] = {}

        async def part(name: str, asked: Coroutine[Any, Any, T]) -> T | None:
            try:
                return await asked
            except Problem as problem:
                (unasked if problem.kind == "forbidden" else away)[name] = _why(problem.detail)
                errors[name] = problem
            except (RelayError, psycopg.Error) as error:
                unasked[name] = " ".join(str(error).split())
                errors[name] = error
            return None

        async def of_kafka() -> tuple[_Kafka | None, int | None]:
            kafka = await part(KAFKA, self._operators.run(_ask_kafka, self._operators.bootstrap))
            if KAFKA in away:
                return None, None
            return kafka, await part(KAFKA, self._count_letters(kafka.offsets if kafka is not None else None))

        async with asyncio.TaskGroup() as group:
            ask = group.create_task
            kafka_asked = ask(of_kafka())
            open_asked = ask(part("the saga database", self._read("saga", count_open, self._stuck_s)))
            ended_asked = ask(part("the saga database", self._count_endings()))
            accepted_asked = ask(part(f"the {API} database", self._read(API, count_waiting, self._stuck_s)))
            audits_asked = ask(part(f"the {API} database", self._read(API, history, 1)))
            outboxes_asked = {name: ask(part(f"the {name} database", self._read(name, _outbox))) for name in NAMES}
        (kafka, letters), open_ones, endings = kafka_asked.result(), open_asked.result(), ended_asked.result()
        audits, statuses = audits_asked.result(), {}
        outboxes = []
        for name, task in outboxes_asked.items():
            if (found := task.result()) is not None:
                status, oldest = found
                statuses[name] = status
                outboxes.append(
                    Outbox(
                        name,
                        status.rows,
                        oldest,
                        status.lag_bytes,
                        status.active,
                        status.dead_rows,
                        status.paused is not None,
                    )
                )
        steps: list[Progress] | None = None
        unread = [one for one in outboxes if not one.active]
        if kafka is not None:
            steps = self._progress(kafka.sample)
            away |= dict.fromkeys(sorted(kafka.idle), "does not run: no instance reads its topics")
        if unread and KAFKA not in away:  # else it waits for that
            away[RELAY] = f"reads no outbox of {', '.join(one.service for one in unread)}"
        if KAFKA in away or any(one.service == API for one in unread):
            open_ones = _with_accepted(open_ones, accepted_asked.result())
        about = Found(
            away=away,
            unasked=unasked,
            unread_outboxes=sum(one.rows for one in unread),
            dead_rows=sum(one.dead_rows for one in outboxes),
            paused=[one.service for one in outboxes if one.paused],
            open=open_ones,
            unrecorded=_unrecorded(steps or ()) if "saga" in away else 0,
            backlogs=backlogs(steps or ()),
            ended_per_s=sum(endings.per_s.values()) if endings is not None else None,
            dead_letters=letters,
            audit=audits[0].state if audits else None,
        )
        flow = Flow(
            at=datetime.now(UTC),
            headline=headline(about),
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
        silent = {name: _detail(errors[key]) for name in NAMES if (key := f"the {name} database") in errors}
        says = _says(kafka, steps, self._indexed, errors.get(KAFKA))
        has_letters = self._indexed is not None or letters is None
        self._last = Seen(flow, _with_topics(statuses, says.topics), silent, says, has_letters)
        self._last_begun_at, self._last_ended_at = begun_at, time.monotonic()
        return self._last

    async def _read(self, database: str, read: Callable[..., T], *args: Any) -> T:
        return await self._readers.run(database, read, *args, limit_s=DATABASE_S)

    def _progress(self, now: Sample) -> list[Progress]:
        """Lags, and rates over the time for which samples are kept."""
        self._samples.append(now)
        while len(self._samples) > 2 and (now.at - self._samples[1].at).total_seconds() >= RATES_S:
            self._samples.popleft()
        return progress(now, self._samples[0] if len(self._samples) > 1 else None)

    async def _count_letters(self, offsets: Offsets | None) -> int:
        began = time.monotonic()
        if self._open_letters is not None and began < self._read_letters_at:
            return self._open_letters
        try:
            found = await self._operators.run(self._read_letters, offsets)
        except BaseException:
            self._open_letters = self._indexed = None
            raise
        if began >= self._acted_at:  # else they are read again with the next look
            self._read_letters_at = began + LETTERS_REST * (time.monotonic() - began)
        self._open_letters = found
        return found

    def _read_letters(self, offsets: Offsets | None) -> int:
        """Read the dead letters, and keep where the open ones belong, if there are not too many to be kept."""
        letters = self._kept.read(offsets)
        if self._kept.since(0) is None:
            self._indexed = None
        elif self._indexed is None or self._indexed.letters is not letters:
            self._indexed = _Indexed(letters, open_by_payment(letters))
        return sum(letter.open for letter in letters)

    async def _count_endings(self) -> Endings | None:
        try:
            if self._place is None:
                self._place = await self._read("saga", latest)
            ended = await self._read("saga", endings_after, self._place, ENDINGS_MAX)
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
            rows = await self._read("saga", of_ids, [one.payment_id for one in ended[-TIMED_MAX:]])
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


class _Indexed(NamedTuple):
    letters: list[Letter]
    open_by_payment: dict[UUID, list[Letter]]


class _Kafka(NamedTuple):
    offsets: Offsets
    topics: set[str]
    idle: set[str]
    sample: Sample


def _ask_kafka(bootstrap: str) -> _Kafka:
    # A client for each look: see operations.dead_letters.kept.
    offsets = Offsets(bootstrap, timeout_s=KAFKA_S)
    topics = existing_topics(bootstrap, KAFKA_S, offsets)
    asked = ask_members(offsets.client, tuple(READ_BY))
    now = sample(bootstrap, timeout_s=KAFKA_S, offsets=offsets)
    return _Kafka(offsets, topics, without_any(asked, KAFKA_S), now)


def _says(
    kafka: _Kafka | None, steps: list[Progress] | None, indexed: _Indexed | None, problem: Exception | None
) -> KafkaSays:
    """What Kafka says, for what withdrawals wait for; where a part is missing, that part is the error."""
    error = problem.__cause__ if problem is not None else None
    said = KafkaSays(error=error.with_traceback(None) if isinstance(error, Exception) else problem)
    if kafka is not None:
        said.topics, said.idle = kafka.topics, kafka.idle
        said.behind = Counter[str]()
        for step in steps or ():
            said.behind[step.service] += step.lag
    if indexed is not None:
        said.letters = indexed.open_by_payment
    return said


def _outbox(connection: psycopg.Connection[Any]) -> tuple[OutboxStatus, float | None]:
    """The status, with all topics that its rows belong on as if Kafka had none; and the age of its oldest row."""
    oldest = oldest_s(connection)
    if oldest is not None and oldest > WAITS_S:
        return outbox_status(connection, frozenset()), oldest
    return replace(outbox_status(connection), missing_topics=()), oldest


def _with_topics(statuses: Mapping[str, OutboxStatus], topics: AbstractSet[str] | None) -> dict[str, OutboxStatus]:
    """The statuses with the topics that Kafka lacks, if that is known."""
    return {
        name: replace(
            status,
            missing_topics=(
                tuple(topic for topic in status.missing_topics or () if topic not in topics)
                if topics is not None
                else None
            ),
        )
        for name, status in statuses.items()
    }


def _detail(error: Exception) -> str:
    return error.detail if isinstance(error, Problem) else str(error)


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
