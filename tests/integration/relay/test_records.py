"""Every way of reading an outbox makes the same records of it, in the order of commits."""

import random
import threading
import time

import psycopg
import pytest
from structlog.testing import capture_logs

from outbox_relay import polling
from tests.integration.relay.outbox import (
    DEADLINE_S,
    Outbox,
    header,
    names,
    relay_process,
    relaying,
    wait_until,
)

READERS = ["wal", "polling"]


@pytest.mark.parametrize("origin", ["table", "log", "polling"])
def test_a_row_becomes_the_record_that_debezium_makes_of_it(outbox, origin):
    traceparent = f"00-{'a' * 32}-{'b' * 16}-00"
    if origin == "log":
        with relaying(outbox):
            outbox.wait_confirmed()
    plain = outbox.insert("Zoë", payload='{"x":  "é"}')
    traced = outbox.insert("Zoë", traceparent=traceparent, tracestate="v=1")
    with relaying(outbox, reader="polling" if origin == "polling" else "wal"):
        outbox.wait_published([plain, traced])
    first, second = outbox.records()
    assert (first.key(), first.value()) == ("Zoë".encode(), '{"x":  "é"}'.encode())
    assert first.headers()[:2] == [("id", plain.encode()), ("eventType", b"MoneyDeducted")]
    assert names(first) == ["id", "eventType", "position"]
    assert second.headers()[:2] == [("id", traced.encode()), ("eventType", b"MoneyDeducted")]
    assert second.headers()[3:] == [("traceparent", traceparent.encode()), ("tracestate", b"v=1")]
    tag, _, lsn = header(first, "position").partition(":")
    assert len(tag) == 8
    assert outbox.one("SELECT %s::pg_lsn < pg_current_wal_lsn()", lsn)


def test_the_mark_of_a_polling_relay_is_waited_for_by_the_relay_and_by_no_writer(outbox):
    with psycopg.connect(outbox.dsn) as long, capture_logs() as logs:
        rows = [outbox.insert(connection=long)]
        outbox.connection.execute(f"SET statement_timeout = '{DEADLINE_S}s'")
        with relaying(outbox, reader="polling"):
            wait_until(lambda: any("hold the table" in str(line) for line in list(logs)), "it waits for the table")
            rows += [outbox.insert() for _ in range(3)]
            long.commit()
            outbox.wait_published(rows)


SLOW_INDEX = """
    CREATE TABLE released ();
    CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN WHILE NOT EXISTS (SELECT FROM released) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;
    CREATE EVENT TRIGGER slow ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION slow();
"""
INDEXING = """
    SELECT count(*) > 0 FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND query LIKE 'CREATE INDEX%'
"""
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('outbox_unpublished')"


def test_nobody_waits_while_a_poller_indexes_a_large_table(outbox):
    outbox.connection.execute(SLOW_INDEX)
    outbox.connection.execute(f"SET statement_timeout = '{DEADLINE_S}s'")
    with relaying(outbox, reader="polling", cleanup=False):
        wait_until(lambda: outbox.one(INDEXING), "the index is being made")
        outbox.wait_published([outbox.insert() for _ in range(3)])
        assert outbox.one(INDEXING)
        outbox.connection.execute("INSERT INTO released DEFAULT VALUES")
        wait_until(lambda: outbox.one(VALID), "the index is made")


def test_an_index_that_is_being_made_ends_with_the_relay_and_keeps_the_next_one_from_nothing(outbox):
    outbox.connection.execute(SLOW_INDEX)
    with relaying(outbox, reader="polling"):
        wait_until(lambda: outbox.one(INDEXING), "the index is being made")
    wait_until(lambda: not outbox.one(INDEXING), "its making has ended")
    with relay_process(outbox, SETTLE_RELAY_READER="polling") as relay:
        wait_until(lambda: outbox.one(INDEXING), "the index is being made again")
        relay.kill()
        relay.wait(DEADLINE_S)
        with relaying(outbox, reader="polling"):
            outbox.wait_published([outbox.insert()])
            outbox.connection.execute("INSERT INTO released DEFAULT VALUES")


