"""The reader of an outbox from the write-ahead log; the one to use wherever logical decoding is available.

One session: be the only relay, find or make the slot, publish what was committed before it, then read, publish,
confirm. Straight-line code: errors are raised to ``source.py``, which starts a new session. How eagerly it works
follows the load: at once when idle, in large bursts when much is coming in.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from contracts import failpoints
from outbox_relay import covering, logged, marks
from outbox_relay.acknowledgements import Acknowledgements, Transaction
from outbox_relay.cleaner import Cleaner
from outbox_relay.control.skips import unless_skipped
from outbox_relay.control.table import gone
from outbox_relay.dead import bring_up_to_date, dead_since, not_dead
from outbox_relay.errors import PublicationMissingError
from outbox_relay.filling import ACK_LOOK_INTERVAL_MAX_S, PACK_ROWS, fill, keeps_rows
from outbox_relay.identity import Key
from outbox_relay.initial import STILL_SET
from outbox_relay.marking import may_mark
from outbox_relay.pgoutput import Begin, Commit, Decoder
from outbox_relay.publisher import Publisher
from outbox_relay.replication import ReplicationConnection, ReplicationStream, connect, is_read_by
from outbox_relay.rewinding import rewinding
from outbox_relay.row import Leftover, OutboxRow
from outbox_relay.slot import Slot, drop_slot, find_slot, usable
from outbox_relay.slot_name import other_slots, slot_name
from outbox_relay.source import Source
from outbox_relay.stages import Publish, not_yet_published, or_quarantined
from outbox_relay.table import current_lsn, find_origin, find_table, lock

# A source that has caught up pauses before it reads again, longer at higher rates: a burst of tens of
# rows costs broker, database and relay a fraction of what the rows one by one do. Up to 200 rows/s it is nothing,
# at 500 rows/s 1.5 ms, from 6,200 rows/s on 30 ms, which at such a rate is hardly noticed.
REST_FROM_RATE = 200.0
REST_S_PER_RATE = 5e-6
REST_MAX_S = 0.030
RATE_WINDOW_S = 0.1

# How long a push waits for acknowledgements before it looks for new rows again; a healthy broker needs 1-2 ms.
PUSH_WAIT_S = 0.005
# While rows are looked for that did not come, how often it is looked whether there are some.
LEFTOVERS_LOOK_S = 0.02

# The confirmed position is reported when it has moved, but no more often than this; each report costs the server.
CONFIRM_INTERVAL_S = 0.1
# When idle, how often the server is asked for its position, so that it can release its log (else every 30 s).
HEARTBEAT_INTERVAL_S = 1.0

LSN_MAX = 1 << 64

# How long a clean stop waits for acknowledgements; what is missing then is published again after the start.
STOP_WAIT_S = 5.0


def stream(source: Source) -> None:
    """One session of a source: from the slot's position on, until the relay shall end.

    Raises:
        RelayError, psycopg.Error: what ended it.
    """
    with closing(connect(source.dsn)) as connection:
        outbox = source.outbox
        lock(connection, outbox)
        name = slot_name(connection, outbox)
        table = find_table(connection, outbox)
        bring_up_to_date(connection, outbox)
        source.has_table(table)
        keeps = keeps_rows(source, connection)
        source.keeps_rows = keeps
        changed = covering.ensure(source, connection, table, keeps=keeps)
        if table.is_marked:
            _decide_marks(source, keeps=keeps)
        slot = _keep_slot(source, connection, name, keeps=keeps)
        if source.confirmed_lsn is None:
            source.left_out.forget_times(slot.confirmed_lsn if slot is not None else None)
        if keeps and changed is not None and slot is not None:  # a new one leaves out nothing
            source.leave_out(changed)
        origin = find_origin(connection, outbox)
        if slot is not None:
            origin = replace(origin, confirmed_lsn=slot.confirmed_lsn)
        with (
            source.publishing(table, origin) as (publisher, publish),
            closing(source.published(table, origin, source.raise_if_stopped)) as published,
        ):
            published.begins_at_lsn = current_lsn(connection)
            skips = source.control.orders.skips
            if slot is None:
                new = not_yet_published(publish, published, source.quarantine)
                new = unless_skipped(new, skips, frozenset(), published, source.quarantine)
                slot = fill(source, connection, table, name, origin, publisher, new)
            if source.keeps_rows and may_mark(connection, table):
                # Who was killed may not have marked all that it published; a filling marks nothing that it leaves.
                source.left_out.note(for_marks=True)
            _warn_of_others(source, connection)
            dead = dead_since(connection, slot.confirmed_lsn, outbox)
            skipped = gone(connection, outbox, slot.confirmed_lsn)
            acks = Acknowledgements(
                replace(origin, confirmed_lsn=slot.confirmed_lsn), source.waits, source.handled
            )
            backend_pid = connection.info.backend_pid
            is_there = partial(is_read_by, source.dsn, slot.name, backend_pid)
            from_log = logged.decoder(outbox, uuids=table.has_uuids) if outbox.messages is not None else None
            with (
                rewinding(source, connection, table, slot.name) as again,
                ReplicationStream(
                    connection, slot.name, outbox.publication_name, is_there, messages=from_log is not None
                ) as stream,
            ):
                new = not_dead(not_yet_published(publish, published, source.quarantine), dead)
                left = or_quarantined(publish, source.quarantine)
                forwarder = Forwarder(
                    stream,
                    Decoder(outbox, from_log),
                    acks,
                    publisher,
                    unless_skipped(new, skips, skipped, published, source.quarantine),
                    unless_skipped(left, skips, frozenset(), None, source.quarantine),
                    source,
                    until_lsn=again.starts_at_lsn if again is not None else None,
                )
                published.meanwhile = forwarder.keep_alive
                source.reading(acks, forwarder.confirm)
                try:
                    if again is not None:
                        forwarder.run()
                        again.publish(acks, publisher, left, forwarder.confirm)
                        return
                    with Cleaner(source, table, origin):
                        forwarder.run()
                except PublicationMissingError as error:
                    if forwarder.is_settled():
                        source.lose_slot(str(error))
                    raise


def _warn_of_others(source: Source, connection: ReplicationConnection) -> None:
    """Report the slots that are left of when the outbox was split otherwise; their rows are in the table."""
    if source.outbox.share is not None and source.outbox.share.number > 1:
        return  # the first one says it
    for name in other_slots(connection, source.outbox):
        source.warn(
            "a slot is left of when the outbox was split otherwise, and the server keeps its log for it: "
            f"SELECT pg_drop_replication_slot('{name}')"
        )


def _decide_marks(source: Source, *, keeps: bool) -> None:
    """Finish what a poller began, who was stopped before every row that it found was decided on."""
    with closing(connect(source.dsn, replication=False)) as ordinary:
        if marks.decide(source, ordinary) and keeps:
            source.leave_out("a poller left rows undecided")


def _keep_slot(source: Source, connection: ReplicationConnection, name: str, *, keeps: bool) -> Slot | None:
    """The slot to read on from; None where a new one is to be made.

    One that can be read is never dropped: what it holds may stand nowhere else.
    """
    slot = find_slot(connection, name)
    if slot is None:
        return None
    lost = usable(connection, name) or source.lost_slot
    if lost is not None:
        source.warn("the slot is made anew; rows that it did not bring are published from the table", why=lost)
        drop_slot(connection, name)
        return None
    if source.confirmed_lsn is not None and slot.confirmed_lsn > source.confirmed_lsn:
        source.warn("somebody has advanced the slot; rows that it left out are published from the table")
        if keeps:
            source.leave_out("somebody has advanced the slot")
    if source.settings.initial is not None:
        source.warn_once(STILL_SET)
    return slot


class Forwarder:
    """One source's stream from the slot to Kafka.

    Args:
        stream: where messages come from and positions are confirmed.
        decoder: what they say.
        acks: what is on its way.
        publisher: Kafka, for its acknowledgements.
        publish: the stage that takes rows of the stream: the publisher's own, or those around it.
        publish_leftover: the one that takes rows that the stream did not bring.
        source: is notified of progress, and holds those rows.
        until_lsn: where to end, before a transaction that committed there or later; None: nowhere.
    """

    def __init__(
        self,
        stream: ReplicationStream,
        decoder: Decoder,
        acks: Acknowledgements,
        publisher: Publisher,
        publish: Publish,
        publish_leftover: Publish,
        source: Source,
        *,
        until_lsn: int | None = None,
    ) -> None:
        self._stream = stream
        self._acks = acks
        self._publisher = publisher
        self._publish = publish
        self._publish_leftover = publish_leftover
        self._source = source
        self._leftovers = source.leftovers
        self._progress = source.progress
        self._control = source.control
        self._until_lsn = until_lsn if until_lsn is not None else LSN_MAX
        self._is_at_end = False
        self._decoder = decoder
        self._incomplete: str | None = None
        self._transaction: Transaction | None = None
        self._rate = Rate()
        self._reported_lsn = acks.confirmed_lsn
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
            if self._leftovers and self._transaction is None:
                self._publish_leftovers(self._leftovers.popleft())
            self._publisher.poll()
            self.confirm()
            if not self._is_at_end and self._stream.wait(0):
                continue  # the server is ahead: batches fill up by themselves
            if self._transaction is None:  # within one the next rows are on their way, and are sent with these
                self._publisher.push(PUSH_WAIT_S)
                self.confirm()
            time.sleep(rest_s(self._rate.per_second))
            self._stream.wait(self._patience_s())
        self._finish()

    def _read_and_publish(self) -> int:
        if self._is_at_end:
            return 0
        decode, publish, transaction = self._decoder.decode, self._publish, self._transaction
        # Looked up once a transaction: a bound method for each row would be kept until its acknowledgement.
        delivered = transaction.delivered if transaction is not None else None
        keys: list[bytes | None] = transaction.keys if transaction is not None else []
        digest = self._digest()
        rows = 0
        for message in self._stream.messages():
            event = decode(message)
            if type(event) is OutboxRow:
                assert transaction is not None and delivered is not None, "a row outside of a transaction"
                transaction.rows += 1
                transaction.value_bytes += len(event.payload or b"")
                keys.append(event.id if digest is None else digest(event))
                publish(event, transaction, delivered)
                rows += 1
            elif type(event) is Begin:
                if event.commit_lsn >= self._until_lsn:
                    self._is_at_end = True
                    break
                transaction = self._transaction = self._acks.begin(event.commit_lsn, event.committed_us)
                delivered, keys = transaction.delivered, transaction.keys
            elif type(event) is Commit:
                assert transaction is not None, "a commit outside of a transaction"
                self._acks.end(transaction, event.end_lsn)
                transaction = self._transaction = None
            elif event is None:
                digest = self._digest()  # another relation may have been announced
        if transaction is not None and len(transaction.keys) >= PACK_ROWS:
            self._acks.pack(transaction)
        if self._decoder.incomplete != self._incomplete:
            self._incomplete = self._decoder.incomplete
            covering.miss_columns(self._source, self._incomplete)
        if rows:
            failpoints.hit("relay.rows-sent")
        # Where it ends, all before has come, whatever the last keepalive said.
        self._acks.reached(self._until_lsn if self._is_at_end else min(self._stream.wal_end, self._until_lsn))
        return rows

    def _digest(self) -> Key | None:
        """What makes the keys of the rows that come now, as the table has them; None: they are the IDs."""
        if not self._source.handled.uuids:
            return self._source.key
        return None if self._decoder.has_uuids else _no_key

    def _publish_leftovers(self, leftovers: Sequence[Leftover]) -> None:
        """Publish rows that the stream did not bring, as if they were a transaction that ends here."""
        acks = self._acks
        written_us = [one.created_us for one in leftovers if one.created_us]
        # Their place is after all that was read, so that whoever reads the topic backwards later does not stop at
        # them before rows that may be read again.
        transaction = acks.begin(acks.begun_lsn, min(written_us, default=int(time.time() * 1e6)))
        transaction.is_leftover = True
        delivered = transaction.delivered
        for one in leftovers:
            transaction.rows += 1
            transaction.value_bytes += len(one.row.payload or b"")
            transaction.keys.append(self._source.key(one.row))
            self._publish_leftover(one.row, transaction, delivered)
        acks.end(transaction, max(acks.confirmed_lsn, 1))

    def is_settled(self) -> bool:
        """Wait a little, once the stream has ended; whether Kafka has all the transactions that came whole."""
        self._publisher.push(STOP_WAIT_S)
        self._acks.advance()
        return not self._acks.waits_for_kafka

    def keep_alive(self) -> None:
        """Send a keepalive to the server while something else takes long, and stop if requested."""
        self._source.raise_if_stopped()
        if time.monotonic() - self._reported_at >= HEARTBEAT_INTERVAL_S:
            self._stream.confirm(self._reported_lsn)
            self._reported_at = time.monotonic()

    def confirm(self) -> None:
        """Process acknowledgements, and report the confirmed position when it is due."""
        acknowledged_before = self._acks.acknowledged_rows
        self._acks.advance()
        if self._acks.acknowledged_rows != acknowledged_before:
            self._ack_look_s = PUSH_WAIT_S
            self._publisher.answered()
            failpoints.hit("relay.acknowledged")
        self._progress()
        confirmed = self._acks.confirmed_lsn
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
        if self._acks.confirmed_lsn >= self._until_lsn:
            return True
        if not self._control.is_called:
            return False
        self._end_at = self._end_at or time.monotonic() + STOP_WAIT_S
        return self._transaction is None or time.monotonic() > self._end_at

    def _patience_s(self) -> float:
        """How long to wait for new rows before other work is due, seconds."""
        interval = CONFIRM_INTERVAL_S if self._acks.confirmed_lsn != self._reported_lsn else HEARTBEAT_INTERVAL_S
        due_s = max(0.0, self._reported_at + interval - time.monotonic())
        if self._source.expects_leftovers:
            due_s = min(due_s, LEFTOVERS_LOOK_S)
        if self._publisher.waiting:
            due_s = min(due_s, self._ack_look_s)
            self._ack_look_s = min(2 * self._ack_look_s, ACK_LOOK_INTERVAL_MAX_S)
        return due_s

    def _finish(self) -> None:
        self._publisher.push(STOP_WAIT_S)
        self._acks.advance()
        self._stream.confirm(self._acks.confirmed_lsn)


def _no_key(_row: OutboxRow) -> None:
    """The key of a row from before IDs were UUIDs: the table has none of them."""


def rest_s(rate: float) -> float:
    """How long a source pauses that has caught up, seconds, at so many rows per second."""
    return min(max(0.0, rate - REST_FROM_RATE) * REST_S_PER_RATE, REST_MAX_S)


class Rate:
    """The recent rate of rows per second."""

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
