"""The relay reads rows by their bytes: of large ones it has few in memory, whichever way they come."""

import pytest

from outbox_relay import batches
from outbox_relay.batches import rows_at, rows_in_order, select_places
from outbox_relay.table import by_id, find_table, row_of
from tests.integration.relay.outbox import Outbox, relay_process, wait_until
from tests.integration.relay.test_coverage import DROP
from tests.integration.relay.test_rows import PAYLOADS, five, insert

ROW_BYTES = 480_000
ROWS = 300
MEMORY_KIB_MAX = 200_000
INSERT_LARGE = """
    INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
    SELECT %s, 'acc-1', 'T', json_build_object('text', repeat(md5(random()::text), %s)) FROM generate_series(1, %s)
"""


class Counting:
    """A connection that notes how many bytes of payload each query gave."""

    def __init__(self, connection):
        self.connection, self.payload_bytes = connection, []

    def execute(self, query, **how):
        rows = self.connection.execute(query, **how).fetchall()
        self.payload_bytes.append(sum(len(row_of(row[:7]).payload) for row in rows))
        return rows


def test_rows_are_read_so_many_bytes_at_a_time_in_their_order(outbox, monkeypatch):
    monkeypatch.setattr(batches, "READ_BYTES", 1_000)
    sizes = [400, 400, 400, 5_000, 10, 10, 400, 900, 200]
    ids = [outbox.insert(payload='"' + "x" * (size - 2) + '"') for size in sizes]
    table, counting = find_table(outbox.connection), Counting(outbox.connection)
    query = select_places(table, by_id(table), table.unpublished)
    found = outbox.connection.execute(query, binary=True).fetchall()
    assert [size for _, _, size, _ in found] == sizes
    outbox.connection.execute("DELETE FROM outbox WHERE id = %s", (ids.pop(1),))
    read = [row_of(row[:7]) for row in rows_at(counting, table, found)]
    assert [row.id.decode() for row in read] == ids
    assert counting.payload_bytes == [800, 5_000, 1_320, 200]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_bytes_of_a_payload_are_those_that_are_read(stack, payload):
    outbox = five(stack, payload)
    for value, _ in PAYLOADS[payload]:
        insert(outbox, value)
    insert(outbox, None)
    table = find_table(outbox.connection)
    found = outbox.connection.execute(
        select_places(table, by_id(table), table.unpublished), binary=True
    ).fetchall()
    read = [row_of(row[: table.values]).payload for row in rows_at(outbox.connection, table, found)]
    assert [size for _, _, size, _ in found] == [len(one or b"") for one in read]


def test_a_search_reads_a_table_of_several_partitions_in_order(outbox, monkeypatch):
    monkeypatch.setattr(batches, "READ_BYTES", 100)
    monkeypatch.setattr(batches, "READ_PLACES", 7)
    outbox.connection.execute("""
        ALTER TABLE outbox RENAME TO outbox_plain;
        CREATE TABLE outbox (LIKE outbox_plain INCLUDING DEFAULTS) PARTITION BY HASH (id);
        CREATE TABLE outbox_0 PARTITION OF outbox FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    """)
    ids = [outbox.insert() for _ in range(50)]
    table = find_table(outbox.connection)
    with outbox.connection.transaction():
        assert [row.id.decode() for row, _ in rows_in_order(outbox.connection, table)] == ids


def peak_kib(process):
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_large_rows_that_are_read_from_the_table_take_little_memory(stack, reader):
    outbox = Outbox(stack)
    with relay_process(outbox, SETTLE_RELAY_READER=reader) as relay:
        outbox.wait_published([outbox.insert()])
        with outbox.connection.transaction():
            if reader == "wal":
                outbox.connection.execute(DROP)
            outbox.connection.execute(INSERT_LARGE, (outbox.name, ROW_BYTES // 32, ROWS))
        ids = outbox.written()
        with outbox.consumer() as consumer:
            wait_until(lambda: outbox.length(consumer) >= len(ids), "all are published")
        assert peak_kib(relay) < MEMORY_KIB_MAX
    assert outbox.published() == ids
