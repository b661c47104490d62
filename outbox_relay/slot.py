"""Is everything there that the stream needs: table, publication, slot? And what was committed before them?

A new slot starts at *now*, so rows that were committed earlier would be lost. Therefore the slot is made in
two steps: a temporary one, whose snapshot shows exactly the rows that its stream will not, and when Kafka has
those, a permanent copy of it. A relay that dies half-way leaves nothing behind and begins again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from outbox_relay.columns import Columns, find_columns
from outbox_relay.errors import SetupError, SlotBusyError
from outbox_relay.pgoutput import COLUMNS, OutboxRow
from outbox_relay.position import parse_lsn
from outbox_relay.replication import ReplicationConnection
from outbox_relay.slot_name import NAME_LENGTH_MAX
from outbox_relay.table import oldest_us, select_rows

PUBLICATION = "settle_outbox"

_FIND_PUBLICATION = """
    SELECT p.pubinsert, t.tablename IS NOT NULL
    FROM pg_publication p
    LEFT JOIN pg_publication_tables t
        ON t.pubname = p.pubname AND t.schemaname = 'public' AND t.tablename = 'outbox'
    WHERE p.pubname = {name}
"""
_CREATE_PUBLICATION = """
    CREATE PUBLICATION {name} FOR TABLE public.outbox{columns}
    WITH (publish = 'insert', publish_via_partition_root = true)
"""
# Only what a record is made of: to write out a timestamp for each row costs the server more than the rest of it.
COLUMN_LISTS_SINCE = 150_000
_FIND_SLOT = """
    SELECT plugin, database = current_database(), active_pid, wal_status, confirmed_flush_lsn::text
    FROM pg_replication_slots WHERE slot_name = {name}
"""
# The older spelling, without parentheses, is understood by every version from 14 to 18.
_CREATE_TEMPORARY = "CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput USE_SNAPSHOT"
_MAKE_PERMANENT = "SELECT pg_copy_logical_replication_slot({temporary}, {name}, false)"
_DROP = "SELECT pg_drop_replication_slot({name})"
_LOCK = "SELECT pg_try_advisory_lock(hashtext({name}))"
# A standby of the database keeps a copy of the slot, where it is set up to (sync_replication_slots).
_ENABLE_FAILOVER = "ALTER_REPLICATION_SLOT {name} (FAILOVER true)"
FAILOVER_SINCE = 170_000


@dataclass(frozen=True)
class Slot:
    """A replication slot that is there to be read.

    Attributes:
        name: as the server knows it.
        confirmed_lsn: everything before it has been published.
    """

    name: str
    confirmed_lsn: int


def find_slot(connection: ReplicationConnection, name: str, columns: Columns) -> Slot | None:
    """Make sure of the publication, and find the slot; None if it has yet to be made.

    One that the server has invalidated (``max_slot_wal_keep_size``) is dropped: a new one finds in the table what
    the topics lack.

    Args:
        connection: to the database.
        name: of the slot.
        columns: of the outbox.

    Raises:
        SlotBusyError: another relay reads the slot.
        SetupError: the role may not, or what exists under these names is something else.
    """
    _ensure_publication(connection, columns)
    found = _one(connection, _FIND_SLOT, name=name)
    if found is None:
        return None
    plugin, in_this_database, active_pid, wal_status, confirmed = found
    if plugin != "pgoutput" or not in_this_database:
        raise SetupError(f"slot {name} exists, but for another plugin or database; drop it or name another")
    if wal_status == "lost":
        _one(connection, _DROP, name=name)
        return None
    if active_pid is not None:
        raise SlotBusyError(f"slot {name} is read by another relay (backend {active_pid}); standing by")
    return Slot(name, parse_lsn(confirmed))


class NewSlot:
    """A slot in the making: the rows that precede it, then the permanent slot.

    Attributes:
        name: of the slot once it is there to stay.
        starts_at_lsn: rows committed after this will come from the stream.
    """

    def __init__(self, connection: ReplicationConnection, name: str, temporary: str, starts_at: str) -> None:
        self.starts_at_lsn = parse_lsn(starts_at)
        self._connection = connection
        self.name = name
        self._temporary = temporary
        self._columns = find_columns(connection)

    def oldest_us(self) -> int:
        """When the oldest of the rows before was written, microseconds since the Unix epoch; 0 if nobody knows."""
        return oldest_us(self._connection, self._columns)

    def rows_before(self) -> Iterator[OutboxRow]:
        """Every row that was committed before the slot, streamed in the order of insertion."""
        copy_rows = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(select_rows(self._columns))
        with self._connection.cursor().copy(copy_rows) as copy:
            copy.set_types(["bytea"] * len(OutboxRow._fields))
            for values in copy.rows():
                yield OutboxRow._make(values)

    def make_permanent(self) -> Slot:
        """Everything before the slot is published: let it exist."""
        connection = self._connection
        connection.execute("COMMIT")
        _one(connection, _MAKE_PERMANENT, temporary=self._temporary, name=self.name)
        # It would hold the log back at this place for as long as the connection lives.
        _one(connection, _DROP, name=self._temporary)
        if connection.info.server_version >= FAILOVER_SINCE:
            connection.execute(sql.SQL(_ENABLE_FAILOVER).format(name=sql.Identifier(self.name)))
        return Slot(self.name, self.starts_at_lsn)


def reserve_slot(connection: ReplicationConnection, name: str) -> None:
    """Be the only one who makes this slot, for as long as the connection lives.

    Raises:
        SlotBusyError: another relay is making it.
    """
    if not _one(connection, _LOCK, name=name)[0]:
        raise SlotBusyError(f"another relay is making slot {name}; standing by")


@contextmanager
def new_slot(connection: ReplicationConnection, name: str) -> Iterator[NewSlot]:
    """Begin a reserved slot; it stays only if :meth:`NewSlot.make_permanent` is called.

    Waits for transactions that are already running, as PostgreSQL must.

    Raises:
        SetupError: the role may not, or the server has no slot to spare or no logical WAL.
    """
    temporary = f"{name[: NAME_LENGTH_MAX - 12]}_{connection.info.backend_pid}"
    connection.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    try:
        created = _one(connection, _CREATE_TEMPORARY, identifiers=True, name=temporary)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupError(f"{_first_line(error)}: ALTER ROLE {connection.info.user} REPLICATION") from None
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise SetupError(f"{_first_line(error)}: set wal_level = logical and restart PostgreSQL") from None
    yield NewSlot(connection, name, temporary, created[1])


def _ensure_publication(connection: ReplicationConnection, columns: Columns) -> None:
    found = _one(connection, _FIND_PUBLICATION, name=PUBLICATION)
    if found is None:
        names = ", ".join(name for name in COLUMNS if name in columns)
        listed = f" ({names})" if connection.info.server_version >= COLUMN_LISTS_SINCE else ""
        statement = " ".join(_CREATE_PUBLICATION.format(name=PUBLICATION, columns=listed).split())
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege as error:
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
