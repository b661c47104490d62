"""A row of any content becomes a record, or is quarantined, whatever the table's columns are."""

import json
import random

import pytest
from confluent_kafka.admin import NewTopic

from outbox_relay.dead import create_table, dead_rows, discard, retry
from outbox_relay.errors import RelayError
from stack import ports
from tests.integration.relay.outbox import Outbox, answer, names, relaying, wait_until
from tests.integration.relay.test_table import limited_role, relaying_as

FIVE = """
    CREATE DOMAIN blob AS bytea;
    CREATE TYPE kind AS ENUM ('Opened', 'Closed');
    CREATE TABLE outbox ({id}, aggregatetype {name}, aggregateid {key}, type {kind}, payload {payload})
"""
SERIAL = "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
RANDOM = "id uuid PRIMARY KEY DEFAULT gen_random_uuid()"
NO_KEY = "id text DEFAULT gen_random_uuid()"
PADDED = "id char(40) DEFAULT gen_random_uuid()"
# Payloads by the type of their column: what is inserted, and what goes out.
PAYLOADS = {
    "json": [('{"n":  1}', b'{"n":  1}')],
    "jsonb": [('{"n":  1}', b'{"n": 1}')],
    "text": [("no JSON \\x00 \\n 'é'", "no JSON \\x00 \\n 'é'".encode()), ("", b"")],
    "varchar(9)": [("é", "é".encode())],
    "bytea": [(b"\x00\xff\\x10\n", b"\x00\xff\\x10\n"), (b"", b"")],
    "blob": [(bytes(range(256)), bytes(range(256)))],
}


def five(stack, payload, **columns):
    """An outbox with no more than the five columns."""
    outbox = Outbox(stack, table=False)
    columns = {"id": RANDOM, "name": "text", "key": "text", "kind": "text", **columns}
    outbox.connection.execute(FIVE.format(payload=payload, **columns))
    return outbox


def insert(outbox, payload, key="acc-1", kind="Opened", to=None):
    row = outbox.connection.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
        " VALUES (%s, %s, %s, %s) RETURNING id::text",
        (outbox.name if to is None else to, key, kind, payload),
    )
    return row.fetchone()[0]


def insert_all(outbox, payload):
    """A row of each content; the records that they become."""
    rows = [*PAYLOADS[payload], (None, None)]
    return {
        insert(outbox, value, key, kind): (key.encode() if key else None, kind, sent)
        for value, sent in rows
        for key, kind in (("Zoë", "Opened"), (None, "Closed"), ("b", None))
    }


def records(outbox):
    return {
        dict(record.headers())["id"].decode(): (
            record.key(),
            text(dict(record.headers())["eventType"]),
            record.value(),
        )
        for record in outbox.records()
    }


def text(value):
    return value.decode() if value is not None else None


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_payloads_of_any_type_go_out_as_they_are_and_null_is_a_tombstone_or_no_key(stack, reader):
    keys = {"json": "varchar(20)", "jsonb": "name", "blob": "text"}
    outboxes = {
        payload: five(
            stack, payload, kind="kind", key=keys.get(payload, "text"), id=SERIAL if payload == "text" else RANDOM
        )
        for payload in PAYLOADS
    }
    for outbox in outboxes.values():  # whatever a session is told by default
        outbox.connection.execute(f"ALTER DATABASE {outbox.name} SET bytea_output = escape")
    expected = {payload: insert_all(outbox, payload) for payload, outbox in outboxes.items()}
    with relaying(*outboxes.values(), reader=reader):
        for payload, outbox in outboxes.items():
            outbox.wait_published(expected[payload])  # read from the table
            expected[payload] |= insert_all(outbox, payload)
        for payload, outbox in outboxes.items():
            outbox.wait_published(expected[payload])  # and from the log
    for payload, outbox in outboxes.items():
        assert records(outbox) == expected[payload]
        assert len(outbox.published()) == len(expected[payload])
        assert dead_rows(outbox.connection) == []


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_a_text_of_fixed_length_is_the_same_from_table_and_log(stack, reader):
    outbox = five(stack, "text", id=PADDED, key="char(8)")
    before = insert(outbox, "1", "acc")
    with relaying(outbox, reader=reader):
        wait_until(lambda: len(outbox.records()) == 1, "the row before the slot is published")
        after = insert(outbox, "2", "acc")
        wait_until(lambda: len(outbox.records()) == 2, "the row from the log is published")
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "published rows are removed")
    assert {record.key() for record in outbox.records()} == {b"acc     "}
    assert sorted(header.strip() for header in outbox.published()) == sorted((before.strip(), after.strip()))


