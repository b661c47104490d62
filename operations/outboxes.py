"""The outboxes of the services: where each stands, its dead rows, and its replication slot."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, Literal

import msgspec
import psycopg

from contracts.postgres import session
from outbox_relay.dead import DeadRow, dead_rows, discard, retry
from outbox_relay.errors import RelayError
from outbox_relay.names import source_name
from outbox_relay.slot import drop_slot
from outbox_relay.slot_name import slot_name
from outbox_relay.status import OutboxStatus, outbox_status

RETRY: Final = "retry"
DISCARD: Final = "discard"

Action = Literal["retry", "discard"]

_ACT = {RETRY: retry, DISCARD: discard}


class Dead(msgspec.Struct, frozen=True):
    """A row that could not be published: its service, the name of its database, and itself."""

    service: str
    source: str
    row: DeadRow


class DeadName(msgspec.Struct, frozen=True):
    """Which dead row: the outbox's service, and :attr:`outbox_relay.dead.DeadRow.number`, never given twice."""

    service: str
    number: int


class Done(msgspec.Struct, frozen=True):
    """What an action did about one dead row; an error in one line where it did nothing."""

    name: DeadName
    error: str | None = None


def statuses(dsns: Mapping[str, str], topics: AbstractSet[str] | None) -> list[OutboxStatus]:
    """Where each outbox stands.

    Args:
        dsns: by service.
        topics: those that Kafka has; None where it could not be asked.

    Raises:
        psycopg.OperationalError: a database does not answer.
        RelayError: one has no outbox.
    """
    return [outbox_status(connection, topics) for _, _, connection in _connections(dsns)]


_OLDEST = "SELECT extract(epoch FROM clock_timestamp() - min(created_at))::float8 FROM public.outbox"


def oldest_s(connection: psycopg.Connection[Any]) -> float | None:
    """The age of the oldest row of an outbox, seconds; None where it is empty. Published rows are soon removed.

    Raises:
        psycopg.OperationalError: the database does not answer.
    """
    (age_s,) = connection.execute(_OLDEST).fetchone() or (None,)
    return age_s


def all_dead(dsns: Mapping[str, str]) -> list[Dead]:
    """The dead rows of every outbox, of each the oldest first.

    Raises:
        psycopg.OperationalError: a database does not answer.
    """
    return [
        Dead(service, source, row)
        for service, source, connection in _connections(dsns)
        for row in dead_rows(connection)
    ]


def act(dsns: Mapping[str, str], action: Action, names: Sequence[DeadName]) -> list[Done]:
    """Retry or discard exactly these rows, each by itself, and say what came of each.

    A row has a number of its own, so what dies after the rows were chosen is not among them, even with an ID that
    was chosen. Safe to repeat: a row that is not dead any more is an error of its own.

    Args:
        dsns: by service.
        action: ``retry`` puts a row back at the end of its outbox, ``discard`` deletes it for good.
        names: of the rows.

    Raises:
        psycopg.OperationalError: a database does not answer; what was done until then stays done.
    """
    errors: dict[DeadName, str | None] = {one: f"there is no service {one.service}" for one in names}
    chosen = {one.service for one in names} & dsns.keys()
    for service, _, connection in _connections({service: dsns[service] for service in chosen}):
        rows = {row.number: row for row in dead_rows(connection)}
        of_service = [one for one in dict.fromkeys(names) if one.service == service]
        there = [rows[one.number] for one in of_service if one.number in rows]
        done = _act_on(connection, action, there) if there else {}
        errors |= {one: done.get(one.number, "it is not among the dead rows") for one in of_service}
    return [Done(one, errors[one]) for one in names]


def _act_on(connection: psycopg.Connection[Any], action: Action, rows: Sequence[DeadRow]) -> dict[int, str | None]:
    """The error of each row, by its number; where one of several is refused, the halves are tried."""
    try:
        taken = Counter(_ACT[action](connection, [row.number for row in rows]))
    except RelayError as error:
        if len(rows) == 1:
            return {rows[0].number: str(error)}
        middle = len(rows) // 2
        return _act_on(connection, action, rows[:middle]) | _act_on(connection, action, rows[middle:])
    found: dict[int, str | None] = {}
    for row in rows:
        found[row.number] = None if taken[row.name] else "somebody else took it meanwhile"
        taken[row.name] -= 1
    return found


def drop(dsn: str) -> tuple[str, bool]:
    """Drop the slot that a relay has in a database; returns its name, and whether there was one.

    Raises:
        RelayError: a relay reads it, or the role may not.
        psycopg.OperationalError: the database does not answer.
    """
    with session(dsn, autocommit=True) as connection:
        name = slot_name(connection)
        return name, drop_slot(connection, name)


def _connections(dsns: Mapping[str, str]) -> Iterator[tuple[str, str, psycopg.Connection[Any]]]:
    """The databases, one after the other: the service, the source's name, and a connection."""
    for service, dsn in dsns.items():
        with session(dsn, autocommit=True) as connection:
            yield service, source_name(dsn), connection
