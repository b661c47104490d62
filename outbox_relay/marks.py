"""The mark on published rows, which the polling reader sets: its column, and the rows older than the mark."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

from outbox_relay import initial
from outbox_relay.errors import SetupError, TableBusyError
from outbox_relay.outbox import Outbox
from outbox_relay.quoting import quoted
from outbox_relay.state import State
from outbox_relay.table import find_origin, find_table, order_of, row_of, scalar, select_rows

if TYPE_CHECKING:
    from outbox_relay.source import Source

DECIDE_ROWS = 10_000
LOCK_WAIT = "500ms"

# Where a row lies: its place is unique within its partition only. Statements name no partitions, as those who may
# write to the table need no rights on them.
PLACE = (sql.SQL("tableoid::int8"), sql.SQL("ctid::text"))

_ADD = "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {published_at} timestamptz"
_INDEX = "CREATE INDEX IF NOT EXISTS {index} ON {table} ({id}) WHERE {published_at} IS NULL"
# Reads all rows while others write. A partitioned table has no such way.
_INDEX_BESIDE = _INDEX.replace("INDEX", "INDEX CONCURRENTLY", 1)
_DROP_INDEX = "DROP INDEX CONCURRENTLY IF EXISTS {in_schema}.{index}"
_IS_PARTITIONED = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass({name})"
# Of a table that the role may index: whether it lacks such an index, and whether one is left of a build that was
# cut off. Nothing where somebody builds one just now.
_LACKS_INDEX = """
    SELECT NOT coalesce(bool_or(indisvalid AND pg_get_expr(indpred, indrelid) = {predicate}), false),
        coalesce(bool_or(NOT indisvalid AND indexrelid = to_regclass({index_name})), false)
    FROM pg_class AS c LEFT JOIN pg_index ON indrelid = c.oid
    WHERE c.oid = to_regclass({name}) AND relkind = 'r'
        AND pg_has_role(relowner, 'USAGE') AND has_schema_privilege(relnamespace, 'CREATE')
        AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE relid = c.oid)
    GROUP BY c.oid
"""
# A default applies to all rows at once, without rewriting them: no writer is blocked.
_ADD_UNDECIDED: LiteralString = _ADD + " DEFAULT '-infinity'"
_DROP_DEFAULT = "ALTER TABLE {table} ALTER COLUMN {published_at} DROP DEFAULT"
_UNDECIDED = "{published_at} = '-infinity' AND {mine}"
_HAS_UNDECIDED = "SELECT FROM {table} WHERE {published_at} = '-infinity' AND {mine} LIMIT 1"
_UNMARK = "UPDATE {table} SET {published_at} = NULL WHERE tableoid = %s::oid AND ctid = ANY(%s::tid[])"
MARK = "UPDATE {table} SET {published_at} = now() WHERE tableoid = %s::oid AND ctid = ANY(%s::tid[])"

Places = Iterable[tuple[int, str]]
"""The partition's OID, and the place within it."""


def statements(outbox: Outbox, *, keeps: bool) -> list[str]:
    """What gives a table its mark; in one that keeps its rows, those that are there wait for a decision."""
    wanted: tuple[LiteralString, ...] = (_ADD_UNDECIDED, _DROP_DEFAULT) if keeps else (_ADD,)
    return [outbox.text(statement) for statement in wanted]


def index_statement(outbox: Outbox, *, is_partitioned: bool) -> str:
    """What makes the index on rows without a mark; in a transaction only of a partitioned table."""
    return outbox.text(_INDEX if is_partitioned else _INDEX_BESIDE)


def is_partitioned(connection: psycopg.Connection[Any], outbox: Outbox) -> bool:
    """Whether it is a partitioned table."""
    return bool(scalar(connection, outbox.sql(_IS_PARTITIONED)))


def prepare(source: "Source", connection: psycopg.Connection[Any], *, keeps: bool) -> None:
    """Give the table its mark; in one that keeps its rows, those that are there wait for a decision.

    Raises:
        SetupError: the role may not.
        TableBusyError: transactions hold the table; try again.
    """
    outbox = source.outbox
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


def build_index(source: "Source", connection: psycopg.Connection[Any]) -> None:
    """Index the rows without a mark, if that is not done and the role may; also after a build that was cut off.

    Nobody who writes waits for it. It waits for the transactions that are running, as PostgreSQL must.
    """
    outbox = source.outbox
    if outbox.share is not None and outbox.share.number > 1:
        return  # the first one does it
    names = {
        "index_name": sql.Literal(f"{quoted(outbox.schema)}.{outbox.names['index']}"),
        "predicate": sql.Literal(outbox.text("({published_at} IS NULL)")),
    }
    found = connection.execute(outbox.sql(_LACKS_INDEX, **names)).fetchone()
    if found is None or not found[0]:
        return
    source.enter(State.FILLING, "indexing the rows to be published; waits for transactions that are running")
    if found[1]:
        connection.execute(outbox.sql(_DROP_INDEX, in_schema=sql.Identifier(outbox.schema)))
    connection.execute(index_statement(outbox, is_partitioned=False).encode())


def decide(source: "Source", connection: psycopg.Connection[Any], *, keeps: bool) -> bool:
    """Which of the rows that were there before the mark are to be published; the others are marked.

    Returns:
        Whether any of them are.

    Raises:
        SetupError: it cannot be determined which are to be published.
        PublishError: their topics cannot be read.
    """
    outbox = source.outbox
    table = find_table(connection, outbox)
    if not table.is_marked or connection.execute(outbox.sql(_HAS_UNDECIDED, mine=table.mine)).fetchone() is None:
        return False
    any_open = False
    rule = initial.rule(source.settings, find_origin(connection, outbox).now_us, keeps=keeps)
    query = select_rows(table, order_of(connection, table), outbox.sql(_UNDECIDED, mine=table.mine), also=PLACE)
    query = sql.SQL("{} LIMIT {}").format(query, sql.Literal(DECIDE_ROWS))
    while rows := connection.execute(query, binary=True).fetchall():
        source.raise_if_stopped()
        open_: list[tuple[int, str]] = []
        done: list[tuple[int, str]] = []
        for *values, created_us, partition, place in rows:
            row = row_of(values)
            (open_ if rule.wants(row, created_us) else done).append((partition, place))
        any_open = any_open or bool(open_)
        with connection.transaction():
            in_each_partition(connection, outbox, _UNMARK, open_)
            in_each_partition(connection, outbox, MARK, done)
    initial.tell(rule, source.warn, f"; if they are to be: set their {outbox.columns.published_at} to NULL")
    return any_open


def in_each_partition(
    connection: psycopg.Connection[Any], outbox: Outbox, statement: LiteralString, places: Places
) -> int:
    """Run a statement on rows by their places, partition by partition; returns how many were affected."""
    done = 0
    by_partition = defaultdict(list)
    for partition, place in places:
        by_partition[partition].append(place)
    query = outbox.sql(statement)
    for partition, there in by_partition.items():
        done += connection.execute(query, (partition, there)).rowcount
    return done
