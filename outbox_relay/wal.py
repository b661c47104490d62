"""How is an outbox read from the write-ahead log? The way to take wherever logical decoding is to be had.

One session: find or make the slot, publish what was committed before it, then read, publish, confirm.
Straight-line code: what can go wrong is raised to ``source.py``, which begins anew. How eagerly it works follows
the load: at once when idle, in large bursts when much is coming in.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import failpoints
from outbox_relay.cleaner import Cleaner
from outbox_relay.columns import bytea_types, find_columns
from outbox_relay.dead import bring_up_to_date, dead_since, not_dead
from outbox_relay.errors import StopRequestedError
from outbox_relay.ledger import Ledger, Transaction
from outbox_relay.pgoutput import Begin, Commit, Decoder, OutboxRow
from outbox_relay.position import Origin, format_lsn
from outbox_relay.published import Published
from outbox_relay.publisher import Publish, Publisher, not_yet_published
from outbox_relay.replication import ReplicationConnection, ReplicationStream, connect
from outbox_relay.slot import PUBLICATION, NewSlot, Slot, find_slot, new_slot, reserve_slot
from outbox_relay.slot_name import slot_name
from outbox_relay.source import Source
from outbox_relay.table import find_origin

# A source that has caught up rests before it reads again, the longer the more is coming in: a burst of tens of
# rows costs broker, database and relay a fraction of what the rows one by one do. At 20 rows/s it is nothing, at
# 500 rows/s 2.5 ms, from 3,000 rows/s on 15 ms, which at such a rate is hardly noticed.
REST_S_PER_RATE = 5e-6
REST_MAX_S = 0.015
RATE_WINDOW_S = 0.1

# How long a push waits for acknowledgements before it looks for new rows again; a healthy broker needs 1-2 ms.
PUSH_WAIT_S = 0.005
# With Kafka away the looks become rarer, down to this.
ACK_LOOK_INTERVAL_MAX_S = 0.1

# The confirmed position is reported when it has moved, but no more often than this; each report costs the server.
CONFIRM_INTERVAL_S = 0.1
# At quiet, how often the server is asked how far it is, so that its log can go (it would say so every 30 s).
HEARTBEAT_INTERVAL_S = 1.0

# How long a clean stop waits for acknowledgements; what is missing then is published again after the start.
STOP_WAIT_S = 5.0


def read(source: Source) -> None:
    """One session of a source: from the slot's position on, until the relay shall end.

    Raises:
        RelayError, psycopg.Error: what ended it.
    """
    with closing(connect(source.dsn)) as connection:
        slot = find_slot(connection, slot_name(connection), find_columns(connection))
        bring_up_to_date(connection)
        origin = find_origin(connection)
        if slot is not None:
            origin = replace(origin, confirmed_lsn=slot.confirmed_lsn)
        with (
            source.publishing() as (publisher, publish),
            closing(Published(source.settings.kafka_bootstrap, origin)) as published,
        ):
            if slot is None:
                new = not_yet_published(publish, published, source.bury)
                slot = _fill(source, connection, origin, publisher, new)
            dead = dead_since(connection, slot.confirmed_lsn)
            decoder = Decoder(bytea_types=bytea_types(connection))
            ledger = Ledger(replace(origin, confirmed_lsn=slot.confirmed_lsn), source.waits)
            with ReplicationStream(connection, slot.name, PUBLICATION) as stream:
                new = not_dead(not_yet_published(publish, published, source.bury), dead)
                pipeline = Pipeline(stream, decoder, ledger, publisher, new, source.progress, source.stop)
                source.reading(ledger, pipeline.confirm)
                with Cleaner(source):
                    pipeline.run()


def _fill(
    source: Source, connection: ReplicationConnection, origin: Origin, publisher: Publisher, publish: Publish
) -> Slot:
    """Make the slot, and publish what was committed before it."""
    name = slot_name(connection)
    reserve_slot(connection, name)
    source.making_slot(name)
    with new_slot(connection, name) as slot:
        ledger = Ledger(origin)
        source.filling(ledger)
        dead = {(slot.starts_at_lsn - 1, contents) for _, contents in dead_since(connection, 0)}
        publish = not_dead(publish, dead)
        publish_rows_before(slot, ledger, publisher, publish, source.progress, source.stop)
        made = slot.make_permanent()
    source.say(
        "slot made", slot=made.name, rows_before=ledger.acknowledged_rows, lsn=format_lsn(made.confirmed_lsn)
    )
    return made


class Pipeline:
    """One source's stream from the slot to Kafka.

    Args:
        stream: where messages come from and positions are confirmed.
        decoder: what they say.
        ledger: what is on its way.
        publisher: Kafka, for its acknowledgements.
        publish: the stage that takes rows: the publisher's own, or those around it.
        progress: called whenever the source has caught up or the confirmed position moved.
        stop: set when the relay shall end.
    """

    def __init__(
        self,
        stream: ReplicationStream,
        decoder: Decoder,
        ledger: Ledger,
        publisher: Publisher,
        publish: Publish,
        progress: Callable[[], None],
        stop: threading.Event,
    ) -> None:
        self._stream = stream
        self._ledger = ledger
        self._publisher = publisher
        self._publish = publish
        self._progress = progress
        self._stop = stop
        self._decoder = decoder
        self._transaction: Transaction | None = None
        self._rate = Rate()
        self._reported_lsn = ledger.confirmed_lsn
        self._reported_at = 0.0
        self._ack_look_s = PUSH_WAIT_S
        self._end_at = 0.0

    def run(self) -> None:
        """Until told to stop, or something is raised.

        Raises:
            RelayError: the stream is lost, Kafka refused a record, or bytes make no sense.
        """
        while not self._may_end():
            self._rate.count(self._read_and_publish())
            self._publisher.poll()
            self.confirm()
            if self._stream.wait(0):
                continue  # the server is ahead: batches fill up by themselves
            self._publisher.push(PUSH_WAIT_S)
            self.confirm()
            time.sleep(min(self._rate.per_second * REST_S_PER_RATE, REST_MAX_S))
            self._stream.wait(self._patience_s())
        self._finish()

    def _read_and_publish(self) -> int:
        decode, publish, transaction = self._decoder.decode, self._publish, self._transaction
        # Looked up once a transaction: a bound method for each row would be kept until its acknowledgement.
        delivered = transaction.delivered if transaction is not None else None
        rows = 0
        for message in self._stream.messages():
            event = decode(message)
            if type(event) is OutboxRow:
                assert transaction is not None and delivered is not None, "a row outside of a transaction"
                transaction.rows += 1
                transaction.value_bytes += len(event.payload or b"")
                publish(event, transaction, delivered)
                rows += 1
            elif type(event) is Begin:
                transaction = self._transaction = self._ledger.begin(event.commit_lsn, event.committed_us)
                delivered = transaction.delivered
            elif type(event) is Commit:
                assert transaction is not None, "a commit outside of a transaction"
                self._ledger.end(transaction, event.end_lsn)
                transaction = self._transaction = None
        if rows:
            failpoints.hit("relay.rows-sent")
        self._ledger.reached(self._stream.wal_end)
        return rows

    def confirm(self) -> None:
        """Take note of what is acknowledged, and report it when it is time."""
        acknowledged_before = self._ledger.acknowledged_rows
        self._ledger.advance()
        if self._ledger.acknowledged_rows != acknowledged_before:
            self._ack_look_s = PUSH_WAIT_S
            self._publisher.answered()
            failpoints.hit("relay.acknowledged")
        self._progress()
        confirmed = self._ledger.confirmed_lsn
        since_s = time.monotonic() - self._reported_at
        moved = confirmed != self._reported_lsn
        if (
            (moved and since_s >= CONFIRM_INTERVAL_S)
            or since_s >= HEARTBEAT_INTERVAL_S
            or self._stream.reply_requested
        ):
            self._stream.confirm(confirmed, request_reply=since_s >= HEARTBEAT_INTERVAL_S)
            self._reported_lsn = confirmed
            self._reported_at = time.monotonic()
            if moved:
                failpoints.hit("relay.confirmed")

    def _may_end(self) -> bool:
        """Whether to end now: between two transactions, so that the next start repeats no half one."""
        if not self._stop.is_set():
            return False
        self._end_at = self._end_at or time.monotonic() + STOP_WAIT_S
        return self._transaction is None or time.monotonic() > self._end_at

    def _patience_s(self) -> float:
        """How long to wait for new rows before something else is due, seconds."""
        interval = CONFIRM_INTERVAL_S if self._ledger.confirmed_lsn != self._reported_lsn else HEARTBEAT_INTERVAL_S
        due_s = max(0.0, self._reported_at + interval - time.monotonic())
        if self._publisher.waiting:
            due_s = min(due_s, self._ack_look_s)
            self._ack_look_s = min(2 * self._ack_look_s, ACK_LOOK_INTERVAL_MAX_S)
        return due_s

    def _finish(self) -> None:
        self._publisher.push(STOP_WAIT_S)
        self._ledger.advance()
        self._stream.confirm(self._ledger.confirmed_lsn)


def publish_rows_before(
    slot: NewSlot,
    ledger: Ledger,
    publisher: Publisher,
    publish: Publish,
    progress: Callable[[], None],
    stop: threading.Event,
) -> None:
    """Publish what was committed before a new slot, and wait until Kafka has all of it.

    Raises:
        PublishError: Kafka refused a record.
        StopRequestedError: the relay shall end.
    """
    # These were committed before the slot; where exactly, nobody knows any more.
    transaction = ledger.begin(slot.starts_at_lsn - 1, slot.oldest_us())
    delivered = transaction.delivered
    for row in slot.rows_before():
        transaction.rows += 1
        transaction.value_bytes += len(row.payload or b"")
        publish(row, transaction, delivered)
        if transaction.rows % 1_000 == 0:
            publisher.poll()
            ledger.advance()
            progress()
            _raise_if(stop)
    ledger.end(transaction, slot.starts_at_lsn)
    while publisher.waiting:
        publisher.push(ACK_LOOK_INTERVAL_MAX_S)
        ledger.advance()
        progress()
        _raise_if(stop)
    ledger.advance()
    progress()


def _raise_if(stop: threading.Event) -> None:
    if stop.is_set():
        raise StopRequestedError(
            "stopped while the rows before the slot were published; the slot is made at the next start"
        )


class Rate:
    """How many rows a second, lately?"""

    def __init__(self) -> None:
        self.per_second = 0.0
        self._rows = 0
        self._since = time.monotonic()

    def count(self, rows: int) -> None:
        """Add rows to the running window."""
        self._rows += rows
        elapsed = time.monotonic() - self._since
        if elapsed >= RATE_WINDOW_S:
            self.per_second = self._rows / elapsed
            self._rows = 0
            self._since += elapsed
