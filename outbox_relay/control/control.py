"""Control of one source: what people ask of it now, and how its threads come to know."""

import threading
import time
from collections.abc import Callable, MutableMapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import psycopg
import structlog

from outbox_relay.control.skips import answer_late
from outbox_relay.control.table import NOTHING, REFUSED, Act, answer, answer_switch
from outbox_relay.control.watch import Watch
from outbox_relay.errors import SetupError
from outbox_relay.measures import measure
from outbox_relay.replication import connect
from outbox_relay.source_settings import SourceSettings
from outbox_relay.table import Table, lock

# How soon a wait ends once something is asked, and how often a paused source is measured.
REST_LOOK_S = 0.2
MEASURE_INTERVAL_S = 5.0

Reading = Callable[[], tuple[Table, int, bool, bool] | None]
"""The table that a session reads, the position before which all is acknowledged, whether published rows stay in
the table as was last found out, and whether it is still to be searched for rows that the log has left out; None
while none reads."""

ToMeasure = Callable[[], MutableMapping[str, int] | None]
"""The gauges that are to be filled in beside the session; None while others do."""


class Control:
    """What is asked of a source.

    Args:
        settings: of the source.
        name: of the source, for the log.
        stop: set when the relay shall end.
        reading: asked for what the source reads.
        to_measure: asked for the gauges that are to be filled in beside the session.

    Attributes:
        orders: what is asked, as the session knows it.
    """

    def __init__(
        self,
        settings: SourceSettings,
        name: str,
        stop: threading.Event,
        reading: Reading,
        to_measure: ToMeasure = lambda: None,
    ) -> None:
        self.orders = NOTHING
        self._settings = settings
        self._outbox = settings.outbox
        self._stop = stop
        self._reading = reading
        self._to_measure = to_measure
        self._measured_at = 0.0
        self._log = structlog.get_logger(__name__).bind(source=name)
        self._watch = Watch(settings.dsn, settings.outbox, stop, self._tend, self._log.warning)

    def start(self) -> None:
        """Begin to look for what is asked, in a thread of its own."""
        self._watch.start()

    def look(self) -> None:
        """Take up what is asked now, at the begin of a session.

        Raises:
            SetupError: the role may not read it.
            psycopg.Error: the database does not answer.
        """
        self.orders = self._watch.orders()

    @property
    def is_called(self) -> bool:
        """Whether the session is to end: something was asked that it does not know yet, or the relay shall end."""
        return self._watch.newest > self.orders.newest or self._stop.is_set()

    def refuse(self, act: Act, why: str) -> None:
        """Answer that an act is not done, over the connection that looks for what is asked.

        Raises:
            SetupError: the role may not.
            psycopg.Error: the database does not answer.
        """
        self._watch.ask(lambda connection: answer(connection, self._outbox, act.number, REFUSED, why))

    @property
    def trouble(self) -> str | None:
        """Why it cannot be read what people ask, or None."""
        return self._watch.trouble

    def rest(self, seconds: float) -> None:
        """Wait, at the latest until the session is to end."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0 and not self.is_called:
            self._stop.wait(min(left_s, REST_LOOK_S))

    def hold(self, pause: Act, gauges: MutableMapping[str, int], enter: Callable[[str], None]) -> None:
        """Hold the outbox and read nothing, so that others do not read it, until something else is asked.

        Args:
            pause: which was asked.
            gauges: filled in meanwhile.
            enter: called once the outbox is held, with the reason for people.

        Raises:
            SlotBusyError: another relay holds it, or is still reading.
            psycopg.Error: the database is away.
        """
        with closing(connect(self._settings.dsn, replication=False)) as connection:
            lock(connection, self._outbox)
            enter(pause.as_pause)
            if pause.ended is None:
                self._answer(connection, pause, "paused")
            while not self.is_called:
                measure(connection, self._outbox, gauges)
                self.rest(MEASURE_INTERVAL_S)

    def _answer(self, connection: psycopg.Connection[Any], act: Act, outcome: str) -> None:
        """Write down that a pause or its end took effect; where that is not allowed, say so and go on."""
        try:
            answer_switch(connection, self._outbox, act, outcome)
        except SetupError as error:
            self._log.warning(str(error))

    def _tend(self, connection: psycopg.Connection[Any]) -> None:
        """After each look: measure what no session does; while one reads, answer what took effect or was late."""
        gauges, now = self._to_measure(), time.monotonic()
        if gauges is not None and now - self._measured_at > MEASURE_INTERVAL_S:
            self._measured_at = now
            with suppress(psycopg.Error):  # what is asked goes before
                measure(connection, self._outbox, gauges)
        if (found := self._reading()) is None:
            return
        orders = self.orders
        if orders.resumed is not None:
            self.orders = replace(orders, resumed=None)
            self._answer(connection, orders.resumed, "reading again")
        if orders.skips:
            table, confirmed_lsn, keeps, searches = found
            answer_late(
                connection,
                self._outbox,
                orders.skips,
                table,
                confirmed_lsn,
                keeps=keeps,
                polls=self._settings.reader == "polling",
                searches=searches,
            )
