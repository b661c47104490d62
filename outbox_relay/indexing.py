"""The index on rows without a mark, built beside the session that polls, which publishes meanwhile."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg
from psycopg import sql

from outbox_relay.errors import RelayError
from outbox_relay.marks import index_statement
from outbox_relay.names import one_line
from outbox_relay.outbox import Outbox
from outbox_relay.quoting import quoted
from outbox_relay.replication import connect
from outbox_relay.source import Source

CANCEL_AGAIN_S = 0.1
# How long the end of a session waits for the end of a build; the server ends one whose client is gone.
CANCEL_WAIT_S = 5.0
# A build that fails is tried again after so long, each time twice as long: it reads all of the table.
AGAIN_MIN_S = 60.0
AGAIN_MAX_S = 3_600.0

_DROP_INDEX = "DROP INDEX CONCURRENTLY IF EXISTS {in_schema}.{index}"
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


@contextmanager
def indexing(source: Source, connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Index the rows without a mark meanwhile, if that is not done and the role may; cut off at the end.

    Nobody waits for it, and it has no lock of the outbox's. It waits for the transactions that are running, as
    PostgreSQL must.

    Args:
        source: which polls.
        connection: the session's, which is asked whether there is an index.
    """
    if not _statements(source.outbox, connection):
        yield
        return
    build = _Build(source)
    build.start()
    try:
        yield
    finally:
        build.stop()


def _statements(outbox: Outbox, connection: psycopg.Connection[Any]) -> list[sql.Composed | bytes]:
    if outbox.share is not None and outbox.share.number > 1:
        return []  # the first one does it
    names = {
        "index_name": sql.Literal(f"{quoted(outbox.schema)}.{outbox.names['index']}"),
        "predicate": sql.Literal(outbox.text("({published_at} IS NULL)")),
    }
    found = connection.execute(outbox.sql(_LACKS_INDEX, **names)).fetchone()
    lacks_index, has_a_part = found or (False, False)
    if not lacks_index:
        return []
    drop = outbox.sql(_DROP_INDEX, in_schema=sql.Identifier(outbox.schema))
    return [*([drop] if has_a_part else []), index_statement(outbox, is_partitioned=False).encode()]


class _Build:
    """Runs the statements in a thread and a connection of its own; what fails is tried again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stop = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._thread = threading.Thread(target=self._run, name=f"indexing-{source.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._source.say("indexing the rows to be published; waits for transactions that are running")
        self._thread.start()

    def stop(self) -> None:
        """Cut it off, and wait a little for its end."""
        self._stop.set()
        give_up = time.monotonic() + CANCEL_WAIT_S
        while self._thread.is_alive() and time.monotonic() < give_up:
            if (connection := self._connection) is not None:
                with suppress(psycopg.Error):
                    connection.cancel_safe(timeout=CANCEL_WAIT_S)
            self._thread.join(CANCEL_AGAIN_S)

    def _run(self) -> None:
        again_s = AGAIN_MIN_S
        while not self._stop.is_set():
            try:
                with closing(connect(self._source.dsn, replication=False)) as connection:
                    self._connection = connection
                    for statement in _statements(self._source.outbox, connection):
                        if not self._stop.is_set():
                            connection.execute(statement)
                return
            except (RelayError, psycopg.Error) as error:
                if not self._stop.is_set():
                    why = one_line(error)
                    self._source.warn("the rows to be published are not indexed", why=why, again_s=again_s)
            self._stop.wait(again_s)
            again_s = min(2 * again_s, AGAIN_MAX_S)
