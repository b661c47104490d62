"""The outbox table as its database describes it: columns, order of rows, and the lock of its reader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from outbox_relay.columns import Columns, as_bytes, find_columns, is_content
from outbox_relay.debezium import values
from outbox_relay.errors import SetupError, SlotBusyError
from outbox_relay.formed import Former
from outbox_relay.identity import Key, digest
from outbox_relay.outbox import OUTBOX, ROLES, Outbox
from outbox_relay.position import Origin, parse_lsn, tag
from outbox_relay.quoting import quoted
from outbox_relay.row import OutboxRow
from outbox_relay.share import KINDS, condition

Connection = psycopg.Connection[Any]

IS_STANDBY = "the server is a standby, where nothing can be removed"
GIVE_PRIMARY = "give the primary's address"
_HIDES_ROWS = "SELECT row_security_active({name})"
_ORIGIN = """
    SELECT c.system_identifier::text, d.oid::int8, (extract(epoch FROM clock_timestamp()) * 1000000)::int8
    FROM pg_control_system() AS c, pg_database AS d WHERE d.datname = current_database()
"""
_MAY_DELETE = "SELECT has_table_privilege({name}, 'DELETE')"
_CURRENT_LSN = "SELECT pg_current_wal_insert_lsn()::text"
_FLUSH = """
    SELECT pg_logical_emit_message(true, 'settle-relay', '')
    WHERE pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()
"""
# Two who read the same outbox would overtake each other, also where one reads the log and the other the table.
_LOCK_KEY = "hashtext('settle-relay outbox')"
_LOCK_KEY_OF_ANOTHER = "hashtextextended('settle-relay outbox ' || {identity}, 0)"
_LOCK = "SELECT pg_try_advisory_lock({key})"
_IS_LOCKED = """
    EXISTS (
        SELECT FROM pg_locks JOIN pg_database ON oid = database AND datname = current_database()
        WHERE locktype = 'advisory' AND granted AND objsubid = 1
            AND (classid::int8 << 32) | objid::int8 = {key}::int8
    )
"""

# Who reads a share keeps off who reads all, and who splits the outbox otherwise.
_LOCK_SHARED = "SELECT pg_try_advisory_lock_shared({key})"
_LOCK_KEY_OF_A_SHARE = "hashtextextended('settle-relay outbox ' || {identity} || ' ' || {share}, 0)"
_SPLIT = "hashtext('settle-relay split ' || {identity})"
_LOCK_SPLIT = f"SELECT pg_try_advisory_lock_shared({_SPLIT}, {{of}})"
_IS_SPLIT_OTHERWISE = f"""
    SELECT EXISTS (
        SELECT FROM pg_locks JOIN pg_database ON oid = database AND datname = current_database()
        WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = {_SPLIT}::oid
            AND objid <> {{of}}::oid
    )
"""  # noqa: S608 made of constants

# Commit order is not on record in the table. UUIDs of version 7 follow the insert even where the transaction that
# started first inserted last; with other IDs the start of the transaction is the best there is.
_ALL_OF_VERSION_7 = "SELECT coalesce(bool_and(substr({id}::text, 15, 1) = '7'), true) FROM {table} WHERE {rows}"

# A time without a zone is in the writer's zone, which is unknown: the earliest possible instant is taken.
_CREATED_US: dict[str, LiteralString] = {
    "timestamptz": "(extract(epoch FROM {created_at}) * 1000000)::int8",
    "timestamp": "((extract(epoch FROM {created_at}) - 14 * 3600) * 1000000)::int8",
}
# Whatever else somebody wrote there ('infinity') says nothing, and neither does a time that is yet to come. A
# clock that is ahead by less than a minute is made up for where it matters.
_IF_SANE = """
    CASE WHEN {created_at} BETWEEN '1970-01-02' AND '9999-12-31'
        THEN CASE WHEN {us} < (extract(epoch FROM now()) + 60) * 1000000 THEN {us} END END
