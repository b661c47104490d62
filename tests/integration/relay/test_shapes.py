"""Outboxes of any shape: other names, schemas and types, several in one database; the promises are the same."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import psycopg
import pytest

from contracts.headers import POSITION
from outbox_relay.dead import dead_rows, retry
from outbox_relay.outbox import OUTBOX, Route
from outbox_relay.slot_name import slot_name
from outbox_relay.status import outbox_status
from stack import ports
from tests.integration.relay.outbox import CREATE_OUTBOX, ROOT, answer, header, names, relaying, wait_until
from tests.integration.relay.shaped import LEAN_TYPES, Shaped, carrying, identity, toml

READERS = ["wal", "polling"]


@pytest.fixture(params=["odd", "lean"])
def shaped(stack, request):
    return Shaped(stack, request.param)


@pytest.fixture
def file_of(tmp_path):
    """Writes the configuration file of an outbox's database."""

    def write(outbox, *descriptions, **reading):
        path = tmp_path / f"{outbox.name}.toml"
        path.touch(0o600)
        reading = {"poll_interval_s": 0.05, **reading}
        path.write_text(
            toml(outbox.dsn, *(descriptions or [outbox.description]), bootstrap=outbox.bootstrap, **reading)
        )
        return path

    return write


@pytest.mark.parametrize("reader", READERS)
def test_rows_from_before_and_after_are_published_once_and_removed(shaped, file_of, reader):
    before = [shaped.put(key) for key in range(5)]
    path = file_of(shaped, reader=reader)
    with carrying(path):
        after = [shaped.put(key) for key in range(5)]
        shaped.wait_published([*before, *after])
        wait_until(lambda: shaped.left() == 0, "the table is empty")
    with carrying(path):
        last = shaped.put()
        shaped.wait_published([last])
    assert sorted(shaped.published()) == sorted([*before, *after, last])


@pytest.mark.parametrize("reader", READERS)
def test_a_record_has_what_the_columns_say_wherever_they_are(stack, file_of, reader):
    odd = Shaped(stack, "odd")
    with carrying(file_of(odd, reader=reader)):
        plain, placed = odd.put(7), odd.put(8, tenant=None, shard=3)
        odd.wait_published([plain, placed])
        records = {header(record, "id"): record for record in odd.records()}
    assert (records[plain].key(), records[plain].value()) == (b"7", b'{"number": 1}')
    assert names(records[plain]) == ["id", "eventType", POSITION, "x-tenant"]
    assert header(records[plain], "eventType") == "MoneyDeducted"
    assert header(records[plain], "x-tenant") == "t-1"
    assert header(records[placed], "x-tenant") is None
    assert records[placed].partition() == 3


@pytest.mark.parametrize("reader", READERS)
def test_an_id_and_a_payload_are_enough(stack, file_of, reader):
    lean = Shaped(stack, "lean")
    with carrying(file_of(lean, reader=reader)):
        row = lean.put(payload=b"\x00\xfe")
        lean.wait_published([row])
        (record,) = lean.records()
    assert (record.key(), record.value(), names(record)) == (None, b"\x00\xfe", ["id", POSITION])


@pytest.mark.parametrize("reader", READERS)
def test_a_relay_that_is_killed_publishes_nothing_twice(shaped, file_of, reader):
    command = [sys.executable, "-m", "outbox_relay", "--config", str(file_of(shaped, reader=reader))]
    written = []
    done = threading.Event()

    def write():
        with psycopg.connect(shaped.dsn, autocommit=True) as connection:
            while not done.wait(0.002):
                written.append(shaped.put(len(written) % 10, connection=connection))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | identity(shaped))
            target = len(written) + 50
            wait_until(lambda target=target: len(written) >= target, "rows are written")
            shaped.wait_published(written[target - 50 : target - 40])
            process.send_signal(signal.SIGKILL)
            process.wait()
    finally:
        done.set()
        writer.join()
    with carrying(file_of(shaped, reader=reader)):
        shaped.wait_published(written)
        wait_until(lambda: shaped.left() == 0, "the table is empty")
    assert sorted(shaped.published()) == sorted(written)


