"""How is an outbox read by asking the table? The classic worker, for where logical decoding is not to be had.

Unpublished rows in the order of insertion, locked; publish, wait for Kafka, mark as published, commit; and again.
A row counts as unpublished until its own mark is there, so one that was numbered early and committed late is found
all the same. Rows of one key keep their order if those who write them take turns, as who locks the account does.
"""

import time
from contextlib import closing
from typing import Any

import psycopg
from psycopg import sql

import failpoints
from outbox_relay.columns import Columns, as_bytes, find_columns, is_row
from outbox_relay.dead import bring_up_to_date, has_dead
from outbox_relay.errors import PublishError, SetupError, SlotBusyError
from outbox_relay.ledger import Ledger
from outbox_relay.pgoutput import COLUMNS_REQUIRED, OutboxRow
from outbox_relay.position import Origin
from outbox_relay.published import Published
from outbox_relay.publisher import Publish, Publisher, not_yet_published
from outbox_relay.replication import connect
from outbox_relay.source import Source
from outbox_relay.table import current_lsn, find_origin, may_delete, scalar, select_rows

POLL_ROWS = 2_000
# Rows are locked meanwhile, and the database keeps what they see; after that, let go and begin again.
ACKNOWLEDGE_WAIT_S = 30.0
PUSH_WAIT_S = 0.1
REMOVE_ROWS = 10_000

# Two who poll the same table would overtake each other; rows that somebody else has locked are left for later.
_LOCK = "SELECT pg_try_advisory_lock(hashtext('settle-relay outbox polling'))"
_UNPUBLISHED = sql.SQL("published_at IS NULL")
_AND_NOT_DEAD = sql.SQL(
    "AND (id IS NULL OR {} NOT IN (SELECT textsend(id) FROM public.outbox_dead WHERE id IS NOT NULL))"
)
_COMMITTED_US = sql.SQL("(extract(epoch FROM created_at) * 1000000)::int8")
_NOW_US = sql.SQL("(extract(epoch FROM clock_timestamp()) * 1000000)::int8")
_PREPARE = (
    "ALTER TABLE public.outbox ADD COLUMN IF NOT EXISTS published_at timestamptz",
    "CREATE INDEX IF NOT EXISTS outbox_unpublished ON public.outbox (id) WHERE published_at IS NULL",
)
_MARK = sql.SQL("UPDATE public.outbox SET published_at = now() WHERE {} = ANY(%s)")
_MARK_NAMELESS = sql.SQL("UPDATE public.outbox SET published_at = now() WHERE published_at IS NULL AND {}")
_REMOVE = """
    DELETE FROM public.outbox
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM public.outbox WHERE published_at IS NOT NULL LIMIT %s))
"""


def read(source: Source) -> None:
    """One session of a source: look for unpublished rows again and again, until the relay shall end.

    Raises:
        RelayError, psycopg.Error: what ended it.
    """
    with closing(connect(source.dsn, replication=False)) as connection:
        columns = find_columns(connection)
        if not scalar(connection, _LOCK):
            raise SlotBusyError("the outbox is polled by another relay; standing by")
        if "published_at" not in columns:
            _prepare(connection)
        bring_up_to_date(connection)
        origin = find_origin(connection)
        not_dead = _AND_NOT_DEAD.format(as_bytes("id", columns))
        condition = [_UNPUBLISHED, *([not_dead] if has_dead(connection) else [])]
        # When it was committed is not on record; when its transaction began mostly is.
        since = _COMMITTED_US if "created_at" in columns else _NOW_US
        poll = sql.SQL("{} LIMIT {} FOR UPDATE SKIP LOCKED").format(
            select_rows(columns, sql.SQL(" ").join(condition), also=since), sql.Literal(POLL_ROWS)
        )
        with (
            source.publishing() as (publisher, publish),
            closing(Published(source.settings.kafka_bootstrap, origin)) as published,
        ):
            new = not_yet_published(publish, published, source.bury)
            worker = _Worker(source, connection, columns, publisher, new, origin)
            while not source.stop.is_set():
                if worker.poll(poll) < POLL_ROWS and not (source.settings.relay_cleanup and worker.remove()):
                    source.stop.wait(source.settings.relay_poll_interval_s)


class _Worker:
    """What is done again and again."""

    def __init__(
        self,
        source: Source,
        connection: psycopg.Connection[Any],
        columns: Columns,
        publisher: Publisher,
        publish: Publish,
        origin: Origin,
    ) -> None:
        self._source = source
        self._connection = connection
        self._columns = columns
        self._publisher = publisher
        self._publish = publish
        self._ledger = Ledger(origin, source.waits)
        source.reading(self._ledger, lambda: None)

    def poll(self, query: sql.Composed) -> int:
        """Publish and mark rows, up to :data:`POLL_ROWS`; how many."""
        ledger, publish = self._ledger, self._publish
        with self._connection.transaction():
            lsn = current_lsn(self._connection)
            found = self._connection.cursor(binary=True).execute(query).fetchall()
            rows = [(OutboxRow._make(values), committed_us) for *values, committed_us in found]
            for row, committed_us in rows:
                transaction = ledger.begin(lsn, committed_us)
                transaction.rows = 1
                transaction.value_bytes = len(row.payload or b"")
                publish(row, transaction, transaction.delivered)
                ledger.end(transaction, lsn)
            self._wait_acknowledged()
            failpoints.hit("relay.acknowledged")
            self._mark([row for row, _ in rows])
        ledger.reached(lsn)
        self._source.progress()
        return len(rows)

    def _mark(self, rows: list[OutboxRow]) -> None:
        """These are on their topics, or put aside."""
        if ids := [row.id for row in rows if row.id is not None]:
            self._connection.execute(_MARK.format(as_bytes("id", self._columns)), (ids,))
        for row in rows:
            if row.id is None:
                self._connection.execute(_MARK_NAMELESS.format(is_row(self._columns)), row[:COLUMNS_REQUIRED])

    def _wait_acknowledged(self) -> None:
        """Wait until Kafka has all that was handed over.

        Raises:
            PublishError: it refused a record, or did not answer in time.
            StopRequestedError: the relay shall end.
        """
        give_up = time.monotonic() + ACKNOWLEDGE_WAIT_S
        while True:
            self._publisher.push(PUSH_WAIT_S)
            self._ledger.advance()
            self._source.progress()
            if not self._publisher.waiting:
                return
            if time.monotonic() > give_up:
                raise PublishError(self._publisher.away or "Kafka does not acknowledge, waiting for it")

    def remove(self) -> bool:
        """Remove rows that are marked, up to a limit; whether there may be more."""
        if not may_delete(self._connection):
            return False
        removed = self._connection.execute(_REMOVE, (REMOVE_ROWS,)).rowcount
        self._source.removed_rows += removed
        return removed == REMOVE_ROWS


def _prepare(connection: psycopg.Connection[Any]) -> None:
    try:
        for statement in _PREPARE:
            connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise SetupError(f"{reason}: let the table's owner run: {'; '.join(_PREPARE)}") from None