@pytest.mark.parametrize(("payload", "declared"), [("xml[]", "xml[]"), ("amount", "amount"), ("json", "bytea")])
def test_a_type_of_which_no_record_can_be_made_is_named_and_waited_for(stack, payload, declared):
    outbox = Outbox(stack, table=False)
    outbox.connection.execute("CREATE DOMAIN amount AS money")
    column, key = ("payload", "text") if payload != "json" else ("aggregateid", "bytea")
    outbox.connection.execute(FIVE.format(id=RANDOM, name="text", key=key, kind="text", payload=payload))
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port):
        said = f"public.outbox.{column} is of type {declared}, of which no record can be made"
        wait_until(lambda: said in answer(port, "/readyz")[1], "the relay names column and type")
        outbox.connection.execute(
            f"ALTER TABLE outbox ALTER {column} TYPE text USING NULL"
            if column == "payload"
            else f"ALTER TABLE outbox ALTER {column} TYPE text USING 'k'"
        )
        outbox.wait_published([insert(outbox, "1")])


def test_bytes_are_bytes_also_where_the_type_of_the_payload_is_made_while_the_relay_reads(stack):
    outbox = five(stack, "text")
    with relaying(outbox):
        outbox.wait_published([insert(outbox, "text")])
        publication = "ALTER PUBLICATION settle_outbox"
        with outbox.connection.transaction():
            outbox.connection.execute(f"{publication} DROP TABLE outbox; CREATE DOMAIN made_later AS bytea")
            outbox.connection.execute(
                "ALTER TABLE outbox ALTER payload TYPE made_later USING convert_to(payload, 'UTF8')"
            )
            outbox.connection.execute(
                f"{publication} ADD TABLE outbox (id, aggregatetype, aggregateid, type, payload)"
            )
            row_id = insert(outbox, b"\x00\xffhi")
        outbox.wait_published([row_id])
    assert [record.value() for record in outbox.records()][-1:] == [b"\x00\xffhi"]


def test_rows_of_the_log_from_before_ids_were_uuids_are_published_and_those_after_are_removed(stack):
    outbox = five(stack, "json", id=SERIAL)
    with relaying(outbox):
        outbox.wait_published([insert(outbox, "{}")])
        outbox.wait_confirmed()
    with outbox.connection.transaction():
        numbers = [insert(outbox, "{}") for _ in range(99)]  # whose digits are odd in number, and no UUIDs
    outbox.connection.execute("ALTER TABLE outbox RENAME TO outbox_before")
    outbox.connection.execute(
        f"CREATE TABLE outbox ({RANDOM}, aggregatetype text, aggregateid text, type text, payload json)"
    )
    outbox.connection.execute("ALTER PUBLICATION settle_outbox ADD TABLE outbox")
    outbox.connection.execute("ALTER PUBLICATION settle_outbox DROP TABLE outbox_before")
    uuids = [insert(outbox, "{}") for _ in range(3)]
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port):
        outbox.wait_published([*numbers, *uuids])
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "published rows are removed")
        assert answer(port, "/readyz")[0] == 200
    assert outbox.published()[1:] == [*numbers, *uuids]


def bad_rows(outbox):
    """Rows that can never be published, each for another reason: their payloads."""
    several = [
        (None, "acc-1", "no aggregatetype"),
        ("", "acc-1", "an empty one"),
        ("no such topic", None, "a space"),
        ("Zoë", "acc-1", "no ASCII"),
        ("x" * 3_000, "acc-1", "too long"),
        ("a\x1b[31m\nb", "acc-1", "not JSON: \\x00 \\n é"),
        ("a b", "acc-1", None),
    ]
    for name, key, payload in several:
        outbox.connection.execute(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES (%s, %s, NULL, %s)",
            (name, key, payload),
        )
    for row_id, name, payload in [
        (None, outbox.name, "no ID"),
        (None, outbox.name, "no ID either"),
        ("twice", "a b", "the first"),
        ("twice", "a b", "the second"),
        ("an ID " * 1_000, "a b", "a long ID"),
    ]:
        outbox.connection.execute(
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES (%s, %s, 'k', 'T', %s)",
            (row_id, name, payload),
        )
    return sorted(
        [
            *(payload or "" for _, _, payload in several),
            "no ID",
            "no ID either",
            "the first",
            "the second",
            "a long ID",
        ]
    )


