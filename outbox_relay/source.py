"""How does one source stay alive, whatever happens to its database or to Kafka?

A thread per source: connect, find or make the slot, run the pipeline; when anything ends it, say so in one
line, wait, begin again. No source knows of another.
"""

import enum
import threading
import time
from contextlib import closing
from typing import Any

import psycopg
import structlog
from confluent_kafka import KafkaException
from psycopg.conninfo import conninfo_to_dict

from outbox_relay.errors import RelayError, SlotBusyError, StopRequestedError
from outbox_relay.instrumentation import traced
from outbox_relay.ledger import Ledger, format_lsn
from outbox_relay.pipeline import Pipeline, publish_rows_before
from outbox_relay.publisher import Publisher
from outbox_relay.replication import ReplicationConnection, ReplicationStream, connect
from outbox_relay.slot import PUBLICATION, Slot, default_slot_name, find_slot, new_slot

BACKOFF_MIN_S = 0.5
BACKOFF_MAX_S = 10.0
# After trouble, streaming counts as news only once it has lasted, or something got through.
TROUBLE_OVER_S = 1.0
# A standby looks this often whether the slot has become free.
STANDBY_INTERVAL_S = 0.5

_log = structlog.get_logger(__name__)


class State(enum.Enum):
    """Where a source stands."""

    STARTING = "starting"
    FILLING = "publishing what was committed before the slot"
    STREAMING = "streaming"
    STANDBY = "standby"
    WAITING = "waiting"
    STOPPED = "stopped"


