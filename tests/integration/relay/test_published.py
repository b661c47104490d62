"""What the relay looks for at the end of a topic when it starts."""

from dataclasses import replace
from uuid import UUID

import psycopg

from outbox_relay.position import parse_lsn
from outbox_relay.published import tail_ids
from outbox_relay.table import find_origin
from tests.integration.relay.outbox import header, relaying


def origin_of(outbox, confirmed_lsn):
    with psycopg.connect(outbox.dsn) as connection:
        return replace(find_origin(connection), confirmed_lsn=confirmed_lsn)


def test_only_rows_that_may_come_again_are_waited_for(outbox):
    """A record of a confirmed row would be looked for at each row, and never be found."""
    with relaying(outbox):
        outbox.wait_published([outbox.insert(f"acc-{number}") for number in range(40)])
        outbox.wait_confirmed()
    by_position = {
        header(record, "id"): parse_lsn(header(record, "position").split(":")[1]) for record in outbox.records()
    }
    positions = sorted(by_position.values())
    for confirmed_lsn in (positions[0], positions[20], positions[39] + 1):
        expected = {UUID(row_id).bytes for row_id, lsn in by_position.items() if lsn >= confirmed_lsn}
        found = set(tail_ids(outbox.bootstrap, outbox.topic, origin_of(outbox, confirmed_lsn), 0))
        assert found == expected


def test_a_row_is_found_on_its_topic_though_its_time_is_that_of_a_clock_which_was_ahead(outbox, monkeypatch):
    """Another server has been promoted, whose slot stands a little back, and its clock far."""
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    outbox.one("SELECT pg_copy_logical_replication_slot(%s, %s)::text", outbox.slot, "copy_" + outbox.slot)
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    outbox.drop_slot()
    outbox.one("SELECT pg_copy_logical_replication_slot(%s, %s)::text", "copy_" + outbox.slot, outbox.slot)
    outbox.drop_slot("copy_" + outbox.slot)

    def by_another_clock(connection, described):
        origin = find_origin(connection, described)
        return replace(origin, now_us=origin.now_us - 180_000_000)

    monkeypatch.setattr("outbox_relay.wal.find_origin", by_another_clock)
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert()])
    assert len(outbox.published()) == len(set(outbox.published())) == 3
