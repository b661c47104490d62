"""The watch of a source: a thread that notices what is asked of it, whatever its session is busy with."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from outbox_relay.control.table import Orders, newest, orders
from outbox_relay.names import one_line
from outbox_relay.outbox import Outbox
from outbox_relay.replication import connect

T = TypeVar("T")

LOOK_INTERVAL_S = 0.5
"""How often it looks."""
# Where the database is away, the source reports it sooner; it may read on where only this cannot connect.
AWAY_S_MAX = 15.0


class Watch:
    """Looks at the table of what is asked, over a connection of its own.

    Args:
        dsn, outbox: of the source.
        stop: ends it.
        tend: called after each look, with the connection.
        warn: logs a line, when what is asked cannot be read any more.

    Attributes:
        newest: the number of the newest act that was seen.
        trouble: why nothing can be read now, or None.
    """

    def __init__(
        self,
        dsn: str,
        outbox: Outbox,
        stop: threading.Event,
        tend: Callable[[psycopg.Connection[Any]], None],
        warn: Callable[[str], None],
    ) -> None:
        self.newest = 0
        self.trouble: str | None = None
        self._dsn = dsn
        self._outbox = outbox
        self._stop = stop
        self._tend = tend
        self._warn = warn
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def orders(self) -> Orders:
        """What is asked now.

        Raises:
            SetupError: the role may not read it.
            psycopg.Error: the database does not answer.
        """
        found = self.ask(lambda connection: orders(connection, self._outbox))
        self.trouble = None
        return found

    def ask(self, ask: Callable[[psycopg.Connection[Any]], T]) -> T:
        """What a question to the database gives, over the connection that looks.

        Raises:
            psycopg.Error: it does not answer.
        """
        with self._lock:
            return self._with_connection(ask)

    def _run(self) -> None:
        heard_at = time.monotonic()
        while not self._stop.wait(LOOK_INTERVAL_S):
            try:
                self.newest = self.ask(self._look)
            except psycopg.Error as error:
                if time.monotonic() - heard_at > AWAY_S_MAX:
                    self._tell(error, "what is asked of it cannot be read: ")
            except Exception as error:
                self._tell(error)
            else:
                self.trouble, heard_at = None, time.monotonic()
        self._close()

    def _tell(self, error: Exception, about: str = "") -> None:
        is_new, self.trouble = self.trouble is None, f"{about}{one_line(error)}"
        if is_new:
            self._warn(f"{about}{error}")

    def _look(self, connection: psycopg.Connection[Any]) -> int:
        found = newest(connection, self._outbox)
        self._tend(connection)
        return found

    def _with_connection(self, ask: Callable[[psycopg.Connection[Any]], T]) -> T:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._dsn, replication=False)
        try:
            return ask(self._connection)
        except psycopg.Error:
            self._close()
            raise

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
