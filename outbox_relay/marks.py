"""The mark on published rows, by which the polling reader knows them: its column, and the rows older than it."""

from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

from outbox_relay import initial
from outbox_relay.errors import SetupError, TableBusyError
from outbox_relay.marking import may_mark
from outbox_relay.outbox import Outbox
from outbox_relay.places import PLACE, in_each_partition
from outbox_relay.quoting import quoted
from outbox_relay.removal import refusal, rows_stay
from outbox_relay.table import Table, find_origin, find_table, order_of, row_of, scalar, select_rows

if TYPE_CHECKING:
    from outbox_relay.source import Source

DECIDE_ROWS = 10_000
LOCK_WAIT = "500ms"

_ADD = "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {published_at} timestamptz"
_INDEX = "CREATE INDEX IF NOT EXISTS {index} ON {table} ({id}) WHERE {published_at} IS NULL"
# Reads all rows while others write. A partitioned table has no such way.
_INDEX_BESIDE = _INDEX.replace("INDEX", "INDEX CONCURRENTLY", 1)
_IS_PARTITIONED = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass({name})"
# A default applies to all rows at once, without rewriting them: no writer is blocked.
_ADD_UNDECIDED: LiteralString = _ADD + " DEFAULT '-infinity'"
_DROP_DEFAULT = "ALTER TABLE {table} ALTER COLUMN {published_at} DROP DEFAULT"
# A row at 'infinity' is neither published nor removed, as nothing tells whether it is published: a person may.
_UNDECIDED = "{published_at} = '-infinity' AND {mine}"
_UNDECIDED_OR_LEFT = "{published_at} IN ('-infinity', 'infinity') AND {mine}"
_HAS_UNDECIDED = "SELECT FROM {table} WHERE {undecided} LIMIT 1"
_LEAVE = "UPDATE {table} SET {published_at} = 'infinity' WHERE tableoid = %s::oid AND ctid = ANY(%s::tid[])"
LEFT = "; if they are to be: start with --initial all"
_UNMARK = "UPDATE {table} SET {published_at} = NULL WHERE tableoid = %s::oid AND ctid = ANY(%s::tid[])"
# A trigger may put the old mark back.
MARK = """
    WITH marked AS (
        UPDATE {table} SET {published_at} = now() WHERE tableoid = %s::oid AND ctid = ANY(%s::tid[])
        RETURNING {published_at} AS at
    )
    SELECT FROM marked WHERE isfinite(at)
"""


def statements(outbox: Outbox, *, keeps: bool = True) -> list[str]:
    """What gives a table its mark; in one that keeps its rows, those that are there wait for a decision.

    Whether it does is tried out by the relay's role; for all others it may, and the decision is that role's too.
    """
    wanted: tuple[LiteralString, ...] = (_ADD_UNDECIDED, _DROP_DEFAULT) if keeps else (_ADD,)
    return [outbox.text(statement) for statement in wanted]


def index_statement(outbox: Outbox, *, is_partitioned: bool) -> str:
    """What makes the index on rows without a mark; in a transaction only of a partitioned table."""
    return outbox.text(_INDEX if is_partitioned else _INDEX_BESIDE)


def is_partitioned(connection: psycopg.Connection[Any], outbox: Outbox) -> bool:
    """Whether it is a partitioned table."""
    return bool(scalar(connection, outbox.sql(_IS_PARTITIONED)))


def prepare(source: "Source", connection: psycopg.Connection[Any], table: Table) -> None:
    """Give the table its mark; in one that keeps its rows, those that are there wait for a decision.

    Raises:
        SetupError: the role may not.
        TableBusyError: transactions hold the table; try again.
    """
    outbox, settings = source.outbox, source.settings
    keeps = settings.initial is not None or rows_stay(connection, table, cleanup=settings.cleanup)
    wanted, in_parts = statements(outbox, keeps=keeps), is_partitioned(connection, outbox)
    index = index_statement(outbox, is_partitioned=in_parts)
    try:
        with connection.transaction():
            # Behind a statement that waits for the table, all who write to it wait too.
            connection.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'".encode())
            for statement in [*wanted, index] if in_parts else wanted:
                connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise SetupError(
            f"{reason}: let the table's owner run, each by itself: {'; '.join([*wanted, index])}"
        ) from None
    except psycopg.errors.LockNotAvailable:
        raise TableBusyError(
            f"transactions that are open hold the table {outbox.label}, which is to get its mark: waiting for them"
        ) from None
    source.say("the outbox has a mark on published rows now")


def decide(source: "Source", connection: psycopg.Connection[Any]) -> bool:
    """Which of the rows that were there before the mark are to be published; the others are marked, or left.

    Where marks cannot be set that is told, and rows stay as they are, neither published nor removed.

    Returns:
        Whether any of them are.

    Raises:
        SetupError: it cannot be determined which are to be published.
        PublishError: their topics cannot be read.
        TableBusyError: others hold rows of the table; try again.
    """
    outbox = source.outbox
    table = find_table(connection, outbox)
    if not table.is_marked:
        return False
    undecided = outbox.sql(_UNDECIDED if source.settings.initial is None else _UNDECIDED_OR_LEFT, mine=table.mine)
    if connection.execute(outbox.sql(_HAS_UNDECIDED, undecided=undecided)).fetchone() is None:
        return False
    if not may_mark(connection, table):
        role, column = quoted(connection.info.user), outbox.columns.published_at
        _stay(source, f"{role} may not UPDATE {column}: GRANT UPDATE ON {outbox.label} TO {role}")
        return False
    any_open = False
    keeps = rows_stay(connection, table, cleanup=source.settings.cleanup)
    now_us = find_origin(connection, outbox).now_us
    rule = initial.rule(source.settings, now_us, keeps=keeps, meanwhile=source.raise_if_stopped)
    query = select_rows(table, order_of(connection, table), undecided, also=PLACE, with_contents=False)
    query = sql.SQL("{} LIMIT {}").format(query, sql.Literal(DECIDE_ROWS))
    before: list[Any] = []
    while rows := connection.execute(query, binary=True).fetchall():
        source.raise_if_stopped()
        # But for where they lie: a trigger that puts the old mark back writes them elsewhere.
        if (found := [row[:-2] for row in rows]) == before:
            _stay(source, f"a trigger or a rule ignores that {outbox.columns.published_at} is set")
            break
        before = found
        open_: list[tuple[int, str]] = []
        done: list[tuple[int, str]] = []
        for *values, created_us, partition, place in rows:
            row = row_of(values)
            (open_ if rule.wants(row, created_us) else done).append((partition, place))
        try:
            with connection.transaction():
                in_each_partition(connection, outbox, _UNMARK, open_)
                in_each_partition(connection, outbox, MARK if rule.is_final else _LEAVE, done)
        except psycopg.Error as error:
            _stay(source, refusal(error))
            break
        any_open = any_open or bool(open_)
    initial.tell(rule, source.warn, LEFT)
    return any_open


def _stay(source: "Source", why: str) -> None:
    source.warn_once(f"rows of {source.outbox.label} that nobody has decided on stay as they are: {why}")
