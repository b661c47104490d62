"""The plan of faults and their times: a pure function of the options, equal on any machine."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from contracts.failpoints import FAILPOINTS
from contracts.services import API, READ_BY, TOPICS
from stack.names import SERVERS

SERVICES = ("relay", *READ_BY)
PARTS = ("kafka", "postgres", *SERVICES)
"""What can be hit; ``postgres`` is one of the servers, another one each time."""
ALIASES = {"broker": "kafka", "database": "postgres"}
API_PARTS = (API, SERVERS[API])
"""What is hit besides, where the load comes through the API."""

TOPICS_READ = tuple(topic.name for topic in TOPICS if any(topic in read for read in READ_BY.values()))

KILL, STOP, FREEZE, FAILPOINT, REPEAT, ROLL = "kill", "stop", "freeze", "failpoint", "repeat", "roll"

# Operators' faults.
SWAP, PUBLICATION, SLOT_DROP, SLOT_ADVANCE = "swap", "publication", "slot-drop", "slot-advance"
READ_ONLY, LOCK_OUT = "read-only", "lock-out"
FORGET, JUNK, PARTITIONS = "forget", "junk", "partitions"
CLOCK = "clock"
OPERATORS = (
    SWAP,
    PUBLICATION,
    SLOT_DROP,
    SLOT_ADVANCE,
    READ_ONLY,
    LOCK_OUT,
    FORGET,
    JUNK,
    PARTITIONS,
    CLOCK,
)

WARM_UP_S = 4.0
CALM_S = 12.0
"""The last faults are over by then, so that what comes after is undisturbed and can be measured as such."""

GAP_S = (2.0, 5.0)
GAP_AFTER_STORE_S = (6.0, 9.0)
"""An outage of broker or database stops several parts: another fault during it would not count separately."""
FREEZE_S = (0.5, 6.0)
"""Below and above the 3 s after which a consumer group reassigns a silent member's partitions."""
FAILPOINT_COUNT_MAX = 5
ROLL_GAP_S = 1.0

GAP_AFTER_OPERATOR_S = (1.0, 3.0)
REFUSING_S = (2.0, 5.0)
"""How long a database is read-only, or refuses logins."""
CLOCK_FOR_S = (5.0, 9.0)
CLOCK_OFF_S = 600.0
CLOCKS = ("account", "payment", "notification")
"""Not the saga service's: by it, the verdict measures when a withdrawal ended."""

_WORDS = {
    KILL: "{part} killed",
    STOP: "{part} restarted",
    FREEZE: "{part} frozen for {for_s:.1f} s",
    FAILPOINT: "{part} dies at {failpoint}",
    REPEAT: "records of {part} come again",
    ROLL: "{part} rolled over",
    SWAP: "outbox of {part} replaced by a copy",
    PUBLICATION: "publication of {part} dropped",
    SLOT_DROP: "slot of {part} dropped",
    SLOT_ADVANCE: "slot of {part} advanced",
    READ_ONLY: "database {part} read-only for {for_s:.1f} s",
    LOCK_OUT: "another password at {part}'s database for {for_s:.1f} s",
    FORGET: "records of {part} deleted that were read",
    JUNK: "junk on {part}",
    PARTITIONS: "partitions added to {part}",
    CLOCK: "clock of {part} {off_s:+g} s off for {for_s:.1f} s",
}


class ChaosError(ValueError):
    """Invalid options; the text is one line for a person."""


@dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes:
        minutes: of load.
        seed: of all choices.
        kill: the parts that are hit.
        pause: freeze them too.
        duplicates: write records of topics again, and send a tenth of the requests twice.
        provider_faults: the payment provider answers slowly, and often not at all.
        rolling: no faults, but every service restarted one after another, with a second instance meanwhile.
        operators: also what people do to databases, topics and clocks.
        rate: requests a second.
        secure: on a secured stack.
        through_api: the load comes through the HTTP API, which is hit too.

    Raises:
        ChaosError: one is invalid.
    """

    minutes: float = 1.0
    seed: int = 1
    kill: tuple[str, ...] = PARTS
    pause: bool = False
    duplicates: bool = False
    provider_faults: bool = False
    rolling: bool = False
    operators: bool = False
    rate: float = 100.0
    secure: bool = False
    through_api: bool = False

    def __post_init__(self) -> None:
        if not WARM_UP_S + CALM_S < self.duration_s <= 24 * 3600:
            raise ChaosError(f"minutes {self.minutes:g} must be more than 0.3, and a day at the most")
        if not 1 <= self.rate <= 2_000:
            raise ChaosError(f"rate {self.rate:g} must be from 1 to 2000 requests a second")
        if unknown := set(self.kill) - set(PARTS):
            raise ChaosError(f"there is no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
        if self.rolling and (self.pause or self.operators):
            raise ChaosError("rolling restarts are no faults: leave out --pause and --operators, or --rolling")
        if self.rolling and self.through_api:
            raise ChaosError("a rolling restart moves the API to another address: leave out --through-api")
        if not self.kill:
            raise ChaosError(f"nothing to kill: name some of {', '.join(PARTS)}")

    @property
    def duration_s(self) -> float:
        """Of the load, seconds."""
        return self.minutes * 60


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        at_s: seconds after the load began.
        kind: :data:`KILL` …
        part: what it hits; a topic for :data:`REPEAT`, :data:`FORGET`, :data:`JUNK` and :data:`PARTITIONS`.
        failpoint: where it dies, as ``SETTLE_FAILPOINT`` says it.
        for_s: how long it lasts, where it has an end, seconds.
        off_s: by how much a clock is ahead, seconds.
    """

    at_s: float
    kind: str
    part: str
    failpoint: str | None = None
    for_s: float = 0.0
    off_s: float = 0.0

    def in_words(self) -> str:
        """What is done."""
        return _WORDS[self.kind].format_map(vars(self))


