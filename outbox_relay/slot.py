"""The replication slot: lookup, creation and removal; and the rows committed before a new one.

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

from outbox_relay.batches import streamed
from outbox_relay.coverage import slot_gap
from outbox_relay.dead import living
from outbox_relay.errors import SetupError, SlotBusyError
from outbox_relay.managed import logical_level, replication_right
from outbox_relay.position import parse_lsn
from outbox_relay.replication import ReplicationConnection
from outbox_relay.row import OutboxRow
from outbox_relay.slot_name import NAME_LENGTH_MAX
from outbox_relay.table import Connection, Table, oldest_us, order_of, row_of, select_rows

_FIND_SLOT = "SELECT active_pid, confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = {name}"
# The older spelling, without parentheses, is understood by every version from 14 to 18.
_CREATE_TEMPORARY = "CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput USE_SNAPSHOT"
_MAKE_PERMANENT = "SELECT pg_copy_logical_replication_slot({temporary}, {name}, false)"
_DROP = "SELECT pg_drop_replication_slot({name})"
# A standby of the database keeps a copy of the slot, where it is set up to (sync_replication_slots).
_ENABLE_FAILOVER = "ALTER_REPLICATION_SLOT {name} (FAILOVER true)"
FAILOVER_SINCE = 170_000
_LACKS_FAILOVER = """
    SELECT count(*) > 0 FROM pg_replication_slots
    WHERE slot_name = {name} AND NOT failover AND NOT temporary AND wal_status <> 'lost'
        AND plugin = 'pgoutput' AND database = current_database()
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


def find_slot(connection: Connection, name: str) -> Slot | None:
    """The slot, if there is one without an active reader; made a failover slot, whoever made it.

    Raises:
        SlotBusyError: another relay reads the slot.
    """
    found = _one(connection, _FIND_SLOT, name=name)
    if found is None:
        return None
    active_pid, confirmed = found
    if active_pid is not None:
        raise SlotBusyError(f"slot {name} is read by another relay (backend {active_pid}); standing by")
    if lacks_failover(connection, name):
        _enable_failover(connection, name)
    return Slot(name, parse_lsn(confirmed or "0/0"))


def lacks_failover(connection: Connection, name: str) -> bool:
    """Whether there is such a slot of a relay's, and a standby would have no copy of it, though it could."""
    if connection.info.server_version < FAILOVER_SINCE:
        return False
    return bool(_one(connection, _LACKS_FAILOVER, name=name)[0])


def _enable_failover(connection: Connection, name: str) -> None:
    connection.execute(sql.SQL(_ENABLE_FAILOVER).format(name=sql.Identifier(name)))


def usable(connection: Connection, name: str) -> str | None:
    """Why an inactive slot can no longer be read; None where it can.

    Raises:
        SetupError: it is not the relay's.
    """
    gap = slot_gap(connection, name)
    if gap is not None and not gap.is_ours:
        raise SetupError(gap.reason)
    return gap.reason if gap is not None else None


def drop_slot(connection: Connection, name: str) -> bool:
    """Drop a slot, so that the server releases the log it retains; False where there is none.

    Raises:
        SlotBusyError: somebody reads it.
        SetupError: the role may not.
    """
    try:
        _one(connection, _DROP, name=name)
    except psycopg.errors.UndefinedObject:
        return False
    except psycopg.errors.ObjectInUse as error:
        raise SlotBusyError(_first_line(error)) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupError(f"{_first_line(error)}: {_right(connection)}") from None
    return True


class NewSlot:
    """A slot being created: the rows that precede it, then the permanent slot.

    Attributes:
        name: of the slot once it is there to stay.
        starts_at_lsn: rows committed after this will come from the stream.
    """

    def __init__(
        self, connection: ReplicationConnection, table: Table, name: str, temporary: str, starts_at: str
    ) -> None:
        self.starts_at_lsn = parse_lsn(starts_at)
        self._connection = connection
        self._table = table
        self.name = name
        self._temporary = temporary

    def oldest_us(self) -> int:
        """When the oldest of the rows before was written, microseconds since the Unix epoch; 0 if unknown."""
        return oldest_us(self._connection, self._table)

    def rows_before(self, condition: sql.Composable | None = None) -> Iterator[tuple[OutboxRow, int | None]]:
        """Every row that was committed before the slot, in order, and when it was written, if that is known.

        Args:
            condition: SQL for which rows, of those that were not dead then; None: all without a mark.
        """
        if condition is None:
            condition = self._table.unpublished
        else:
            # In this snapshot: what is discarded later is among the dead no more, and still among these rows.
            condition = sql.SQL("({}) AND {}").format(condition, living(self._connection, self._table))
        query = select_rows(self._table, order_of(self._connection, self._table), condition)
        for *values, created_us in streamed(self._connection, query, ["bytea"] * self._table.values + ["int8"]):
            yield row_of(values), created_us

    def make_permanent(self) -> Slot:
        """Make the slot permanent: everything before it is published."""
        connection = self._connection
        connection.execute("COMMIT")
        _one(connection, _MAKE_PERMANENT, temporary=self._temporary, name=self.name)
        # It would retain the log from this position for as long as the connection lives.
        _one(connection, _DROP, name=self._temporary)
        if connection.info.server_version >= FAILOVER_SINCE:
            _enable_failover(connection, self.name)
        return Slot(self.name, self.starts_at_lsn)


@contextmanager
def new_slot(connection: ReplicationConnection, table: Table, name: str) -> Iterator[NewSlot]:
    """Begin a slot; it stays only if :meth:`NewSlot.make_permanent` is called.

    Waits for transactions that are already running, as PostgreSQL must.

    Raises:
        SetupError: the role may not, or the server has no slot to spare or no logical WAL.
    """
    temporary = f"{name[: NAME_LENGTH_MAX - 12]}_{connection.info.backend_pid}"
    connection.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    try:
        created = _one(connection, _CREATE_TEMPORARY, identifiers=True, name=temporary)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupError(f"{_first_line(error)}: {_right(connection)}") from None
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        connection.execute("ROLLBACK")
        raise SetupError(f"{_first_line(error)}: {logical_level(connection)}") from None
    yield NewSlot(connection, table, name, temporary, created[1])


def _right(connection: Connection) -> str:
    """What gives the role the right that it lacks, once a transaction that failed for it is over."""
    connection.execute("ROLLBACK")
    return replication_right(connection, connection.info.user)


def _one(connection: Connection, statement: LiteralString, *, identifiers: bool = False, **names: str) -> Any:
    """The only row of a statement; replication connections take no parameters, so names are quoted in."""
    quote = sql.Identifier if identifiers else sql.Literal
    query = sql.SQL(statement).format(**{key: quote(name) for key, name in names.items()})
    return connection.execute(query).fetchone()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