class Source:
    """The outbox of one database on its way to Kafka.

    Args:
        dsn: of the database; the role needs REPLICATION and SELECT on the outbox.
        bootstrap: Kafka, ``host:port[,host:port…]``.
        name: in logs, metrics and the client ID.
        sources: how many share the process, this one included.
        stop: set when the relay shall end.

    Attributes:
        state, reason: where it stands, and why if it does not stream.
        published_rows, published_bytes: acknowledged since the start of the process.
        reconnects: how often it had to begin again.
    """

    def __init__(self, dsn: str, bootstrap: str, name: str, sources: int, stop: threading.Event) -> None:
        self.name = name
        self.state = State.STARTING
        self.reason = "starting"
        self._trouble: str | None = None
        self.published_rows = 0
        self.published_bytes = 0
        self.reconnects = 0
        self._dsn = dsn
        self._bootstrap = bootstrap
        self._sources = sources
        self._stop = stop
        self._log = _log.bind(source=name)
        self._ledger = Ledger(0)
        self._publisher: Publisher | None = None
        self._pipeline: Pipeline | None = None
        self._streaming_since = 0.0
        self._counted = (0, 0)
        self._thread = threading.Thread(target=self._run, name=f"source-{name}", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False if it is still running after ``timeout_s`` seconds."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def unacknowledged(self) -> int:
        """Records that Kafka has not answered for."""
        publisher = self._publisher
        return publisher.waiting if publisher is not None else 0

    @property
    def confirmed_lsn(self) -> int:
        """Everything before it is acknowledged."""
        return self._ledger.confirmed_lsn

    @property
    def lag_s(self) -> float:
        """Seconds since the commit of the oldest transaction that is not acknowledged; 0 when all are."""
        committed_us = self._ledger.oldest_committed_us()
        return max(0.0, time.time() - committed_us / 1e6) if committed_us is not None else 0.0

    def _run(self) -> None:
        pause_s = BACKOFF_MIN_S
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._session()
            except StopRequestedError as error:
                self._log.info(str(error))
            except SlotBusyError as error:
                self._enter(State.STANDBY, str(error))
                self._stop.wait(STANDBY_INTERVAL_S)
                continue
            except KafkaException as error:
                # Fatal to the producer: it stops rather than send what follows a record that was refused.
                self._enter(State.WAITING, f"Kafka refused records: {_without_ids(error.args[0].str())}")
            except (RelayError, psycopg.Error) as error:
                self._enter(State.WAITING, _one_line(error))
            except Exception as error:
                self._enter(State.WAITING, f"a bug in the relay: {_one_line(error)}", exc_info=True)
            if self._stop.is_set():
                break
            self.reconnects += 1
            if time.monotonic() - began > BACKOFF_MAX_S:
                pause_s = BACKOFF_MIN_S
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_MAX_S)
        self._enter(State.STOPPED, "stopped")

    def _session(self) -> None:
        """One connection's life."""
        slot_name = default_slot_name(_database(self._dsn))
        with closing(connect(self._dsn)) as connection:
            slot = find_slot(connection, slot_name)
            with Publisher(self._bootstrap, self.name, self._sources, self._while_blocked) as publisher:
                self._publisher = publisher
                try:
                    if slot is None:
                        slot = self._fill(connection, slot_name, publisher)
                    self._stream(connection, slot, publisher)
                finally:
                    self._publisher = self._pipeline = None

    def _fill(self, connection: ReplicationConnection, slot_name: str, publisher: Publisher) -> Slot:
        self._enter(State.FILLING, "making the slot; waits for transactions that are running", slot=slot_name)
        with new_slot(connection, slot_name) as slot:
            ledger = publish_rows_before(
                slot, publisher, traced(publisher.publish), self._say_how_it_goes, self._stop
            )
            made = slot.make_permanent()
        self.published_rows += ledger.acknowledged_rows
        self.published_bytes += ledger.acknowledged_bytes
        self._log.info(
            "slot made", slot=slot_name, rows_before=ledger.acknowledged_rows, lsn=format_lsn(made.confirmed_lsn)
        )
        return made

    def _stream(self, connection: ReplicationConnection, slot: Slot, publisher: Publisher) -> None:
        self._ledger, self._counted = Ledger(slot.confirmed_lsn), (0, 0)
        with ReplicationStream(connection, slot.name, PUBLICATION) as stream:
            self._streaming_since = time.monotonic()
            self._pipeline = Pipeline(
                stream, self._ledger, publisher, traced(publisher.publish), self._progress, self._stop
            )
            self._pipeline.run()

    def _while_blocked(self) -> None:
        self._say_how_it_goes()
        if self._pipeline is not None:
            self._pipeline.while_blocked()
        elif self._stop.is_set():
            raise StopRequestedError(
                "stopped while Kafka takes no records; they will be published after the start"
            )

    def _progress(self) -> None:
        rows, value_bytes = self._ledger.acknowledged_rows, self._ledger.acknowledged_bytes
        self.published_rows += rows - self._counted[0]
        self.published_bytes += value_bytes - self._counted[1]
        self._counted = (rows, value_bytes)
        self._say_how_it_goes()

    def _say_how_it_goes(self) -> None:
        publisher = self._publisher
        if publisher is None:
            return
        if publisher.away is not None:
            self._enter(State.WAITING, publisher.away)
        elif self._pipeline is not None and self.state is not State.STREAMING and self._trouble_is_over():
            self._enter(State.STREAMING, "streaming", from_lsn=format_lsn(self.confirmed_lsn))

    def _trouble_is_over(self) -> bool:
        lasted_s = time.monotonic() - self._streaming_since
        return self._trouble is None or lasted_s > TROUBLE_OVER_S or self._ledger.acknowledged_rows > 0

    def _enter(self, state: State, reason: str, **context: Any) -> None:
        """Take a state; say so when it is news. Trouble that comes back at every attempt is said once."""
        news = (state, reason) != (self.state, self.reason) and reason != self._trouble
        if news and not (state is State.FILLING and self._trouble):
            say = self._log.warning if state is State.WAITING else self._log.info
            say(reason, state=state.name.lower(), **context)
        if state is State.WAITING:
            self._trouble = reason
        elif state is State.STREAMING:
            self._trouble = None
        self.state, self.reason = state, reason


def source_name(dsn: str) -> str:
    """The database's name, which is what people call a source."""
    return _database(dsn)


def _database(dsn: str) -> str:
    parameters = conninfo_to_dict(dsn)
    return str(parameters.get("dbname") or parameters.get("user") or "postgres")


def _without_ids(text: str) -> str:
    """librdkafka's reason up to the producer's ID and the like, which differ at each attempt."""
    return text.split(" (broker ", 1)[0]


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0]
