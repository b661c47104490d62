"""Rows that the table still holds are published again, in their order and with their IDs; what is gone is said."""

import json
import random
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from contracts.failpoints import EXIT_CODE
from outbox_relay.control import rewind, table
from outbox_relay.dead import dead_rows
from outbox_relay.outbox import OUTBOX
from outbox_relay.replication import connect
from outbox_relay.slot import new_slot
from outbox_relay.table import ALL_ROWS, find_table
from stack import ports
from tests.integration.relay.controlled import WAYS, WHY, Person, command, http
from tests.integration.relay.outbox import DEADLINE_S, header, relay_process, relaying, wait_until, writing
from tests.integration.relay.shaped import Shaped, toml
from tests.integration.relay.test_control import acts_of

READERS = ["wal", "polling"]


@pytest.fixture
def port():
    return ports.choose(taken=set())


def ids_of(outbox, key):
    """The IDs on the topic of one key, in their order."""
    return [header(record, "id") for record in outbox.records() if record.key() == key.encode()]


def when(outbox, row_id):
    return outbox.one("SELECT created_at FROM outbox WHERE id = %s", row_id).astimezone(UTC).isoformat()


def marked(outbox, reader):
    """All rows are published, and that is known."""
    outbox.wait_published(outbox.written())
    if reader == "polling":
        wait_until(lambda: outbox.one("SELECT bool_and(published_at IS NOT NULL) FROM outbox"), "all are marked")


@pytest.mark.parametrize(("by", "reader"), WAYS)
def test_a_table_that_keeps_its_rows_is_rewound_to_a_row_or_a_time(outbox, port, reader, by):
    person = Person(outbox, by, port, reader)
    with relaying(outbox, http_port=port, reader=reader, cleanup=False):
        ids = [outbox.insert() for _ in range(10)]
        marked(outbox, reader)
        person.do("rewind", row=ids[7])
        wait_until(lambda: acts_of(outbox) == [("rewind", "done")], "it is done")
        assert ids_of(outbox, "acc-1") == [*ids, *ids[7:]]
        person.do("rewind", since=when(outbox, ids[9]))
        wait_until(lambda: acts_of(outbox) == [("rewind", "done")] * 2, "it is done")
        assert ids_of(outbox, "acc-1") == [*ids, *ids[7:], ids[9]]
        last = outbox.insert()
        outbox.wait_published([last])
        (act, *_) = table.acts(outbox.connection, OUTBOX, 1)
        assert act.outcome == "1 row published again"
    assert ids_of(outbox, "acc-1")[-1] == last


def test_rows_that_a_poller_publishes_again_count_as_published_though_nobody_had_decided_on_them(outbox):
    with relaying(outbox, reader="polling", cleanup=False):
        ids = [outbox.insert() for _ in range(3)]
        marked(outbox, "polling")
        outbox.connection.execute("UPDATE outbox SET published_at = 'infinity' WHERE id = %s", (ids[1],))
        command(outbox, "rewind", "--row", ids[1], reader="polling")
        wait_until(lambda: acts_of(outbox) == [("rewind", "done")], "it is done")
    assert ids_of(outbox, "acc-1") == [*ids, *ids[1:]]
    assert outbox.one("SELECT bool_and(isfinite(published_at)) FROM outbox")


@pytest.mark.parametrize("reader", READERS)
def test_a_rewind_goes_on_without_a_row_that_the_topic_takes_no_more(outbox, reader):
    with relaying(outbox, reader=reader, cleanup=False):
        before = [outbox.insert() for _ in range(3)]
        large = outbox.insert(payload=json.dumps(random.randbytes(10_000).hex()))
        after = [outbox.insert() for _ in range(3)]
        marked(outbox, reader)
        outbox.set_topic({"max.message.bytes": "2000"})
        command(outbox, "rewind", "--row", before[1], "--wait", "30", reader=reader)
        (dead,) = dead_rows(outbox.connection)
        assert dead.id == large
        outbox.wait_published([outbox.insert()])
    # The rows before a refused one may have been published more than once: a rewind begins anew.
    again = ids_of(outbox, "acc-1")[7:-1]
    assert again[-5:] == [before[1], before[2], *after]
    assert large not in again


@pytest.mark.parametrize("reader", READERS)
def test_a_rewind_under_load_ends_with_each_key_in_its_order(outbox, reader):
    with relaying(outbox, reader=reader, cleanup=False):
        with writing(outbox):
            wait_until(lambda: outbox.one("SELECT count(*) FROM written") > 1_000, "rows come in")
            first = outbox.one("SELECT id::text FROM written ORDER BY n OFFSET 500 LIMIT 1")
            command(outbox, "rewind", "--row", first, "--wait", "30", reader=reader)
        # Who polls does it once it has caught up, which it may not have before nobody writes any more.
        wait_until(lambda: acts_of(outbox) == [("rewind", "done")], "it is done")
        outbox.wait_published(outbox.written())
    rows = outbox.connection.execute("SELECT id::text, key FROM written ORDER BY id").fetchall()
    published = {}
    for record in outbox.records():
        published.setdefault(record.key().decode(), []).append(header(record, "id"))
    for key in {key for _, key in rows}:
        of_key = [row_id for row_id, its in rows if its == key]
        again = [row_id for row_id in of_key if row_id >= first]
        # From the last time that the first of them was published on, all of them, in order.
        found = published[key]
        place = len(found) - 1 - found[::-1].index(again[0])
        assert found[place:] == again
        # And before it, what had come until then, once each.
        assert found[:place] == of_key[: len(found[:place])]


