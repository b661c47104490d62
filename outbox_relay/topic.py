"""The topic of a row, by its ``aggregatetype`` and the outbox's route; in Settle's own ``<aggregatetype>.events``.

Debezium's router names topics likewise when so configured.
"""

import re

from outbox_relay.errors import UnpublishableError
from outbox_relay.outbox import OUTBOX, Outbox, Route
from outbox_relay.row import OutboxRow

# What Kafka allows.
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_NOT_A_NAME = (".", "..")
# A longer value makes no name, whatever the route: what is matched against it is bounded.
VALUE_BYTES_MAX = 1_000
# Of a name that is none, as much as tells which it is.
_SHOWN_MAX = 60


def topic_named(aggregate_type: bytes, route: Route = OUTBOX.route) -> str | None:
    """The topic of rows with this ``aggregatetype``; None where no topic can have that name."""
    if len(aggregate_type) > VALUE_BYTES_MAX:
        return None
    try:
        name = route.name(aggregate_type.decode())
    except UnicodeDecodeError:
        return None
    return name if is_topic_name(name) else None


def is_topic_name(name: str) -> bool:
    """Whether a topic can have that name."""
    return _NAME.fullmatch(name) is not None and name not in _NOT_A_NAME


def topic_of(row: OutboxRow, lsn: int, outbox: Outbox = OUTBOX) -> str:
    """The topic of a row that was committed at ``lsn``.

    Raises:
        UnpublishableError: no topic can have that name.
    """
    if outbox.route.topic is not None:
        return outbox.route.topic
    column, value = outbox.columns.aggregatetype, row.aggregate_type
    if value is None:
        raise UnpublishableError(row, lsn, f"{column} is NULL, which makes no topic name")
    topic = topic_named(value, outbox.route)
    if topic is None:
        raise UnpublishableError(row, lsn, f"{column} {_shown(value)} makes no topic name")
    return topic


def _shown(name: bytes) -> str:
    """A name for a person: in quotes, with escapes for what cannot be seen, and cut if it is long."""
    text = name.decode(errors="backslashreplace")
    return ascii(text) if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]!a}... ({len(name):,} bytes)"