def put_aside(outbox):
    dead = outbox.connection.execute("SELECT payload FROM outbox_dead").fetchall()
    return sorted((payload or b"").decode() for (payload,) in dead)


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_rows_of_any_content_that_make_no_record_are_put_aside_listed_retried_and_discarded(stack, reader):
    outbox = five(stack, "text", id=NO_KEY)
    outbox.connection.execute(create_table())
    good = [insert(outbox, "1")]
    bad = bad_rows(outbox)
    good.append(insert(outbox, "2"))
    with relaying(outbox, reader=reader, cleanup=False):
        outbox.wait_published(good)
        wait_until(lambda: put_aside(outbox) == bad, "all bad rows are put aside, from the table")
        good.append(insert(outbox, "3"))
        outbox.wait_published(good)
        assert put_aside(outbox) == bad
        found = dead_rows(outbox.connection)
        assert {row.reason for row in found} == {
            f"aggregatetype '{'x' * 60}'... (3,000 bytes) makes no topic name",
            "aggregatetype '' makes no topic name",
            "aggregatetype 'Zo\\xeb' makes no topic name",
            "aggregatetype 'a b' makes no topic name",
            "aggregatetype 'a\\x1b[31m\\nb' makes no topic name",
            "aggregatetype 'no such topic' makes no topic name",
            "aggregatetype is NULL, which makes no topic name",
            "id is NULL, so nobody could tell a repeat",
        }
        assert all(row.name == row.id or row.name == f"number:{row.number}" for row in found)
        assert [row.name for row in found].count("twice") == 2
        # What makes no record makes none the second time.
        assert sorted(retry(outbox.connection, None)) == sorted(row.name for row in found)
        good.append(insert(outbox, "4"))
        outbox.wait_published(good)
        wait_until(lambda: put_aside(outbox) == bad, "all bad rows are put aside, from the log")
        discarded = {row.name for row in dead_rows(outbox.connection)} - {"twice"}
        assert set(discard(outbox.connection, discarded)) == discarded
        assert put_aside(outbox) == ["the first", "the second"]
        good.append(insert(outbox, "5"))
        outbox.wait_published(good)
    # A restart, and a lost slot, bring none of them back.
    if reader == "wal":
        outbox.drop_slot()
    with relaying(outbox, reader=reader, cleanup=False):
        good.append(insert(outbox, "6"))
        outbox.wait_published(good)
        assert put_aside(outbox) == ["the first", "the second"]
        outbox.connection.execute(
            "UPDATE outbox_dead SET aggregatetype = %s WHERE payload = 'the second'", (outbox.name,)
        )
        assert retry(outbox.connection, ["twice"]) == ["twice", "twice"]
        outbox.wait_published([*good, "twice"])
        wait_until(lambda: put_aside(outbox) == ["the first"], "one is published now, one is put aside again")
    assert sorted(outbox.published()) == sorted([*good, "twice"])


def test_rows_that_the_topic_refuses_are_put_aside_while_the_slot_is_made(stack):
    outbox = five(stack, "bytea", id=SERIAL)
    small = Outbox(stack, table=False, topic=False)
    outbox.admin.create_topics([NewTopic(small.topic, 1, config={"max.message.bytes": "2000"})])[
        small.topic
    ].result(30)
    good = [insert(outbox, b"1")]
    bad = [insert(outbox, random.randbytes(10_000), to=small.name) for _ in range(2)]
    bad.append(insert(outbox, b"2", to="a b"))
    good.append(insert(outbox, b"3"))
    with relaying(outbox):
        outbox.wait_published(good)
        good.append(insert(outbox, b"4"))
        outbox.wait_published(good)
        wait_until(lambda: len(dead_rows(outbox.connection)) == len(bad), "all that are refused are put aside")
    assert sorted(row.id for row in dead_rows(outbox.connection)) == sorted(bad)
    assert outbox.published() == good
    # Put back with IDs that the table would always give by itself, and into a column of bytes.
    assert retry(outbox.connection, [bad[-1]]) == [bad[-1]]
    assert outbox.one("SELECT payload FROM outbox WHERE id::text = %s", bad[-1]) == b"2"