def test_a_row_that_is_discarded_while_a_rewind_catches_up_is_not_among_its_rows(outbox):
    with relaying(outbox, cleanup=False):
        ids = [outbox.insert(), outbox.insert(to="no/topic"), outbox.insert()]
        wait_until(lambda: dead_rows(outbox.connection), "one is quarantined")
        outbox.wait_published([ids[0], ids[2]])
    with closing(connect(outbox.dsn)) as connection:
        found = find_table(connection)
        with new_slot(connection, found, outbox.slot) as slot:
            command(outbox, "dead", "discard", ids[1])
            assert not dead_rows(outbox.connection)
            again = [row.id.decode() for row, _ in slot.rows_before(ALL_ROWS)]
    assert again == [ids[0], ids[2]]


def test_what_a_table_that_is_cleaned_has_lost_is_said(outbox, port):
    with relaying(outbox):
        ids = [outbox.insert() for _ in range(3)]
        outbox.wait_published(ids)
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "they are removed")
        long_ago = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        refused = command(outbox, "rewind", "--since", long_ago, code=1)
        assert "holds no such row any more: it is empty, and how many were published and removed" in refused
        assert "has no row" in command(outbox, "rewind", "--row", ids[0], code=1)
        command(outbox, "pause")
        left = [outbox.insert() for _ in range(3)]
        found = command(outbox, "rewind", "--since", long_ago, "--wait", "0", "--json")
        assert found["text"].startswith(
            "3 of 3 rows of the table to be published again; the oldest was written at "
        )
        assert "what was removed before is gone, how much is not known" in found["text"]
        command(outbox, "resume")
        wait_until(lambda: acts_of(outbox)[-2:-1] == [("rewind", "done")], "it is done")
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "they are removed")
    # They had not been published before: once in their turn, and once more.
    assert ids_of(outbox, "acc-1") == [*ids, *left, *left]


def test_a_rewind_for_which_the_server_takes_no_further_connection_is_refused_and_reading_goes_on(outbox):
    with relaying(outbox, cleanup=False), ExitStack() as stack:
        row_id = outbox.insert()
        outbox.wait_published([row_id])
        outbox.wait_confirmed()
        with pytest.raises(psycopg.OperationalError):
            while True:  # until no walsender is left
                stack.enter_context(closing(connect(outbox.dsn)))
        refused = command(outbox, "rewind", "--row", row_id, code=1)
        assert "max_wal_senders" in refused
        last = outbox.insert()
        outbox.wait_published([last])
    assert outbox.published() == [row_id, last]
    assert acts_of(outbox) == [("rewind", "refused")]


@pytest.mark.parametrize("reader", READERS)
def test_times_that_python_does_not_have_are_refused_and_where_they_stand_hold_nothing_up(outbox, port, reader):
    with relaying(outbox, http_port=port, reader=reader, cleanup=False):
        ids = [outbox.insert() for _ in range(2)]
        marked(outbox, reader)
        for since in BEYOND:
            assert "the time is not between" in command(outbox, "rewind", "--since", since, code=1, reader=reader)
            body = {"since": since, "reason": WHY}
            assert http(port, f"/v1/sources/{outbox.name}/rewind", body)[0] == 422
        table.ensure(outbox.connection, OUTBOX)
        write = "INSERT INTO outbox_control (act, who, since, at) VALUES ('rewind', 'x', %s, %s)"
        for since in (*BEYOND, "-infinity", "infinity", "0044-03-15 BC", "294276-12-31"):
            outbox.connection.execute(write, (since, since))
        outbox.connection.execute("UPDATE outbox_control SET at = 'infinity' WHERE about IS NOT NULL")
        wait_until(lambda: {ended for _, ended in acts_of(outbox)} == {"done"}, "all are done")
        command(outbox, "pause", reader=reader)
        command(outbox, "resume", reader=reader)
        (status,) = command(outbox, "status", "--json", reason=None, reader=reader)
        assert status["state"] == "reading"
        last = outbox.insert()
        outbox.wait_published([last])
    # What is too early begins with the first row, what is too late after the last.
    assert ids_of(outbox, "acc-1") == [*ids * 4, last]


BEYOND = ("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-10:00")


