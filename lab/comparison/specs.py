"""The static description of each approach: its modules, databases, workers and failpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from contracts.failpoints import FAILPOINTS
from contracts.services import READ_BY
from lab.approaches import event_sourcing, monolith, naive, outbox, two_phase_commit
from stack.supervisor import SERVICES


@dataclass(frozen=True)
class Spec:
    """The static description of an approach.

    Attributes:
        name: in files and options.
        title: for people, short.
        pages: the modules and packages of which it is made.
        separate: whether account and payment have databases of their own.
        history: whether every step stays on record.
        publishes: whether it publishes events to Kafka.
        finished: when a withdrawal is finished, in words.
        failpoints: where a client's process may die.
        halfway: the failpoint half-way, at which most is undecided.
        schemas: SQL by role of a database.
        workers: processes beside the client.
        services: of the stack, without which it does not run.
        kafka_trips: how often its caller waits for Kafka.
    """

    name: str
    title: str
    pages: tuple[str, ...]
    separate: bool
    history: bool
    publishes: bool
    finished: str
    failpoints: tuple[str, ...] = ()
    halfway: str = ""
    schemas: Mapping[str, str] = field(default_factory=dict)
    workers: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    kafka_trips: int = 0

    @property
    def databases(self) -> tuple[str, ...]:
        """The databases it uses, by role."""
        return tuple(self.schemas) or tuple(READ_BY)

    @property
    def processes(self) -> int:
        """Processes of its own beside the client: workers and services; no servers."""
        return len(self.workers) + len(self.services)


_OF_WORKERS = ("outbox.published", "outbox.paid")


def _of(page: str) -> tuple[str, ...]:
    """The failpoints of a page that a client comes by."""
    return tuple(name for name in FAILPOINTS if name.startswith(f"{page}.") and name not in _OF_WORKERS)


_OUTBOX_WORDS = "once its event is in Kafka, acknowledged"

SPECS = {
    spec.name: spec
    for spec in (
        Spec(
            "monolith",
            "Monolith",
            ("lab/approaches/monolith.py",),
            separate=False,
            history=False,
            publishes=False,
            finished="at COMMIT",
            failpoints=_of("monolith"),
            halfway="monolith.deducted",
            schemas={"everything": monolith.SCHEMA},
        ),
        Spec(
            "two_phase_commit",
            "Two-phase commit",
            ("lab/approaches/two_phase_commit.py", "lab/approaches/recovery.py"),
            separate=True,
            history=False,
            publishes=False,
            finished="decided by a row in the coordinator's log, finished once all have committed",
            failpoints=_of("two-phase-commit"),
            halfway="two-phase-commit.prepared-notification",
            schemas=two_phase_commit.SCHEMAS,
        ),
        Spec(
            "saga",
            "Saga",
            ("lab/approaches/saga.py", "processors", "producers/client.py", "outbox_relay"),
            separate=True,
            history=True,
            publishes=True,
            finished="once the saga service has stored WithdrawalCompleted or -Compensated",
            services=SERVICES,
            kafka_trips=1,
        ),
        Spec(
            "event_sourcing",
            "Event sourcing",
            ("lab/approaches/event_sourcing.py",),
            separate=True,
            history=True,
            publishes=False,
            finished="once its last event is stored",
            failpoints=_of("event-sourcing"),
            halfway="event-sourcing.deducted",
            schemas={"account": event_sourcing.SCHEMA, "payment": event_sourcing.PAYMENT_SCHEMA},
        ),
        Spec(
            "outbox_polling",
            "Outbox, polling",
            ("lab/approaches/outbox.py",),
            separate=True,
            history=False,
            publishes=True,
            finished=_OUTBOX_WORDS,
            failpoints=_of("outbox"),
            halfway="outbox.written",
            schemas={"account": outbox.SCHEMA, "payment": outbox.PAYMENT_SCHEMA},
            workers=("polling worker", "payment service"),
        ),
        Spec(
            "outbox_wal",
            "Outbox, WAL",
            ("lab/approaches/outbox.py", "outbox_relay"),
            separate=True,
            history=False,
            publishes=True,
            finished=_OUTBOX_WORDS,
            failpoints=_of("outbox"),
            halfway="outbox.written",
            schemas={"account": outbox.WAL_SCHEMA, "payment": outbox.PAYMENT_SCHEMA},
            workers=("relay", "payment service"),
        ),
        Spec(
            "naive",
            "Naive",
            ("lab/approaches/naive.py",),
            separate=True,
            history=False,
            publishes=True,
            finished="nobody can say",
            failpoints=_of("naive"),
            halfway="naive.deducted",
            schemas={"account": naive.SCHEMA, "payment": naive.PAYMENT_SCHEMA},
            workers=("naive payment service",),
            kafka_trips=1,
        ),
    )
}
"""Every approach, in the order of the comparison."""