def test_what_the_outbox_does_not_take_back_stays_dead_and_the_reason_is_told(outbox):
    with relaying(outbox):
        bad = outbox.insert(to="no such topic", payload='{"n": "é"}')
        wait_until(lambda: dead_rows(outbox.connection), "the row is put aside")
    outbox.connection.execute("ALTER TABLE outbox ADD tenant text NOT NULL DEFAULT ''")
    outbox.connection.execute("ALTER TABLE outbox ALTER tenant DROP DEFAULT")
    with pytest.raises(RelayError, match=f'row {bad} is not put back: null value in column "tenant"'):
        retry(outbox.connection, [bad])
    assert [row.id for row in dead_rows(outbox.connection)] == [bad]
    outbox.connection.execute("ALTER TABLE outbox ALTER tenant SET DEFAULT 'x'")
    assert retry(outbox.connection, [bad]) == [bad]
    assert outbox.one("SELECT payload FROM outbox WHERE id = %s", bad) == {"n": "é"}


OLD_TABLE = """
    CREATE TABLE outbox_dead (
        id text PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL,
        payload json NOT NULL, traceparent text, tracestate text, position pg_lsn NOT NULL,
        reason text NOT NULL, died_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO outbox_dead (id, aggregatetype, aggregateid, type, payload, position, reason)
        VALUES ('old', 'a b', 'k', 'T', '{"n":  "é"}', '0/1', 'too large')
"""


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_a_table_of_dead_rows_from_before_is_brought_to_its_new_form_by_its_owner(stack, reader):
    outbox = five(stack, "text")
    outbox.connection.execute(OLD_TABLE)
    with relaying(outbox, reader=reader):
        insert(outbox, "no JSON", to="a b")
        outbox.wait_published([insert(outbox, "1")])
    assert put_aside(outbox) == ["no JSON", '{"n":  "é"}']
    assert dead_rows(outbox.connection)[0].name == "old"


def test_who_may_not_bring_it_there_says_what_to_run(stack):
    outbox = Outbox(stack)
    outbox.connection.execute(OLD_TABLE)
    role = limited_role(outbox, "SELECT")
    outbox.connection.execute(f"GRANT SELECT, INSERT ON outbox_dead TO relay_{outbox.name}")
    port = ports.choose(taken=set())
    with relaying_as(role, outbox, port):
        outbox.insert(to="a b")

        def advice():
            return answer(port, "/readyz")[1].partition("Let the owner run: ")[2]

        outbox.connection.execute(wait_until(advice, "the relay says what to run"))
        outbox.wait_published([outbox.insert()])
    assert len(dead_rows(outbox.connection)) == 2


def test_a_trace_context_that_is_none_costs_no_row(outbox, spans):
    sampled = f"00-{'a' * 32}-{'b' * 16}-01"
    unsampled = f"00-{'a' * 32}-{'b' * 16}-00"
    contexts = [
        (unsampled, "é=1"),
        (unsampled, "x" * 5_000_000),
        (sampled, "é=1"),
        (sampled, "x" * 5_000_000),
        ("é" * 27 + "1", "v=1"),
        ("x" * 5_000_000 + "1", None),
        ("00-junk-1", "v=1"),
        ("\x01" * 54 + "1", "\x02"),
        (f"00-{'0' * 32}-{'0' * 16}-01", None),
        (None, "v=1"),
    ]
    with relaying(outbox):
        outbox.wait_confirmed()
        ids = [outbox.insert(traceparent=parent, tracestate=state) for parent, state in contexts]
        ids.append(outbox.insert("é" * 300, traceparent=sampled, payload=json.dumps("x" * 16_000_000)))
        ids.append(outbox.insert(traceparent=sampled))
        outbox.wait_published([*ids[:-2], ids[-1]])
    assert [row.id for row in dead_rows(outbox.connection)] == [ids[-2]]
    sent = {dict(record.headers())["id"].decode(): record for record in outbox.records()}
    for row_id in ids[:-2]:
        assert all(len(value or b"") <= 512 for _, value in sent[row_id].headers())
    for row_id in ids[:4]:
        assert names(sent[row_id]) == ["id", "eventType", "position", "traceparent"]
    for row_id in [ids[4], ids[5], ids[9]]:
        assert names(sent[row_id]) == ["id", "eventType", "position"]
    failed = [span for span in spans() if span.status.is_ok is False and span.status.description]
    assert [span.attributes["error.type"] for span in failed] == ["UnpublishableError"]