def test_an_index_whose_making_was_cut_off_is_made_again(outbox):
    with relaying(outbox, reader="polling"):
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: outbox.one(VALID), "the index is made")
    outbox.connection.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'outbox_unpublished'::regclass"
    )
    assert not outbox.one(VALID)
    with relaying(outbox, reader="polling"):
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: outbox.one(VALID), "the index is made again")


@pytest.mark.parametrize("reader", READERS)
def test_each_row_once_though_transactions_commit_in_another_order_than_they_were_numbered(outbox, reader):
    """Each key is written by one session at a time, which holds it until it commits, as services do."""
    chance = random.Random(7)
    committed, numbers = [], {}
    with relaying(outbox, reader=reader):
        sessions = [(psycopg.connect(outbox.dsn), []) for _ in range(6)]
        holders = {}
        for _ in range(400):
            place = chance.randrange(len(sessions))
            session, pending = sessions[place]
            if pending and chance.random() < 0.3:
                session.commit()
                committed += pending
                pending.clear()
                holders = {key: holder for key, holder in holders.items() if holder != place}
                continue
            key = f"acc-{chance.randrange(12)}"
            if holders.setdefault(key, place) == place:
                row_id = outbox.insert(key, connection=session)
                pending.append(row_id)
                numbers[row_id] = len(numbers)
        for session, pending in sessions:
            session.commit()
            committed += pending
            session.close()
        outbox.wait_published(committed)
    assert [numbers[row_id] for row_id in committed] != sorted(numbers.values()), "all committed in order"
    records = outbox.records()
    assert sorted(header(record, "id") for record in records) == sorted(committed)
    for key in {record.key() for record in records}:
        of_key = [header(record, "id") for record in records if record.key() == key]
        assert of_key == [row_id for row_id in committed if row_id in set(of_key)]


def test_the_log_gives_the_order_of_commits_even_where_nobody_takes_turns(outbox):
    chance = random.Random(7)
    committed = []
    with relaying(outbox):
        outbox.wait_confirmed()
        sessions = {psycopg.connect(outbox.dsn): [] for _ in range(6)}
        for _ in range(300):
            session, pending = chance.choice(list(sessions.items()))
            if pending and chance.random() < 0.4:
                session.commit()
                committed += pending
                pending.clear()
            else:
                pending.append(outbox.insert("acc-1", connection=session))
        for session in sessions:
            session.close()
        outbox.wait_published(committed)
    assert outbox.published() == committed
    assert committed != sorted(committed), "the transactions did not commit out of order"


def test_rows_committed_before_the_slot_are_published_in_the_order_of_insertion(outbox):
    before = [outbox.insert() for _ in range(50)]
    uncommitted = psycopg.connect(outbox.dsn)
    late = outbox.insert(connection=uncommitted)
    with relaying(outbox):
        slots = "SELECT count(*) FROM pg_replication_slots WHERE database = %s"
        wait_until(lambda: outbox.one(slots, outbox.name), "the slot is being made")
        uncommitted.commit()
        after = [outbox.insert() for _ in range(50)]
        outbox.wait_published([*before, late, *after])
    assert outbox.published() == [*before, late, *after]


@pytest.mark.parametrize("poll_rows", [2_000, 10])
def test_a_poller_that_began_with_an_empty_table_orders_rows_by_time_where_their_ids_say_nothing(
    outbox, monkeypatch, poll_rows
):
    monkeypatch.setattr(polling, "POLL_ROWS", poll_rows)
    # All at once, the IDs of version 7 last: by ID they would be first, and the others in any order.
    random_first = """
        INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, created_at)
        SELECT CASE WHEN n <= 50 THEN overlay(gen_random_uuid()::text PLACING 'f' FROM 1)::uuid ELSE uuidv7() END,
            %s, 'acc-1', 'T', to_json(n), now() - interval '1 h' + n * interval '1 s'
        FROM generate_series(1, 100) AS n
    """
    with relaying(outbox, reader="polling"):
        outbox.wait_published([outbox.insert()])
        outbox.connection.execute(random_first, (outbox.name,))
        outbox.wait_published(outbox.written())
    assert [int(record.value()) for record in outbox.records()[1:]] == list(range(1, 101))


