"""The topic of a row, by its ``aggregatetype``: ``<aggregatetype>.events``, or ``….requests`` as it stands.

Debezium's router names topics likewise when so configured: one replacement for a database of events, another for
one of requests.
"""

import re

from outbox_relay.errors import UnpublishableError
from outbox_relay.row import OutboxRow

SUFFIX = ".events"
REQUESTS = ".requests"
"""The end of an ``aggregatetype`` that is the whole name of a topic: what is asked for is no event yet."""

# What Kafka allows, less the suffix.
_NAME = re.compile(rb"[a-zA-Z0-9._-]{1,242}")
# Of a name that is none, as much as tells which it is.
_SHOWN_MAX = 60


def topic_named(aggregate_type: bytes) -> str | None:
    """The topic of rows with this ``aggregatetype``; None where no topic can have that name."""
    if not _NAME.fullmatch(aggregate_type):
        return None
    name = aggregate_type.decode()
    return name if name.endswith(REQUESTS) else name + SUFFIX


def aggregate_type_of(topic: str) -> bytes:
    """The ``aggregatetype`` of rows for a topic."""
    return topic.removesuffix(SUFFIX).encode()


def topic_of(row: OutboxRow, lsn: int) -> str:
    """The topic of a row that was committed at ``lsn``.

    Raises:
        UnpublishableError: no topic can have that name.
    """
    name = row.aggregate_type
    if name is None:
        raise UnpublishableError(row, lsn, "aggregatetype is NULL, which makes no topic name")
    topic = topic_named(name)
    if topic is None:
        raise UnpublishableError(row, lsn, f"aggregatetype {_shown(name)} makes no topic name")
    return topic


def _shown(name: bytes) -> str:
    """A name for a person: in quotes, with escapes for what cannot be seen, and cut if it is long."""
    text = name.decode(errors="backslashreplace")
    return ascii(text) if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]!a}... ({len(name):,} bytes)"