def plan(options: Options) -> list[Fault]:
    """The faults in order of time."""
    return list(_rolling(options) if options.rolling else _faults(options))


def _faults(options: Options) -> Iterator[Fault]:
    rng = random.Random(options.seed)
    at_s, end_s = WARM_UP_S, options.duration_s - CALM_S
    parts = (*options.kill, *(API_PARTS if options.through_api else ()))
    for victim in _victims(rng, (*parts, *(OPERATORS if options.operators else ()))):
        fault = (_operator if victim in OPERATORS else _fault)(rng, victim, round(at_s, 1), options)
        if at_s + fault.for_s > end_s:
            return
        yield fault
        if options.duplicates and rng.random() < 0.3:
            topic = rng.choice(TOPICS)
            yield Fault(round(at_s + fault.for_s + 0.5, 1), REPEAT, topic.name)
        at_s += fault.for_s + rng.uniform(*_gap_s(victim))


def _victims(rng: random.Random, names: Sequence[str]) -> Iterator[str]:
    """Each once, in random order; then at random."""
    return chain(rng.sample(names, len(names)), iter(lambda: rng.choice(names), None))


def _gap_s(victim: str) -> tuple[float, float]:
    if victim in OPERATORS:
        return GAP_AFTER_OPERATOR_S
    return GAP_AFTER_STORE_S if victim in ("kafka", "postgres", *API_PARTS[1:]) else GAP_S


def _fault(rng: random.Random, victim: str, at_s: float, options: Options) -> Fault:
    part = rng.choice(tuple(SERVERS.values())) if victim == "postgres" else victim
    kinds = [KILL, KILL, STOP]
    places = [
        name for name in FAILPOINTS if name.startswith(f"{part}.") and not name.endswith("dead-letters-sent")
    ]
    kinds += [FAILPOINT] * 2 if places else []
    kinds += [FREEZE] * 2 if options.pause else []
    kind = rng.choice(kinds)
    if kind == FAILPOINT:
        return Fault(at_s, kind, part, f"{rng.choice(places)}:{rng.randint(1, FAILPOINT_COUNT_MAX)}")
    return Fault(at_s, kind, part, for_s=round(rng.uniform(*FREEZE_S), 1) if kind == FREEZE else 0.0)


def _operator(rng: random.Random, kind: str, at_s: float, _: Options) -> Fault:
    """An operator's fault of this kind."""
    if kind in (FORGET, JUNK, PARTITIONS):
        return Fault(at_s, kind, rng.choice(TOPICS_READ))
    if kind == CLOCK:
        off_s = rng.choice((-CLOCK_OFF_S, CLOCK_OFF_S))
        return Fault(at_s, kind, rng.choice(CLOCKS), for_s=round(rng.uniform(*CLOCK_FOR_S), 1), off_s=off_s)
    refusing_s = round(rng.uniform(*REFUSING_S), 1) if kind in (READ_ONLY, LOCK_OUT) else 0.0
    return Fault(at_s, kind, rng.choice(tuple(READ_BY)), for_s=refusing_s)


def _rolling(options: Options) -> Iterator[Fault]:
    """Each service in turn, evenly over the time there is, again and again where there is time."""
    rng = random.Random(options.seed)
    order = rng.sample(SERVICES, len(SERVICES))
    spare_s = options.duration_s - WARM_UP_S - CALM_S
    rounds = max(int(spare_s // 60), 1)
    step_s = spare_s / (rounds * len(order))
    for number, part in enumerate(order * rounds):
        yield Fault(round(WARM_UP_S + number * step_s, 1), ROLL, part)