"""
_OLDEST_US = "SELECT CASE WHEN bool_and({us} IS NOT NULL) THEN min({us}) END FROM {table} WHERE {rows}"

ALL_ROWS = sql.SQL("true")


@dataclass(frozen=True)
class Table:
    """A description of the outbox table.

    Attributes:
        outbox: whose it is.
        columns: those of the outbox that it has.
        facts: more about all columns of the table, where records are shaped by them, and
        former: what makes these records.
    """

    outbox: Outbox
    columns: Columns
    facts: Mapping[str, values.Column] = field(default_factory=dict)
    former: Former | None = field(default=None, compare=False)

    @property
    def has_uuids(self) -> bool:
        """Whether IDs are UUIDs by type, which are unique wherever they come from."""
        return self.columns["id"].kind == "uuid"

    @property
    def key(self) -> Key:
        """The key by which a handled row is known."""
        return _row_id if self.has_uuids else digest

    @property
    def created_us(self) -> sql.Composable | None:
        """SQL for when a row was written or a little before, microseconds since the Unix epoch; None: unknown."""
        column = self.columns.get("created_at")
        expression = _CREATED_US.get(column.kind) if column is not None else None
        return self.outbox.sql(_IF_SANE, us=self.outbox.sql(expression)) if expression is not None else None

    @property
    def is_marked(self) -> bool:
        """Whether published rows carry a mark, which those who poll set."""
        return "published_at" in self.columns

    @property
    def mine(self) -> sql.Composable:
        """SQL for the rows of the outbox's share."""
        share = self.outbox.share
        if share is None:
            return ALL_ROWS
        found = condition(share, *self.columns[self.outbox.key_role])
        assert found is not None, "a table that cannot be split"
        return found

    @property
    def unpublished(self) -> sql.Composable:
        """SQL for those of them without such a mark."""
        if not self.is_marked:
            return self.mine
        return self.outbox.sql("{published_at} IS NULL AND {mine}", mine=self.mine)

    @property
    def values(self) -> int:
        """How many columns :func:`select_rows` begins with that are a row's own."""
        return len(ROLES) + len(self.outbox.additional)


def _row_id(row: OutboxRow) -> bytes | None:
    return row.id


def row_of(values: Sequence[bytes | None]) -> OutboxRow:
    """A row of its own columns, in the order of :func:`select_rows`."""
    return OutboxRow._make([*values[: len(ROLES)], tuple(values[len(ROLES) :])])


def find_table(connection: Connection, outbox: Outbox = OUTBOX) -> Table:
    """The outbox, of which this role sees every row.

    Raises:
        OutboxMissingError: there is no such table (yet).
        SetupError: a column that every record needs is missing or of a type that makes no record, or by which
            the outbox cannot be split, or rows are hidden from the role.
    """
    columns = find_columns(connection, outbox)
    facts = values.find(connection, outbox.label) if outbox.is_shaped else {}
    table = Table(outbox, columns, facts, Former(outbox, facts) if outbox.is_shaped else None)
    name, kind = columns[outbox.key_role]
    if outbox.share is not None and condition(outbox.share, name, kind) is None:
        raise SetupError(f"{outbox.label} cannot be split: {quoted(name)} is of type {kind}, and not {KINDS}")
    if scalar(connection, outbox.sql(_HIDES_ROWS)):
        role, name = quoted(connection.info.user), outbox.label
        raise SetupError(
            f"row-level security hides rows of {name} from {role}: ALTER ROLE {role} BYPASSRLS, or let the "
            f"table's owner run ALTER TABLE {name} DISABLE ROW LEVEL SECURITY"
        )
    return table


def lock(connection: Connection, outbox: Outbox = OUTBOX) -> None:
    """Take the advisory lock of the only relay of this outbox, for as long as the connection lives.

    Raises:
        SlotBusyError: another relay holds it.
        SetupError: the server is a standby, whose locks the relay of its primary knows nothing of.
    """
    if scalar(connection, "SELECT pg_is_in_recovery()"):
        raise SetupError(f"{IS_STANDBY}: {GIVE_PRIMARY}")
    whole, share = _lock_key(outbox), outbox.share
    is_mine = scalar(connection, outbox.sql(_LOCK if share is None else _LOCK_SHARED, key=whole))
    if is_mine and share is not None:
        identity, of = sql.Literal(outbox.identity), sql.SQL(str(share.of))
        is_mine = (
            scalar(connection, outbox.sql(_LOCK_SPLIT, identity=identity, of=of))
            and not scalar(connection, outbox.sql(_IS_SPLIT_OTHERWISE, identity=identity, of=of))
            and scalar(connection, outbox.sql(_LOCK, key=_own_key(outbox)))
        )
    if not is_mine:
        raise SlotBusyError("another relay reads this outbox; standing by")


def is_locked(outbox: Outbox) -> sql.Composable:
    """SQL for whether somebody has that lock; of a share, its own."""
    return outbox.sql(_IS_LOCKED, key=_own_key(outbox))