@pytest.mark.parametrize("reader", READERS)
def test_dead_rows_lie_beside_their_table_and_return_with_all_their_columns(stack, file_of, reader):
    odd = Shaped(stack, "odd")
    described = replace(odd.description, dead_table='dead "ones"')
    with carrying(file_of(odd, described, reader=reader)):
        bad = odd.put(kind="no topic", tenant="t-2", shard=2)
        out = odd.put(shard=99)
        wait_until(lambda: len(dead_rows(odd.connection, described)) == 2, "they are quarantined")
        reasons = {row.id: row.reason for row in dead_rows(odd.connection, described)}
        assert reasons[bad] == "order 'no topic' makes no topic name"
        assert reasons[out] == f"Shard is 99, and {odd.topic} has no such partition"
        good = odd.put()
        odd.wait_published([good])
        # A poller may have left it in the table.
        with odd.connection.transaction():
            odd.connection.execute(described.sql("UPDATE {dead} SET aggregatetype = %s"), (odd.name,))
            odd.connection.execute(
                described.sql("UPDATE {table} SET {aggregatetype} = %s WHERE {id}::text = %s"), (odd.name, bad)
            )
        assert retry(odd.connection, [bad], described) == [bad]
        odd.wait_published([bad])
        (record,) = (record for record in odd.records() if header(record, "id") == bad)
        assert (header(record, "x-tenant"), record.partition()) == ("t-2", 2)
        left = described.sql("SELECT count(*) FROM {table} WHERE {id}::text = %s")
        wait_until(lambda: odd.one(left, bad) == 0, "it is out of the table")


def test_a_publication_that_leaves_rows_out_is_mended_and_they_are_published(shaped, file_of):
    described = shaped.description
    with carrying(file_of(shaped)):
        first = shaped.put()
        shaped.wait_published([first])
        with shaped.connection.transaction():
            shaped.connection.execute(described.sql("ALTER PUBLICATION {publication} DROP TABLE {table}"))
            lost = shaped.put()
        shaped.wait_published([lost])
        wait_until(lambda: outbox_status(shaped.connection, outbox=described).gap is None, "it is mended")
        wait_until(lambda: shaped.left() == 0, "the table is empty")
    assert sorted(shaped.published()) == sorted([first, lost])


def test_a_slot_that_is_dropped_is_made_anew_and_nothing_is_published_twice(shaped, file_of):
    slot = slot_name(shaped.connection, shaped.description)
    with carrying(file_of(shaped, cleanup=False)):
        first = shaped.put()
        shaped.wait_published([first])
        shaped.wait_confirmed(slot=slot)
    shaped.drop_slot(slot)
    second = shaped.put()
    with carrying(file_of(shaped, cleanup=False, initial="all")):
        shaped.wait_published([second])
    assert sorted(shaped.published()) == sorted([first, second])


@pytest.mark.parametrize("reader", READERS)
def test_outboxes_of_one_database_share_a_topic_and_each_number_is_a_row_of_its_own(stack, file_of, reader):
    lean = Shaped(stack, "lean")
    second = replace(lean.description, schema="other", publication="Second.one")
    lean.make(second, LEAN_TYPES)
    both = [lean.description, second]
    path = file_of(lean, *both, reader=reader)
    port = ports.choose(taken=set())

    def published():
        with lean.consumer() as consumer:
            return lean.length(consumer)

    # The same numbers and contents in both.
    for description in both:
        for _ in range(3):
            lean.put(payload=b"same", description=description)
    for rows in (6, 8, 10):
        with carrying(path, port):
            wait_until(lambda rows=rows: published() == rows, "all are published")
            wait_until(lambda: [lean.left(one) for one in both] == [0, 0], "the tables are empty")
            labels = [f"{lean.name}.public.messages", f"{lean.name}.other.messages"]
            assert [source in answer(port, "/metrics")[1] for source in labels] == [True, True]
        for description in both:
            lean.put(payload=b"same", description=description)
    assert published() == 10
    tags = {header(record, POSITION).split(":")[0] for record in lean.records()}
    assert len(tags) == 2
    if reader == "wal":
        slots = "SELECT array_agg(slot_name::text) FROM pg_replication_slots WHERE database = %s AND NOT temporary"
        assert set(lean.one(slots, lean.name)) == {slot_name(lean.connection, one) for one in both}
        assert len(lean.one(slots, lean.name)) == 2


