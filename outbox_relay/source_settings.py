"""The settings of one source: which outbox of which database, how it is read, and which Kafka has its topics."""

from dataclasses import dataclass, field
from typing import Literal

from outbox_relay.outbox import OUTBOX, Outbox

ReaderName = Literal["wal", "polling"]


@dataclass(frozen=True)
class SourceSettings:
    """What one thread of the relay carries.

    Attributes:
        dsn: of the database.
        bootstrap: Kafka, ``host:port[,host:port…]``.
        outbox: the table and all that belongs to it.
        reader: how it is read.
        cleanup: whether published rows are removed.
        fencing: whether records are sent in transactions, which fence off a relay that froze.
        initial: which rows from before a new slot are published: ``all``, ``none``, ``since=TIME``; None: those
            that are left, or that the topics would know.
        poll_interval_s: polling: pause between two looks, seconds.
        name: of the source; None: the database's, and the table's.
    """

    dsn: str = field(repr=False)
    bootstrap: str
    outbox: Outbox = OUTBOX
    reader: ReaderName = "wal"
    cleanup: bool = True
    fencing: bool = False
    initial: str | None = None
    poll_interval_s: float = 1.0
    name: str | None = None
