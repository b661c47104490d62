"""Is everything there that the stream needs: table, publication, slot? And what was committed before them?

A new slot starts at *now*, so rows that were committed earlier would be lost. Therefore the slot is made in
two steps: a temporary one, whose snapshot shows exactly the rows that its stream will not, and when Kafka has
those, a permanent copy of it. A relay that dies half-way leaves nothing behind and begins again.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from outbox_relay.errors import OutboxMissingError, SetupError, SlotBusyError
from outbox_relay.ledger import parse_lsn
from outbox_relay.pgoutput import OutboxRow
from outbox_relay.replication import ReplicationConnection

PUBLICATION = "settle_outbox"
SLOT_PREFIX = "settle_outbox_"
NAME_LENGTH_MAX = 63

_FIND_OUTBOX = "SELECT to_regclass('public.outbox') IS NOT NULL"
_FIND_PUBLICATION = """
    SELECT p.pubinsert, t.tablename IS NOT NULL
    FROM pg_publication p
    LEFT JOIN pg_publication_tables t
        ON t.pubname = p.pubname AND t.schemaname = 'public' AND t.tablename = 'outbox'
    WHERE p.pubname = {name}
"""
_CREATE_PUBLICATION = """
    CREATE PUBLICATION {name} FOR TABLE public.outbox
    WITH (publish = 'insert', publish_via_partition_root = true)
"""
_FIND_SLOT = """
    SELECT plugin, database = current_database(), active_pid, wal_status, confirmed_flush_lsn::text
    FROM pg_replication_slots WHERE slot_name = {name}
"""
# The older spelling, without parentheses, is understood by every version from 14 to 18.
_CREATE_TEMPORARY = "CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput USE_SNAPSHOT"
_MAKE_PERMANENT = "SELECT pg_copy_logical_replication_slot({temporary}, {name}, false)"
_DROP_TEMPORARY = "SELECT pg_drop_replication_slot({temporary})"
_LOCK = "SELECT pg_try_advisory_lock(hashtext({name}))"
# Commit order is not on record for these. UUIDs of version 7 follow the insert even where the transaction that
# started first inserted last; with random IDs the start of the transaction is the best there is.
_COPY_OUTBOX = """
    COPY (
        SELECT id::text, aggregatetype, aggregateid, type, payload::text, traceparent, tracestate
        FROM public.outbox
        ORDER BY CASE WHEN substr(id::text, 15, 1) = '7' THEN id::text COLLATE "C" END NULLS FIRST, created_at, id
    ) TO STDOUT (FORMAT BINARY)
"""


@dataclass(frozen=True)
class Slot:
    """A replication slot that is there to be read.

    Attributes:
        name: as the server knows it.
        confirmed_lsn: everything before it has been published.
    """

    name: str
    confirmed_lsn: int


def default_slot_name(database: str) -> str:
    """``settle_outbox_<database>``; slot names are unique per server and know only a-z, 0-9 and ``_``."""
    return (SLOT_PREFIX + re.sub(r"[^a-z0-9_]", "_", database.lower()))[:NAME_LENGTH_MAX]


def find_slot(connection: ReplicationConnection, name: str) -> Slot | None:
    """Make sure of table and publication, and find the slot; None if it has yet to be made.

    Raises:
        OutboxMissingError: no table ``public.outbox`` (yet).
        SlotBusyError: another relay reads the slot.
        SetupError: the role may not, or what exists under these names is something else.
    """
    if not _one(connection, _FIND_OUTBOX)[0]:
        raise OutboxMissingError("there is no table public.outbox yet; waiting for the service's migration")
    _ensure_publication(connection)
    found = _one(connection, _FIND_SLOT, name=name)
    if found is None:
        return None
    plugin, in_this_database, active_pid, wal_status, confirmed = found
    if plugin != "pgoutput" or not in_this_database:
        raise SetupError(f"slot {name} exists, but for another plugin or database; drop it or name another")
    if wal_status == "lost":
        raise SetupError(f"slot {name} was invalidated by the server (max_slot_wal_keep_size)")
    if active_pid is not None:
        raise SlotBusyError(f"slot {name} is read by another relay (backend {active_pid}); standing by")
    return Slot(name, parse_lsn(confirmed))


class NewSlot:
    """A slot in the making: the rows that precede it, then the permanent slot.

    Attributes:
        starts_at_lsn: rows committed after this will come from the stream.
    """

    def __init__(self, connection: ReplicationConnection, name: str, temporary: str, starts_at: str) -> None:
        self.starts_at_lsn = parse_lsn(starts_at)
        self._connection = connection
        self._name = name
        self._temporary = temporary

    def rows_before(self) -> Iterator[OutboxRow]:
        """Every row that was committed before the slot, streamed in the order of insertion."""
        with self._connection.cursor().copy(_COPY_OUTBOX) as copy:
            # As bytes: what PostgreSQL sends for text is what Kafka gets.
            copy.set_types(["bytea"] * len(OutboxRow._fields))
            for values in copy.rows():
                yield OutboxRow._make(values)

    def make_permanent(self) -> Slot:
        """Everything before the slot is published: let it exist."""
        self._connection.execute("COMMIT")
        _one(self._connection, _MAKE_PERMANENT, temporary=self._temporary, name=self._name)
        # It would hold the log back at this place for as long as the connection lives.
        _one(self._connection, _DROP_TEMPORARY, temporary=self._temporary)
        return Slot(self._name, self.starts_at_lsn)


@contextmanager
def new_slot(connection: ReplicationConnection, name: str) -> Iterator[NewSlot]:
    """Begin a slot; it stays only if :meth:`NewSlot.make_permanent` is called.

    Waits for transactions that are already running, as PostgreSQL must.

    Raises:
        SlotBusyError: another relay is making this slot.
        SetupError: the role may not, or the server has no slot to spare or no logical WAL.
    """
    if not _one(connection, _LOCK, name=name)[0]:
        raise SlotBusyError(f"another relay is making slot {name}; standing by")
    temporary = f"{name[: NAME_LENGTH_MAX - 12]}_{connection.info.backend_pid}"
    connection.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    try:
        created = _one(connection, _CREATE_TEMPORARY, identifiers=True, name=temporary)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupError(f"{_first_line(error)}: ALTER ROLE {connection.info.user} REPLICATION") from None
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise SetupError(f"{_first_line(error)}: set wal_level = logical and restart PostgreSQL") from None
    yield NewSlot(connection, name, temporary, created[1])


def _ensure_publication(connection: ReplicationConnection) -> None:
    found = _one(connection, _FIND_PUBLICATION, name=PUBLICATION)
    if found is None:
        try:
            connection.execute(sql.SQL(_CREATE_PUBLICATION).format(name=sql.Identifier(PUBLICATION)))
        except psycopg.errors.InsufficientPrivilege as error:
            statement = " ".join(_CREATE_PUBLICATION.format(name=PUBLICATION).split())
            raise SetupError(f"{_first_line(error)}: let the table's owner run: {statement}") from None
        except psycopg.errors.DuplicateObject:
            return  # another relay was faster
    elif found != (True, True):
        raise SetupError(
            f"publication {PUBLICATION} does not publish inserts of public.outbox; drop it and it is made anew"
        )


def _one(
    connection: ReplicationConnection, statement: LiteralString, *, identifiers: bool = False, **names: str
) -> Any:
    """The only row of a statement; replication connections take no parameters, so names are quoted in."""
    quote = sql.Identifier if identifiers else sql.Literal
    query = sql.SQL(statement).format(**{key: quote(name) for key, name in names.items()})
    return connection.execute(query).fetchone()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