def test_the_standard_outbox_and_another_of_its_database_go_on_beside_each_other(stack, file_of):
    outbox = Shaped(stack, "lean")
    outbox.connection.execute(CREATE_OUTBOX)
    own = outbox.insert()
    with relaying(outbox):  # as ever, by its database alone
        outbox.wait_published([own])
        outbox.wait_confirmed()
    row, other = outbox.insert(), outbox.put()
    with carrying(file_of(outbox, OUTBOX, outbox.description)):
        outbox.wait_published([row, other])
    assert sorted(outbox.published()) == sorted([own, row, other])
    assert outbox_status(outbox.connection).slot == outbox.slot


def test_each_outbox_has_one_relay_and_others_of_the_database_another(stack, file_of):
    lean = Shaped(stack, "lean")
    second = replace(lean.description, table="second")
    lean.make(second, LEAN_TYPES)
    port = ports.choose(taken=set())
    standby = ports.choose(taken={port})
    with carrying(file_of(lean), port):
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it reads")
        with carrying(file_of(lean, lean.description, second), standby):
            lean.put(description=second)
            wait_until(lambda: lean.left(second) == 0, "the second outbox is read")
            said = f"{lean.name}.public.messages: another relay reads"
            _, text = wait_until(
                lambda: (page := answer(standby, "/readyz"))[0] == 200 and said in page[1] and page,
                "it is ready, and a standby for the first",
            )
            assert f"{lean.name}.public.second" not in text


def test_each_outbox_is_read_in_its_own_way(stack, file_of, tmp_path):
    lean = Shaped(stack, "lean")
    second = replace(lean.description, table="second", route=Route(topic=lean.topic))
    lean.make(second, LEAN_TYPES)
    path = file_of(lean, lean.description, second)
    path.write_text(path.read_text() + 'reader = "polling"\ncleanup = false\n')
    with carrying(path):
        rows = [lean.put(), lean.put(description=second)]
        wait_until(lambda: lean.left() == 0, "published rows are removed from one")
        # Both have the same number; who polls marks the table before it publishes anything.
        wait_until(lambda: len(lean.published()) == len(rows), "both are published")
        marked = second.sql("SELECT count(*) FROM {table} WHERE {published_at} IS NOT NULL")
        wait_until(lambda: lean.one(marked) == 1, "and marked in the other")


def test_options_describe_the_one_outbox(stack):
    lean = Shaped(stack, "lean")
    lean.connection.execute('ALTER TABLE messages RENAME TO "My messages"')
    options = ["--table", "My messages", "--topic", lean.topic, "--publication", "p", "--slot", f"s_{lean.name}"]
    options += [f"--column={role}=" for role in ("aggregateid", "type")]
    command = [sys.executable, "-m", "outbox_relay", "--source", lean.dsn, "--bootstrap", lean.bootstrap, *options]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | identity(lean))
    try:
        row = lean.one("""INSERT INTO "My messages" (payload) VALUES ('x') RETURNING id::text""")
        lean.wait_published([row])
        slot = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s"
        wait_until(lambda: lean.one(slot, f"s_{lean.name}") == 1, "its slot is there")
    finally:
        process.kill()
        process.wait()