@pytest.mark.parametrize("first", READERS)
def test_either_way_takes_over_from_the_other_and_repeats_nothing(outbox, first):
    second = READERS[1 - READERS.index(first)]
    for reader in (first, second, first):
        outbox.insert_many(300)
        with relaying(outbox, reader=reader, cleanup=False):
            outbox.wait_published(outbox.written())
    outbox.assert_exactly_once_in_order()


def test_a_table_with_only_what_debezium_needs_is_enough(stack):
    outbox = Outbox(stack, table=False)
    outbox.connection.execute(
        "CREATE TABLE outbox (payload jsonb, type varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,"
        " aggregatetype varchar(255) NOT NULL, id uuid PRIMARY KEY)"
    )
    insert = (
        "INSERT INTO outbox VALUES ('{\"a\": 1}', 'MoneyDeducted', 'acc-1', %s, gen_random_uuid())"
        " RETURNING id::text"
    )
    before = outbox.one(insert, outbox.name)
    with relaying(outbox):
        outbox.wait_published([before])
        after = outbox.one(insert, outbox.name)
        outbox.wait_published([after])
    first, second = outbox.records()
    assert [header(first, "id"), header(second, "id")] == [before, after]
    assert first.value() == second.value() == b'{"a": 1}'


def test_200_000_rows_of_one_transaction_go_through_in_little_memory(outbox):
    with relay_process(outbox) as relay:
        outbox.wait_confirmed()
        outbox.insert_many(200_000)
        peak_kb = 0
        deadline = time.monotonic() + 4 * DEADLINE_S
        lsn = outbox.lsn()
        while not outbox.confirmed_passes(lsn):
            assert time.monotonic() < deadline
            with open(f"/proc/{relay.pid}/status") as status:
                peak_kb = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
            threading.Event().wait(0.1)
    assert outbox.assert_exactly_once_in_order() == 200_000
    assert peak_kb < 150_000, f"{peak_kb / 1e3:.0f} MB"


def test_a_sampled_row_is_published_in_a_span_of_its_trace(outbox, spans):
    sampled, unsampled = f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'c' * 32}-{'d' * 16}-00"
    with relaying(outbox):
        outbox.wait_confirmed()
        began = time.time()
        ids = [
            outbox.insert(traceparent=sampled, tracestate="v=1"),
            outbox.insert(traceparent=unsampled),
            outbox.insert(),
        ]
        outbox.wait_published(ids)
        took_ms = (time.time() - began) * 1_000
    (span,) = spans()
    first, second, third = outbox.records()
    assert span.name == f"send {outbox.topic}"
    assert span.kind.name == "PRODUCER"
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == ("a" * 32, "b" * 16)
    assert header(first, "traceparent") == f"00-{'a' * 32}-{span.context.span_id:016x}-01"
    assert header(first, "tracestate") == "v=1"
    assert span.attributes["messaging.message.id"] == ids[0]
    assert span.attributes["messaging.kafka.message.key"] == "acc-1"
    assert span.attributes["messaging.destination.partition.id"] == str(first.partition())
    assert span.attributes["messaging.kafka.offset"] == first.offset()
    assert 0 <= span.attributes["settle.outbox.wait_ms"] < took_ms
    assert span.attributes["settle.outbox.lsn"] == header(first, "position").partition(":")[2]
    assert header(second, "traceparent") == unsampled
    assert names(third) == ["id", "eventType", "position"]
