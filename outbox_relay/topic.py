"""Which topic does a row belong on? ``<aggregatetype>.events``, as Debezium's router names it when told to."""

import re

from outbox_relay.errors import UnpublishableError
from outbox_relay.pgoutput import OutboxRow

SUFFIX = ".events"
# What Kafka allows, less the suffix.
_NAME = re.compile(rb"[a-zA-Z0-9._-]{1,242}")


def topic_of(row: OutboxRow, lsn: int) -> str:
    """The topic of a row that was committed at ``lsn``.

    Raises:
        UnpublishableError: no topic can have that name.
    """
    if not _NAME.fullmatch(row.aggregate_type):
        name = row.aggregate_type.decode(errors="replace")
        raise UnpublishableError(row, lsn, f"aggregatetype {name!r} makes no topic name")
    return row.aggregate_type.decode() + SUFFIX