def _own_key(outbox: Outbox) -> sql.Composable:
    """The key that one relay alone has: of the share, or of the whole outbox where it is not split."""
    if outbox.share is None:
        return _lock_key(outbox)
    identity, share = sql.Literal(outbox.identity), sql.Literal(outbox.share.name)
    return sql.SQL(_LOCK_KEY_OF_A_SHARE).format(identity=identity, share=share)


def _lock_key(outbox: Outbox) -> sql.Composable:
    if outbox.is_standard:
        return sql.SQL(_LOCK_KEY)
    return sql.SQL(_LOCK_KEY_OF_ANOTHER).format(identity=sql.Literal(outbox.identity))


def find_origin(connection: Connection, outbox: Outbox = OUTBOX) -> Origin:
    """Which database and outbox this is, and that nothing is known to be confirmed."""
    system_identifier, oid, now_us = _one(connection, _ORIGIN)
    share = outbox.share.name if outbox.share is not None else ""
    return Origin(tag(system_identifier, oid, outbox.identity), 0, now_us, share)


def current_lsn(connection: Connection) -> int:
    """Where the database's log ends now."""
    return parse_lsn(scalar(connection, _CURRENT_LSN))


def flush(connection: Connection) -> None:
    """Have the server write its log to disk, up to where it ends now.

    What no commit follows (of a reader that tidied a page, of a transaction under way) it may keep in memory for
    as long as nothing else happens, and a walsender sends only what is on disk.
    """
    connection.execute(_FLUSH)


def order_of(connection: Connection, table: Table) -> sql.Composable:
    """SQL to sort rows by, as nearly as can be told in the order in which they were committed."""
    return by_id(table) if table.has_uuids and are_of_version_7(connection, table) else by_time(table)


def by_id(table: Table) -> sql.Composable:
    """SQL to sort rows by, where their IDs follow the inserts."""
    return table.outbox.sql("{id}")


def by_time(table: Table) -> sql.Composable:
    """SQL to sort rows by, where their IDs may say nothing."""
    return table.outbox.sql("{created_at}, {id}" if "created_at" in table.columns else "{id}")


def are_of_version_7(connection: Connection, table: Table, condition: sql.Composable = ALL_ROWS) -> bool:
    """Whether the IDs of rows, which are UUIDs, follow the inserts; true where there are no rows."""
    return bool(scalar(connection, table.outbox.sql(_ALL_OF_VERSION_7, rows=condition)))


def is_of_version_7(row_id: bytes | None) -> bool:
    """The same of one row's ID."""
    return row_id is None or row_id[14:15] == b"7"


def select_rows(
    table: Table,
    order: sql.Composable,
    condition: sql.Composable = ALL_ROWS,
    *,
    also: tuple[sql.Composable, ...] = (),
    with_contents: bool = True,
) -> sql.Composed:
    """A query for rows: their own columns as bytes, when they were written (microseconds), and ``also``.

    Without their contents, which may be large, payload and additional columns are NULL.
    """
    fields = [
        as_bytes(role, table.columns if with_contents or not is_content(role) else {})
        for role in table.outbox.parts
    ]
    created_us = table.created_us or sql.SQL("NULL::int8")
    return table.outbox.sql(
        "SELECT {fields} FROM {table} WHERE {condition} ORDER BY {order}",
        fields=sql.SQL(", ").join([*fields, created_us, *also]),
        condition=condition,
        order=order,
    )


def oldest_us(connection: Connection, table: Table, rows: sql.Composable | None = None) -> int:
    """When the oldest of some rows was written, microseconds since the Unix epoch; 0: none, or unknown of one.

    Args:
        connection: to the database.
        table: the outbox.
        rows: SQL for which rows; None: all that are its own.
    """
    if table.created_us is None:
        return 0
    query = table.outbox.sql(_OLDEST_US, us=table.created_us, rows=rows or table.mine)
    row = connection.execute(query).fetchone()
    return (row[0] if row else 0) or 0


def scalar(connection: Connection, query: LiteralString | sql.Composed, *values: Any) -> Any:
    """The first column of a query's only row; None without a row."""
    row = connection.execute(query, values or None).fetchone()
    return row[0] if row else None


def may_delete(connection: Connection, outbox: Outbox) -> bool:
    """Whether the role may take rows out of the outbox."""
    return bool(scalar(connection, outbox.sql(_MAY_DELETE)))


def _one(connection: Connection, query: str) -> Any:
    return connection.execute(query.encode()).fetchone()
