"""The decoder reads what a real server sends, of every column type, and refuses what is damaged of it.

The messages are recorded from PostgreSQL by the test itself.
"""

import random
import time
from contextlib import closing, suppress

import pytest

from outbox_relay.errors import DecodeError
from outbox_relay.outbox import ROLES
from outbox_relay.pgoutput import Begin, Commit, Decoder
from outbox_relay.replication import ReplicationStream, connect
from outbox_relay.row import OutboxRow
from tests.integration.relay.outbox import DEADLINE_S, Outbox

ROWS = 60
TYPES = {
    "smallint": "n::smallint",
    "bigint": "n * 1000000000000",
    "numeric": "n / 7.0",
    "double precision": "n * pi()",
    "boolean": "n % 2 = 0",
    "text": "repeat('ä', n)",
    "varchar(40)": "'x' || n",
    "char(5)": "'a'",
    "bytea": "decode(repeat('00ff', n), 'hex')",
    "json": "json_build_object('n', n)",
    "jsonb": "jsonb_build_array(n, null)",
    "uuid": "gen_random_uuid()",
    "date": "date '2026-01-01' + n",
    "timestamptz": "now()",
    "interval": "make_interval(secs => n)",
    "inet": "'10.0.0.1'::inet",
    "text[]": "ARRAY['a', NULL, '\"']",
    "int4range": "int4range(0, n)",
    "pg_lsn": "'0/0'::pg_lsn + n",
}
STANDARD = (
    "id uuid, aggregatetype text, aggregateid text, type text, payload json, traceparent text, tracestate text"
)
SHUFFLED = ", ".join(reversed(STANDARD.replace("json", "jsonb").split(", ")))


@pytest.fixture(scope="module", params=[STANDARD, SHUFFLED], ids=["standard order", "another order"])
def recorded(request, stack):
    """Messages as the server sent them, and the rows that the table says it holds."""
    outbox = Outbox(stack, table=False, topic=False)
    extra = ", ".join(f"extra{number} {name}" for number, name in enumerate(TYPES))
    outbox.connection.execute(f"CREATE TABLE outbox ({request.param}, {extra})")
    outbox.connection.execute("CREATE TABLE other (n int)")
    outbox.connection.execute("CREATE PUBLICATION all_tables FOR ALL TABLES")
    outbox.connection.execute("SELECT pg_create_logical_replication_slot('recorded', 'pgoutput')")
    extras = ", ".join(f"CASE WHEN n % 5 > 0 THEN {value} END" for value in TYPES.values())
    outbox.connection.execute(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, traceparent, tracestate, "
        + ", ".join(f"extra{number}" for number in range(len(TYPES)))
        + ") SELECT gen_random_uuid(), 'account', CASE WHEN n % 7 > 0 THEN 'Zoë ' || n ELSE '' END, 'T', "
        # Some are so large that the table keeps them elsewhere.
        "json_build_object('text', repeat(md5(n::text), CASE WHEN n % 20 = 0 THEN 20000 ELSE n END)), "
        "CASE WHEN n % 2 > 0 THEN '00-' || n END, CASE WHEN n % 3 > 0 THEN 'v=' || n END, "
        + extras
        + f" FROM generate_series(1, {ROWS}) AS n"
    )
    outbox.connection.execute("INSERT INTO other VALUES (1)")
    outbox.connection.execute("TRUNCATE other")
    messages = record(outbox)
    outbox.drop_slot("recorded")
    rows = outbox.connection.execute(
        "SELECT id::text, aggregatetype, aggregateid, type, payload::text, traceparent, tracestate FROM outbox"
    ).fetchall()
    return messages, [tuple(v.encode() if v is not None else None for v in row) for row in rows]


def record(outbox):
    """Everything the slot has, up to the commit of the last transaction."""
    messages, commits = [], 0
    deadline = time.monotonic() + DEADLINE_S
    with (
        closing(connect(outbox.dsn)) as connection,
        ReplicationStream(connection, "recorded", "all_tables") as stream,
    ):
        while commits < 3:
            assert time.monotonic() < deadline
            stream.wait(0.1)
            for message in stream.messages():
                messages.append(message)
                commits += message[:1] == b"C"
    return messages


def test_every_row_is_read_as_the_table_has_it(recorded):
    messages, rows = recorded
    decoder = Decoder()
    events = [decoder.decode(message) for message in messages]
    read = [event[: len(ROLES)] for event in events if isinstance(event, OutboxRow)]
    # The table keeps rows where there is room; the log has them in their order.
    assert len(read) == len(rows) == ROWS
    assert not set(read) ^ set(rows)
    assert sum(isinstance(event, Begin) for event in events) == 3
    assert sum(isinstance(event, Commit) for event in events) == 3


def test_a_message_that_was_cut_off_is_refused(recorded):
    messages, _ = recorded
    decoder = Decoder()
    chance = random.Random(7)
    for message in messages:
        decoder.decode(message)
        if message[:1] not in b"ICB":
            continue  # what is skipped need not be whole
        if message[:1] == b"I" and decoder.decode(message) is None:
            continue  # a row of the other table
        lengths = range(len(message)) if len(message) < 300 else chance.sample(range(len(message)), 300)
        for length in lengths:
            with pytest.raises(DecodeError):
                decoder.decode(message[:length])


def test_a_message_with_hostile_bytes_is_refused_or_read_and_never_hangs(recorded):
    messages, _ = recorded
    decoder = Decoder()
    chance = random.Random(7)
    began = time.monotonic()
    for message in messages:
        decoder.decode(message)
        for _ in range(100):
            hurt = bytearray(message)
            for _ in range(chance.randrange(1, 5)):
                hurt[chance.randrange(len(hurt))] = chance.randrange(256)
            with suppress(DecodeError):
                event = Decoder().decode(bytes(hurt)) if message[:1] == b"R" else decoder.decode(bytes(hurt))
                assert event is None or isinstance(event, OutboxRow | Begin | Commit)
        decoder.decode(message)
    assert time.monotonic() - began < DEADLINE_S
