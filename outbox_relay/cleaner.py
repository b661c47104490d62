"""How does the outbox stay small? Published rows are removed in the background, never before they are published.

A transaction takes a snapshot, asks where the log ends, and waits until Kafka has acknowledged everything before
that. Then every row that its snapshot shows is published, in whatever order rows were numbered or committed, and
it removes some of them. While the relay is behind that does not happen, so the cleaner leaves the machine to it.

The same thread asks from time to time how far the relay is behind, which only the server can say.
"""

import threading
import time
from contextlib import closing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg

from outbox_relay.replication import connect
from outbox_relay.slot import PUBLICATION
from outbox_relay.slot_name import slot_name
from outbox_relay.table import current_lsn, may_delete, scalar

if TYPE_CHECKING:
    from outbox_relay.source import Source

CLEAN_INTERVAL_S = 1.0
# How often the gauges are asked for, and the table is looked at though nothing new was published.
LOOK_INTERVAL_S = 5.0
AGAIN_AFTER_S = 5.0
# How long a snapshot is held while the relay is behind; a longer one would keep dead rows of the whole database.
CAUGHT_UP_WAIT_S = 1.0
CAUGHT_UP_LOOK_S = 0.02
# In one transaction: large enough to keep up with any load the relay can carry, small enough to be over in 0.1 s.
DELETE_ROWS = 10_000
# Space is used again once it is vacuumed. The server does that by itself, but looks at a database once a minute.
VACUUM_ROWS = 50_000

_PUBLISHES = "SELECT count(*) = 1 FROM pg_publication WHERE pubname = %s AND pubinsert"
_DELETE = "DELETE FROM public.outbox WHERE ctid = ANY(ARRAY(SELECT ctid FROM public.outbox LIMIT %s))"
# As the background process would, and without the lock that gives space back to the operating system.
_VACUUM = "VACUUM (TRUNCATE false) public.outbox"
_MAY_VACUUM = """
    SELECT pg_has_role(c.relowner, 'USAGE') OR current_setting('server_version_num')::int >= 170000
        AND has_table_privilege(c.oid, 'MAINTAIN')
    FROM pg_class AS c WHERE c.oid = 'public.outbox'::regclass
"""
_GAUGES = """
    SELECT greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn))::int8,
        greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::int8
    FROM pg_replication_slots WHERE slot_name = %s
"""
_DEAD = "SELECT count(*) FROM public.outbox_dead"


class Cleaner:
    """Removes published rows while a source reads; a context manager with a thread of its own.

    Args:
        source: which reads; its confirmed position says what is published, its gauges are filled in.
    """

    def __init__(self, source: "Source") -> None:
        self._source = source
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"cleaner-{source.name}", daemon=True)
        self._seen_rows = -1
        self._unvacuumed = 0
        self._looked_at = 0.0
        self._refused = False

    def _run(self) -> None:
        while not self._stop.is_set():
            # Trouble with the database is for the source to tell; here it means to try again later.
            with suppress(psycopg.Error), closing(connect(self._source.dsn, replication=False)) as connection:
                self._work(connection)
            self._stop.wait(AGAIN_AFTER_S)

    def _work(self, connection: psycopg.Connection[Any]) -> None:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        clean = self._source.settings.relay_cleanup and may_delete(connection)
        if self._source.settings.relay_cleanup and not clean:
            role = connection.info.user
            self._source.say(f"{role} may not DELETE from public.outbox: published rows stay there")
        vacuum = clean and bool(scalar(connection, _MAY_VACUUM))
        while not self._stop.is_set():
            if time.monotonic() - self._looked_at > LOOK_INTERVAL_S:
                self._measure(connection)
                # A commit is in the log, and may be published, a moment before others see its rows; much longer
                # where a standby has to confirm. The last pass may have missed some.
                self._seen_rows = -1
                self._looked_at = time.monotonic()
            full = clean and self._remove(connection)
            if vacuum and self._unvacuumed >= VACUUM_ROWS:
                connection.execute(_VACUUM)
                self._unvacuumed = 0
            self._stop.wait(0 if full else CLEAN_INTERVAL_S)

    def _remove(self, connection: psycopg.Connection[Any]) -> bool:
        """Remove what is published, up to a limit; whether there may be more."""
        published_rows = self._source.published_rows
        if self._refused or published_rows == self._seen_rows:
            return False
        try:
            with connection.transaction():
                # Its first statement is what the transaction's snapshot is taken for.
                publishes = scalar(connection, _PUBLISHES, PUBLICATION)
                if not publishes or not self._is_published(current_lsn(connection)):
                    return False
                removed = connection.execute(_DELETE, (DELETE_ROWS,)).rowcount
        except psycopg.errors.SerializationFailure:
            return True  # someone else removed some of them
        except psycopg.errors.ObjectNotInPrerequisiteState as error:  # no key, and deletes are published
            self._refused = True
            self._source.say(f"published rows stay in public.outbox: {error.diag.message_primary}")
            return False
        self._source.removed_rows += removed
        self._unvacuumed += removed
        if removed == DELETE_ROWS:
            return True
        self._seen_rows = published_rows
        return False

    def _is_published(self, lsn: int) -> bool:
        """Wait a little for everything before ``lsn`` to be acknowledged."""
        give_up = time.monotonic() + CAUGHT_UP_WAIT_S
        while self._source.ledger.confirmed_lsn < lsn:
            if self._stop.is_set() or time.monotonic() > give_up:
                return False
            time.sleep(CAUGHT_UP_LOOK_S)
        return True

    def _measure(self, connection: psycopg.Connection[Any]) -> None:
        gauges = self._source.gauges
        found = connection.execute(_GAUGES, (slot_name(connection),)).fetchone()
        if found is not None:
            gauges["lag_bytes"], gauges["slot_retained_bytes"] = found
        with suppress(psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
            gauges["dead_rows"] = scalar(connection, _DEAD)

    def __enter__(self) -> "Cleaner":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(AGAIN_AFTER_S)