@pytest.mark.parametrize("reader", READERS)
def test_killed_in_the_midst_of_a_rewind_all_of_it_is_published_again(outbox, reader):
    environment = {
        "SETTLE_RELAY_READER": reader,
        "SETTLE_RELAY_POLL_INTERVAL_S": "0.05",
        "SETTLE_RELAY_CLEANUP": "false",
    }
    with relay_process(outbox, **environment):
        ids = [outbox.insert() for _ in range(5)]
        marked(outbox, reader)
        if reader == "wal":
            outbox.wait_confirmed()
    command(outbox, "rewind", "--row", ids[2], "--wait", "0", reader=reader)
    with relay_process(outbox, SETTLE_FAILPOINT="control.repeated", **environment) as relay:
        assert relay.wait(DEADLINE_S) == EXIT_CODE
    with relaying(outbox, reader=reader, cleanup=False):
        wait_until(lambda: acts_of(outbox) == [("rewind", "done")], "it is done")
        last = outbox.insert()
        outbox.wait_published([last])
    assert ids_of(outbox, "acc-1") == [*ids, *ids[2:], *ids[2:], last]
    slots = "SELECT count(*) FROM pg_replication_slots WHERE database = %s"
    # A temporary one goes once the server notices that its connection is closed.
    wait_until(lambda: outbox.one(slots, outbox.name) == (reader == "wal"), "no other slot is left")


@contextmanager
def configured(outbox, tmp_path, port, **reading):
    """A relay of an outbox of another shape, and what commands need to find it."""
    from tests.integration.relay.shaped import carrying

    path = tmp_path / "relay.toml"
    path.touch(0o600)
    path.write_text(toml(outbox.dsn, outbox.description, bootstrap=outbox.bootstrap, **reading))
    with carrying(path, port):
        yield {"SETTLE_RELAY_CONFIG": str(path), "SETTLE_RELAY_SOURCES": ""}


@pytest.mark.parametrize("shape", ["odd", "lean"])
def test_an_outbox_of_another_shape_is_paused_skipped_and_rewound(stack, tmp_path, port, shape):
    outbox = Shaped(stack, shape)
    with configured(outbox, tmp_path, port, cleanup=False) as found:

        def act(*words, **more):
            return command("", *words, **found, **more)

        ids = [outbox.put() for _ in range(4)]
        outbox.wait_published(ids)
        act("pause")
        skipped, last = outbox.put(), outbox.put()
        act("skip", skipped, "--wait", "0")
        act("resume")
        outbox.wait_published([last])
        (status,) = act("status", "--json", reason=None)
        assert (status["state"], status["outbox"]["dead_rows"]) == ("reading", 1)
        if shape == "odd":  # its created_at has no time zone
            refused = act("rewind", "--since", datetime.now(UTC).isoformat(), code=1)
            assert "does not say exactly when its rows were written" in refused
            # Its IDs have no order, and its times are rewound to.
            first = outbox.one(outbox.description.sql("SELECT {id}::text FROM {table} ORDER BY at LIMIT 1"))
            act("rewind", "--row", first)
        else:
            act("rewind", "--row", ids[0])
        wait_until(lambda: len(outbox.published()) == 10, "five rows are published again")
    published = outbox.published()
    assert skipped not in published
    assert sorted(published) == sorted([*ids, last] * 2)


def test_one_rewind_that_cannot_be_done_keeps_nothing_from_being_read(outbox):
    with relaying(outbox, cleanup=False):
        ids = [outbox.insert() for _ in range(2)]
        outbox.wait_published(ids)
        command(outbox, "pause")
        command(outbox, "rewind", "--row", ids[1], "--wait", "0")
        command(outbox, "rewind", "--row", ids[0], "--wait", "0")
        outbox.connection.execute("DELETE FROM outbox WHERE id = %s", (ids[1],))
        command(outbox, "resume")
        last = outbox.insert()
        outbox.wait_published([last])
        wait_until(lambda: acts_of(outbox)[1:3] == [("rewind", "refused"), ("rewind", "done")], "both ended")


HOLDER = """
    SELECT a.state FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid)
    WHERE a.datname = current_database() AND l.locktype = 'advisory' AND l.granted
"""


def test_a_poller_that_rewinds_has_no_result_that_the_server_waits_for_while_kafka_takes_none(outbox, monkeypatch):
    # Larger than what lies between server and relay: it would end a session that reads its result too slowly.
    large, rows, states, publish_again = json.dumps("x" * 900_000), 40, [], rewind.publish_again

    def watched(found, *others):
        def each():
            for row in found:
                states.append(outbox.one(HOLDER))
                yield row

        return publish_again(each(), *others)

    monkeypatch.setattr(rewind, "publish_again", watched)
    with relaying(outbox, reader="polling", cleanup=False):
        ids = [outbox.insert(payload=large) for _ in range(rows)]
        marked(outbox, "polling")
        command(outbox, "rewind", "--row", ids[0], "--wait", "30", reader="polling")
    assert states == ["idle in transaction"] * rows
    assert ids_of(outbox, "acc-1") == ids * 2
