"""The filling of a new slot: what was committed before it is published from the table, then it is made to stay."""

from contextlib import closing

from outbox_relay import initial
from outbox_relay.acknowledgements import Acknowledgements
from outbox_relay.dead import dead_since, not_dead
from outbox_relay.initial import Rule
from outbox_relay.position import Origin, format_lsn
from outbox_relay.publisher import Publisher
from outbox_relay.removal import rows_stay
from outbox_relay.replication import ReplicationConnection, connect
from outbox_relay.slot import NewSlot, Slot, new_slot
from outbox_relay.slot_name import how_to_drop
from outbox_relay.source import Source
from outbox_relay.stages import Publish
from outbox_relay.table import Table, may_delete

# While Kafka is unavailable polls become rarer, down to this interval.
ACK_LOOK_INTERVAL_MAX_S = 0.1
# The keys of a running transaction are packed when there are so many.
PACK_ROWS = 1_000


def keeps_rows(source: Source, connection: ReplicationConnection) -> bool:
    """Whether published rows stay in the table, as far as is known without trying it out."""
    return source.keeps_rows or not (source.settings.cleanup and may_delete(connection, source.outbox))


def fill(
    source: Source,
    connection: ReplicationConnection,
    table: Table,
    name: str,
    origin: Origin,
    publisher: Publisher,
    publish: Publish,
) -> Slot:
    """Create the slot, and publish what was committed before it.

    Raises:
        TableBusyError: others hold rows of the table, so that it is not known whether published ones stay there.
    """
    source.making_slot(name)

    def refused(why: str) -> None:
        source.warn_once(f"published rows stay in {source.outbox.label}: {why}")

    with closing(connect(source.dsn, replication=False)) as ordinary:
        cleanup = source.settings.cleanup
        source.keeps_rows = source.keeps_rows or rows_stay(ordinary, table, cleanup=cleanup, refused=refused)
    rule = initial.rule(source.settings, origin.now_us, keeps=source.keeps_rows, meanwhile=source.raise_if_stopped)
    with new_slot(connection, table, name) as slot:
        acks = Acknowledgements(origin, handled=source.handled)
        source.filling(acks)
        dead = {(slot.starts_at_lsn - 1, contents) for _, contents in dead_since(connection, 0, source.outbox)}
        publish = not_dead(publish, dead)
        publish_rows_before(slot, acks, publisher, publish, rule, source)
        made = slot.make_permanent()
    source.lost_slot, source.confirmed_lsn = None, made.confirmed_lsn
    source.left_out.clear()
    rows = acks.acknowledged_rows
    source.say("slot made", slot=made.name, rows_before=rows, lsn=format_lsn(made.confirmed_lsn))
    if source.outbox.messages is not None:
        source.warn("messages of the log from before the slot are not published, as no table has them")
    drop = how_to_drop(name, source.outbox)
    initial.tell(rule, source.warn, f"; if they are to be: drop the slot ({drop}) and start with --initial all")
    return made


def publish_rows_before(
    slot: NewSlot, acks: Acknowledgements, publisher: Publisher, publish: Publish, rule: Rule, source: Source
) -> None:
    """Publish what was committed before a new slot, and wait until Kafka has all of it.

    Raises:
        PublishError: Kafka refused a record.
        StopRequestedError: the relay shall end.
    """

    def look() -> None:
        publisher.poll()
        acks.advance()
        source.progress()
        source.raise_if_stopped()

    # These were committed before the slot; their exact positions are unknown.
    transaction = acks.begin(slot.starts_at_lsn - 1, slot.oldest_us())
    delivered = transaction.delivered
    for seen, (row, created_us) in enumerate(slot.rows_before(), 1):
        is_wanted = rule.wants(row, created_us)
        if is_wanted or rule.is_final:
            transaction.keys.append(source.key(row))
        if is_wanted:
            transaction.rows += 1
            transaction.value_bytes += len(row.payload or b"")
            publish(row, transaction, delivered)
        if seen % PACK_ROWS == 0:
            acks.pack(transaction)
            look()
    acks.end(transaction, slot.starts_at_lsn)
    while publisher.waiting:
        publisher.push(ACK_LOOK_INTERVAL_MAX_S)
        look()
    look()
