"""The results of a comparison: its figures, as they are written to JSON. Times in the unit of the name."""

from msgspec import Struct


class Latency(Struct, frozen=True):
    """From the call on."""

    p50_ms: float
    p99_ms: float


class Load(Struct, frozen=True):
    """Many clients at once.

    Attributes:
        withdrawals: how many, of
        clients: each asking for the next when it has its answer.
        per_second: finished, from the first call to the last end.
        accepted: until the caller had an answer that it may rely on.
        finished: until the withdrawal was finished.
        retries: answers that were "try again".
        fsyncs_each: of the write-ahead log, by PostgreSQL's own count, for one withdrawal.
        wal_bytes_each: written to the write-ahead log for one withdrawal. Neither is counted in a quick run.
        right: whether every cent was where it belonged afterwards.
    """

    withdrawals: int
    clients: int
    per_second: float
    accepted: Latency
    finished: Latency
    retries: int
    fsyncs_each: float | None
    wal_bytes_each: float | None
    right: bool


class Consistency(Struct, frozen=True):
    """What a reader of the account's and the payment's tables saw: money gone, and no payment.

    Attributes:
        withdrawals: how many were made, at
        per_second: a pace that leaves everybody time.
        seen: how many the reader caught in between.
        median_ms: for how long, over all of them; 0 for those it did not catch.
        longest_ms: the worst.
        resolution_ms: time between two looks.
    """

    withdrawals: int
    per_second: float
    seen: int
    median_ms: float
    longest_ms: float
    resolution_ms: float


class Fault(Struct, frozen=True):
    """What a fault did.

    Attributes:
        lost_minor: taken and paid to nobody.
        doubled_minor: taken and paid, more than anybody asked for.
        unfunded_minor: paid and never taken.
        for_a_person: withdrawals that stay wrong until somebody looks after them.
        recovery_s: until all was well again; None if it never was.
        healed_by: who did that.
        asked: requests of others while the fault was there,
        accepted: of these, how many had a good answer,
        waited: how many still waited when somebody recovered,
        waited_s_max: the longest, and
        locks_max: how many stood before a lock at the same time, by PostgreSQL's own view.
        published: records in Kafka for each withdrawal; None without Kafka.
        away_ms: how long the money was gone although nobody was paid.
        note: what happened, in words.
    """

    note: str
    lost_minor: int = 0
    doubled_minor: int = 0
    unfunded_minor: int = 0
    for_a_person: int = 0
    recovery_s: float | None = None
    healed_by: str = ""
    asked: int = 0
    accepted: int = 0
    waited: int = 0
    waited_s_max: float = 0.0
    locks_max: int = 0
    published: float | None = None
    away_ms: float = 0.0

    @property
    def right(self) -> bool:
        """Whether every cent is where it belongs."""
        return not (self.lost_minor or self.doubled_minor or self.unfunded_minor)


class Facts(Struct, frozen=True):
    """What it takes.

    Attributes:
        code_lines: of its pages, without blanks, comments and docstrings.
        databases: it uses.
        processes: beside the client's, servers not counted.
        moving_parts: databases, processes and, if used, Kafka.
        round_trips: the caller waits for a server so many times.
        fsyncs: of the write-ahead log for one withdrawal alone; not counted in a quick run.
    """

    code_lines: int
    databases: int
    processes: int
    moving_parts: int
    round_trips: float
    fsyncs: float | None


class Result(Struct, frozen=True):
    """One approach.

    Attributes:
        faults: by the names of :data:`lab.comparison.faults.FAULTS`; None where it has no such part.
    """

    name: str
    title: str
    finished: str
    separate: bool
    history: bool
    publishes: bool
    facts: Facts
    load: Load
    consistency: Consistency
    faults: dict[str, Fault | None]

    @property
    def sound(self) -> bool:
        """Whether no fault lost, doubled or invented money, nor left work for a person."""
        known = [fault for fault in self.faults.values() if fault]
        return self.load.right and all(fault.right and not fault.for_a_person for fault in known)


class Advice(Struct, frozen=True):
    """For a need, the approach to take, and why: the figures that decided."""

    need: str
    name: str
    title: str
    why: str


class Comparison(Struct, frozen=True):
    """A whole run."""

    at: str
    machine: str
    versions: dict[str, str]
    settings: dict[str, float]
    took_s: float
    results: list[Result]
    advice: list[Advice]
