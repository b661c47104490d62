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
