"""A source: supervision of one outbox's sessions, whatever happens to its database or to Kafka, and its state.

A thread per source runs one session after the other: connect, read, publish, confirm. If an error ends a session,
it is logged in one line, and after a pause the next one starts. How the outbox is read is a function
(``wal.stream``, ``polling.poll``). Sources are independent of each other.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import structlog

from broker.rotation import Rotation
from broker.security import KafkaSettingsError
from outbox_relay.acknowledgements import Acknowledgements, Waits
from outbox_relay.control.control import Control
from outbox_relay.dead import Quarantine
from outbox_relay.errors import (
    BatchRefusedError,
    KafkaAwayError,
    PublishError,
    RelayError,
    SkippedError,
    SlotBusyError,
    StopRequestedError,
    UnpublishableError,
)
from outbox_relay.fencing import transactional_id
from outbox_relay.handled import Handled
from outbox_relay.identity import Key, contents
from outbox_relay.instrumentation import traced
from outbox_relay.kafka_asked import KafkaAsked
from outbox_relay.left_out import LeftOut
from outbox_relay.names import one_line
from outbox_relay.one_by_one import OneByOne
from outbox_relay.position import Origin, format_lsn
from outbox_relay.published import CLOCKS_OFF_US, Published, behind_us
from outbox_relay.publisher import Publisher
from outbox_relay.row import Leftover
from outbox_relay.source_settings import SourceSettings
from outbox_relay.stages import Publish
from outbox_relay.state import State
from outbox_relay.table import Table

BACKOFF_MIN_S = 0.5
BACKOFF_MAX_S = 10.0
# After trouble, reading counts as news only once it has lasted, or something got through.
TROUBLE_OVER_S = 1.0
# A standby looks this often whether it may take over.
STANDBY_INTERVAL_S = 0.5
KAFKA_AGAIN_S = 1.0
# Kafka refuses who this relay is: after so long another one may have the outbox.
REFUSED_S_MAX = 5.0
ID_SHOWN_BYTES = 100

_log = structlog.get_logger(__name__)


class _RestartError(RelayError):
    """The session has to restart; the next one continues."""


class Source:
    """One outbox of a database on its way to Kafka.

    Args:
        settings: which outbox of which database; what the role needs depends on how it is read.
        name: in logs, metrics and the client ID.
        read: one session of reading, until told to stop or something is raised.
        sources: how many share the process.
        stop: set when the relay shall end.

    Attributes:
        state, reason: where it stands, and why if it does not read.
        published_rows, published_bytes: acknowledged since the start of the process.
        removed_rows, recovered_rows: the same, taken out of the table; published as the log left them out.
        reconnects: how often it had to begin again.
        waits: how long rows took from commit to acknowledgement.
        acks: what is on its way.
        handled, key: the keys of rows that may be removed from the table, and what a row's key is.
        leftovers: rows that the log did not bring, to be published.
        expects_leftovers: such rows are being looked for.
        gap: why the log does not bring all rows, if so; those that it leaves out are published from the table.
        lost_slot: why the slot cannot be read any further and has to be recreated, if so.
        left_out: what a table that keeps its rows is to be searched for.
        keeps_rows, kept_until: whether rows that stay in the table may be published; when removal is tried again.
        confirmed_lsn: the highest position the slot can have, unless another reader advanced it; None: not known.
        cleaning: held by whoever looks after the table: one session's thread at a time.
        gauges: what was last asked of the database: ``lag_bytes``, ``slot_retained_bytes``, ``dead_rows``.
        control: what people ask of it.
        quarantined: when rows were, by their contents: whoever looks at an older snapshot sees them as they were.
    """

    def __init__(
        self, settings: SourceSettings, name: str, read: "Read", stop: threading.Event, sources: int = 1
    ) -> None:
        self.name = name
        self.dsn = settings.dsn
        self.outbox = settings.outbox
        self.settings = settings
        self._sources = sources
        self.stop = stop
        self.state = State.STARTING
        self.reason = "starting"
        self.published_rows = self.published_bytes = self.removed_rows = self.recovered_rows = 0
        self.reconnects = 0
        self.waits = Waits()
        self.acks = Acknowledgements(Origin(b"", 0, 0))
        self.handled = Handled(uuids=True)
        self.key: Key
        self.leftovers: deque[Sequence[Leftover]] = deque()
        self.expects_leftovers = False
        self.gap: str | None = None
        self.lost_slot: str | None = None
        self.left_out = LeftOut()
        self.keeps_rows, self.kept_until = False, 0.0
        self.confirmed_lsn: int | None = None
        self.cleaning = threading.Lock()
        self.gauges = {"lag_bytes": 0, "slot_retained_bytes": 0, "dead_rows": 0}
        self.quarantined: dict[bytes, float] = {}
        self._read = read
        self._log = _log.bind(source=name)
        self._trouble: str | None = None
        self._warned: set[str] = set()
        self._publisher: Publisher | None = None
        self._rotation: Rotation | None = None
        self._while_blocked: Callable[[], None] | None = None
        self._reading_since = 0.0
        self._counted = (0, 0)
        self._one_by_one, self._behind_us = OneByOne(), 0
        self._kafka = KafkaAsked(settings.bootstrap, lambda: self.control.is_called)
        self._looked = self._again = self._has_read = False
        self._quarantine = Quarantine(settings.dsn, settings.outbox)
        self._table: Table | None = None
        self.control = Control(settings, name, stop, self._what_is_read, self._to_measure)
        self._thread = threading.Thread(target=self._run, name=f"source-{name}", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()
        self.control.start()

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
    def lag_s(self) -> float:
        """Seconds since the commit of the oldest transaction that is not acknowledged; 0 when all are."""
        committed_us = self.acks.oldest_committed_us()
        return max(0.0, time.time() - committed_us / 1e6) if committed_us is not None else 0.0

    # What a session uses.

    @contextmanager
    def publishing(self, table: Table, origin: Origin) -> Iterator[tuple[Publisher, Publish]]:
        """Kafka, and the stage that publishes rows of a table to it, for the length of a session."""
        settings = self.settings
        self._rotation = Rotation(settings.bootstrap, self.warn)
        before_us, self._behind_us = self._behind_us, behind_us(origin)
        if before_us <= CLOCKS_OFF_US < self._behind_us:
            self.warn("this clock is behind the database's: set it right", seconds=self._behind_us // 1_000_000)
        publisher = Publisher(
            settings.bootstrap,
            self.name,
            self._sources,
            self._blocked,
            outbox=self.outbox,
            former=table.former,
            one_by_one=self._one_by_one.is_on,
            transactional_id=transactional_id(origin) if settings.fencing else None,
        )
        with publisher:
            self._publisher = publisher
            try:
                yield publisher, traced(publisher.publish, self.outbox)
            finally:
                self._publisher = self._while_blocked = None

    def published(self, table: Table, origin: Origin, meanwhile: Callable[[], None]) -> Published:
        """What the topics have of a table's rows; ``meanwhile`` is called while they are read."""
        return Published(self.settings, origin, meanwhile, table.former, self._behind_us)

    def has_table(self, table: Table) -> None:
        """Record the table's description."""
        self.key, self._table = table.key, table
        if self.handled.uuids != table.has_uuids:
            self.handled = Handled(uuids=table.has_uuids)

    def making_slot(self, slot: str) -> None:
        """The database is asked for a slot, which takes as long as its longest transaction."""
        self.enter(State.FILLING, "making the slot; waits for transactions that are running", slot=slot)

    def filling(self, acks: Acknowledgements) -> None:
        """Enter the state in which rows from before a new slot are published."""
        self.acks, self._counted = acks, (0, 0)
        self.enter(State.FILLING, "publishing what was committed before the slot")

    def reading(self, acks: Acknowledgements, while_blocked: Callable[[], None]) -> None:
        """Enter the reading state; ``while_blocked`` is called while Kafka accepts no more."""
        self.acks, self._counted = acks, (0, 0)
        self.leftovers.clear()
        self._looked, self._has_read = False, True
        self._reading_since = time.monotonic()
        self._while_blocked = while_blocked

    def progress(self, *, may_restart: bool = True) -> None:
        """Count acknowledged rows, and log progress; begin anew if that is due, and this session may end here."""
        rows, value_bytes = self.acks.acknowledged_rows, self.acks.acknowledged_bytes
        self.published_rows += rows - self._counted[0]
        self.published_bytes += value_bytes - self._counted[1]
        self._counted = (rows, value_bytes)
        self._say_how_it_goes(may_restart=may_restart)
        if may_restart and self._again:
            raise _RestartError
        # A rewind hands its rows over again, and is done when it is no longer asked for.
        may_be_over = may_restart and self._has_read and self.control.orders.rewind is None
        if may_be_over and self._one_by_one.end_if_over(self.acks.confirmed_lsn, has_looked=self._looked):
            self._log.info("rows are sent in batches again")
            raise _RestartError

    def raise_if_stopped(self) -> None:
        """End a long operation if the relay is to stop, or something is asked of it.

        Raises:
            StopRequestedError: it is.
        """
        if self.stop.is_set():
            raise StopRequestedError("stopped at the start; what was not finished is done at the next one")
        if self.control.is_called:
            raise _RestartError

    # What is found out beside the session, by the thread that looks after the table.

    def find_gap(self, gap: str | None, **context: Any) -> None:
        """Record why the log does not bring all rows; None: it does."""
        if gap is not None and gap != self.gap:
            self._log.warning(gap, **context)
        elif gap is None and self.gap is not None:
            self._log.info("the log brings all rows again")
        self.gap = gap

    def take_leftovers(self, leftovers: Sequence[Leftover]) -> None:
        """Queue rows for publication that the log did not bring, and that are on no topic."""
        self._log.warning("rows that the log did not bring are published from the table", rows=len(leftovers))
        self.recovered_rows += len(leftovers)
        self.leftovers.append(leftovers)

    def has_looked(self, *, keeps_rows: bool) -> None:
        """The table has been looked through; whether published rows stay in it."""
        self._looked, self.keeps_rows = True, keeps_rows

    def leave_out(self, reason: str) -> None:
        """Have a table searched that keeps its rows: the log may not have brought all of them."""
        self._log.warning("the log may have left out rows: the table is searched for them", why=reason)
        self.left_out.note()

    def lose_slot(self, reason: str) -> None:
        """Have the slot recreated: it can be read no further."""
        self.lost_slot = reason
        self.begin_again(reason)

    def begin_again(self, reason: str) -> None:
        """End the session, and start another one at once."""
        self._log.info("beginning again", reason=reason)
        self._again = True

    def enter(self, state: State, reason: str, **context: Any) -> None:
        """Enter a state; log it if it is new. An error that recurs at every attempt is logged once."""
        news = (state, reason) != (self.state, self.reason) and reason != self._trouble
        is_said = news and not (state is State.FILLING and self._trouble)
        if state is State.WAITING:
            self._trouble = reason
        elif state is State.READING:
            self._trouble = None
        self.state, self.reason = state, reason
        if is_said:
            say = self._log.warning if state is State.WAITING else self._log.info
            say(reason, state=state.name.lower(), **context)

    def quarantine(self, error: UnpublishableError) -> None:
        """Quarantine a row that can never be published.

        Raises:
            SetupError: the role may not.
            psycopg.Error: the database cannot.
        """
        self._quarantine.add(error)
        self.quarantined[contents(error.row)] = time.monotonic()
        row_id = (error.row.id or b"NULL")[:ID_SHOWN_BYTES].decode(errors="backslashreplace")
        is_skipped = isinstance(error, SkippedError)
        self._log.error(
            "a row is skipped" if is_skipped else "a row can never be published and is quarantined",
            id=row_id,
            reason=error.reason,
            see="settle outbox dead list" if self.outbox.is_standard else self.outbox.dead_label,
        )

    def warn(self, line: str, **context: Any) -> None:
        """Log a warning for the operator."""
        self._log.warning(line, **context)

    def warn_once(self, line: str) -> None:
        """Log a warning that holds for the whole process."""
        if line not in self._warned:
            self._warned.add(line)
            self._log.warning(line)

    def say(self, line: str, **context: Any) -> None:
        """Log something for the operator that is not a state."""
        self._log.info(line, **context)

    # The source's thread.

    def _run(self) -> None:
        pause_s = BACKOFF_MIN_S
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                self.control.look()
                if (pause := self.control.orders.pause) is not None:
                    self.control.hold(pause, self.gauges, partial(self.enter, State.PAUSED))
                    continue
                self._kafka.ask(is_standby=self.state is State.STANDBY)
                if self._session():
                    continue
            except StopRequestedError as error:
                self._log.info(str(error))
            except SlotBusyError as error:
                self.confirmed_lsn = self.lost_slot = None  # its reader advances it, or makes it anew
                self.enter(State.STANDBY, str(error))
                self.control.rest(STANDBY_INTERVAL_S)
                continue
            except KafkaAwayError as error:
                self.confirmed_lsn = self.lost_slot = None  # meanwhile others may read it
                if not self.control.is_called:
                    self.enter(State.WAITING, str(error))
                self.control.rest(KAFKA_AGAIN_S)
                continue
            except (RelayError, KafkaSettingsError, psycopg.Error) as error:
                self.enter(State.WAITING, one_line(error))
            except Exception as error:
                self.enter(State.WAITING, f"a bug in the relay: {one_line(error)}", exc_info=True)
            if self.control.is_called:
                continue
            self.reconnects += 1
            if time.monotonic() - began > BACKOFF_MAX_S:
                pause_s = BACKOFF_MIN_S
            self.control.rest(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_MAX_S)
        self.enter(State.STOPPED, "stopped")

    def _to_measure(self) -> dict[str, int] | None:
        """What nobody else fills in: neither the session, nor who holds a pause, nor another relay of its own."""
        is_seen_to = self.state in (State.READING, State.PAUSED, State.STANDBY, State.STOPPED)
        return None if is_seen_to else self.gauges

    def _what_is_read(self) -> tuple[Table, int, bool, bool] | None:
        if (table := self._table) is None or self.state is not State.READING:
            return None
        return table, self.acks.confirmed_lsn, self.keeps_rows, self.left_out.is_outstanding

    def _session(self) -> bool:
        """One session; whether the next may begin at once."""
        self._again = self._has_read = False
        self.acks.refusal = None  # the last session's, which was seen to
        try:
            self._read(self)
        except _RestartError:
            return True
        except PublishError as error:
            # The producer stops at a refusal; which record it was, only the delivery reports tell.
            refusal = self.acks.refusal or error
            if isinstance(refusal, UnpublishableError):
                self.quarantine(refusal)
            elif isinstance(refusal, BatchRefusedError):
                if self._one_by_one.begin(self.acks):
                    self._log.warning("rows are sent one by one, to find the one refused", why=str(refusal))
            else:
                raise refusal from None
            return True
        finally:
            self._quarantine.close()
            if self._has_read:
                self.confirmed_lsn = self.left_out.read_lsn = self.acks.confirmed_lsn
        return self._again or self.control.is_called

    def _blocked(self) -> None:
        self._say_how_it_goes()
        if self.stop.is_set():
            raise StopRequestedError("stopped while Kafka takes no records; they are published after the start")
        if self.control.is_called:
            raise _RestartError
        if self._while_blocked is not None:
            self._while_blocked()

    def _say_how_it_goes(self, *, may_restart: bool = True) -> None:
        publisher = self._publisher
        if publisher is None:
            return
        if may_restart and self._rotation is not None and self._rotation.is_due():
            self._log.info("the Kafka identity has changed: beginning again")
            raise _RestartError
        if publisher.away is not None:
            self.enter(State.WAITING, publisher.away)
            if publisher.refused_s > REFUSED_S_MAX:
                raise PublishError(publisher.away)
        elif self._while_blocked is not None and self.state is not State.READING and self._trouble_is_over():
            self.enter(State.READING, "reading", from_lsn=format_lsn(self.acks.confirmed_lsn))

    def _trouble_is_over(self) -> bool:
        lasted_s = time.monotonic() - self._reading_since
        return self._trouble is None or lasted_s > TROUBLE_OVER_S or self.acks.acknowledged_rows > 0


Read = Callable[[Source], None]
"""One way to read an outbox: a session, from connecting to what ends it."""
