"""A table that keeps what is published: what the log left out is found, and a slot that can be read is kept."""

import json
import random
from contextlib import closing
from threading import Event

import psycopg
import pytest
from confluent_kafka import TopicPartition
from structlog.testing import capture_logs

from outbox_relay import cleaner, coverage
from outbox_relay import left_out as searches
from outbox_relay.dead import dead_rows
from outbox_relay.errors import SetupError
from outbox_relay.first_batches import murmur2
from outbox_relay.replication import connect
from outbox_relay.source import Source
from stack import ports
from tests.integration.relay.controlled import command
from tests.integration.relay.outbox import DEADLINE_S, Outbox, answer, relaying, wait_until
from tests.integration.relay.test_coverage import ADD, ALL, DROP, PUBLISH, forget, metric_of_look
from tests.integration.relay.test_logged_messages import emit, relaying_messages, uuid
from tests.integration.relay.test_table import limited_role, relaying_as


@pytest.fixture(autouse=True)
def looking_often(monkeypatch):
    monkeypatch.setattr(cleaner, "LOOK_INTERVAL_S", 0.2)
    monkeypatch.setattr(cleaner, "CLEAN_INTERVAL_S", 0.2)


def leave_out(outbox, *, undo=True):
    """The log has nothing of one row; its ID."""
    outbox.connection.execute(PUBLISH.format("update"))
    row_id = outbox.insert()
    if undo:
        outbox.connection.execute(PUBLISH.format("insert"))
    return row_id


@pytest.mark.parametrize("undo", [True, False], ids=["and changed back", "and mended by the relay"])
@pytest.mark.parametrize("when", ["while it runs", "between two sessions"])
def test_what_a_changed_publication_left_out_is_published(outbox, when, undo):
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert()])
        if when == "between two sessions":
            command(outbox, "pause")
        left_out = leave_out(outbox, undo=undo)
        if when == "between two sessions":
            command(outbox, "resume")
        outbox.wait_published([left_out, outbox.insert()])
    assert len(outbox.published()) == len(set(outbox.published())) == 3


def test_what_a_publication_left_out_that_is_mended_at_the_start_is_published(outbox):
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    left_out = leave_out(outbox, undo=False)
    with relaying(outbox, cleanup=False):
        outbox.wait_published([left_out, outbox.insert()])
    assert len(outbox.published()) == len(set(outbox.published())) == 3


def test_what_a_transaction_wrote_while_rows_were_left_out_is_published_once_it_commits(outbox):
    with relaying(outbox, cleanup=False), psycopg.connect(outbox.dsn) as late:
        outbox.wait_published([outbox.insert()])
        outbox.connection.execute(PUBLISH.format("update"))
        late_id, left_out = outbox.insert("late", connection=late), outbox.insert()
        outbox.connection.execute(PUBLISH.format("insert"))
        outbox.wait_published([left_out])
        late.commit()
        outbox.wait_published([late_id])
    assert len(outbox.published()) == len(set(outbox.published())) == 3


def test_what_a_transaction_writes_that_began_before_rows_were_left_out_is_published(outbox):
    """Its rows bear the time of its beginning, at which the log still brought all."""
    with relaying(outbox, cleanup=False), psycopg.connect(outbox.dsn) as late:
        outbox.wait_published([outbox.insert()])
        wait_until(metric_of_look(outbox), "publication and table have been looked at")
        late.execute("SELECT")
        for _ in range(2):  # the first one may have begun before
            wait_until(metric_of_look(outbox), "they have been looked at since")
        outbox.connection.execute(PUBLISH.format("update"))
        left_out = outbox.insert(connection=late)
        outbox.connection.execute(PUBLISH.format("insert"))
        forget(outbox)  # of the topic nothing tells any more since when it holds everything
        late.commit()
        outbox.wait_published([left_out])
    assert outbox.published() == [left_out]


def test_what_stands_in_the_slot_alone_is_published_though_the_publication_is_changed(outbox, tmp_path):
    """To make another slot would wait for the transaction that is open, and begin after it."""
    with relaying_messages(outbox, tmp_path, cleanup=False), psycopg.connect(outbox.dsn) as late:
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
        message = emit(outbox, uuid(outbox), connection=late)
        outbox.wait_published([leave_out(outbox)])
        late.commit()
        outbox.wait_published([message])
    assert len(outbox.published()) == len(set(outbox.published())) == 3


def test_what_was_published_long_ago_is_not_published_again_where_rows_were_left_out(outbox):
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert() for _ in range(10)])
        outbox.wait_confirmed()
        forget(outbox)
        for _ in range(2):  # the first one may have begun before
            wait_until(metric_of_look(outbox), "publication and table have been looked at")
        left_out = leave_out(outbox)
        outbox.wait_published([left_out])
    assert outbox.published() == [left_out]


def test_what_another_relay_has_published_is_not_published_again_where_something_was_changed_meanwhile(outbox):
    own = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s"
    with capture_logs() as logs, relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert()])
        for _ in range(2):  # the first one may have begun before
            wait_until(metric_of_look(outbox), "publication and table have been looked at")

        def is_taken_over():
            outbox.one("SELECT pg_terminate_backend(%s)", outbox.one(own, outbox.slot))
            return outbox.one("SELECT pg_try_advisory_lock(hashtext('settle-relay outbox'))")

        wait_until(is_taken_over, "another one has the outbox")
        rows = [outbox.insert() for _ in range(10)]
        wait_until(lambda: any("standing by" in line["event"] for line in list(logs)), "it is a standby")
        outbox.one("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())::text", outbox.slot)
        forget(outbox)  # as if it had published them long ago
        for kind in ("update", "insert"):
            outbox.connection.execute(PUBLISH.format(kind))
        outbox.one("SELECT pg_advisory_unlock_all()::text")
        late = outbox.insert()
        outbox.wait_published([late])
        wait_until(lambda: outbox.one(own, outbox.slot), "the slot is read")
        for _ in range(2):
            wait_until(metric_of_look(outbox), "the table has been searched")
    assert not set(rows) & set(outbox.published())


def test_only_what_concerns_the_outbox_counts_as_a_change(outbox):
    with closing(connect(outbox.dsn, replication=False)) as connection:
        connection.execute(f"CREATE PUBLICATION settle_outbox FOR TABLE {ALL}")
        seen = coverage.fingerprint(connection)
        connection.execute("CREATE TABLE audit (id int)")
        connection.execute("ALTER PUBLICATION settle_outbox ADD TABLE audit")
        assert coverage.fingerprint(connection) == seen
        connection.execute(DROP)
        connection.execute(ADD + ALL)
        assert coverage.fingerprint(connection) != seen


def test_what_a_slot_holds_that_somebody_has_advanced_is_published_too(outbox, tmp_path):
    with relaying_messages(outbox, tmp_path, cleanup=False):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
        command(outbox, "pause")
        row_id = outbox.insert()
        outbox.one("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())::text", outbox.slot)
        message = emit(outbox, uuid(outbox))
        command(outbox, "resume")
        outbox.wait_published([row_id, message])
    assert len(outbox.published()) == len(set(outbox.published())) == 3


def test_what_was_left_out_while_there_was_no_publication_is_published(outbox, tmp_path):
    """From version 18 on the slot can be read past it; before, it is made anew."""
    with relaying_messages(outbox, tmp_path, cleanup=False):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
        command(outbox, "pause")
        message = emit(outbox, uuid(outbox))
        outbox.connection.execute("DROP PUBLICATION settle_outbox")
        row_id = outbox.insert()
        command(outbox, "resume", "--wait", "0")
        outbox.wait_published([message, row_id, outbox.insert()])
    assert len(outbox.published()) == len(set(outbox.published())) == 4


# What a new slot begins with.


def test_a_row_is_judged_by_the_partition_of_its_key(outbox):
    """One partition has forgotten more than another: only what its own would still hold can be decided."""
    cold, hot = (next(key for key in map(str, range(100)) if murmur2(key.encode()) % 4 == one) for one in (1, 2))
    with relaying(outbox, cleanup=False):
        for key in (cold, cold, hot, hot):
            outbox.wait_published([outbox.insert(key)])
        outbox.wait_confirmed()
    first_hot, last = outbox.written()[2:]
    with outbox.consumer():
        places = [TopicPartition(outbox.topic, partition, 1) for partition in (1, 2)]
        for future in outbox.admin.delete_records(places).values():
            future.result(DEADLINE_S)
    outbox.drop_slot()
    left_out = outbox.insert(cold)
    outbox.connection.execute(
        "UPDATE outbox SET created_at = (SELECT created_at FROM outbox WHERE id = %s) WHERE id = %s",
        (first_hot, left_out),
    )
    with relaying(outbox, cleanup=False):
        outbox.wait_published([left_out, outbox.insert()])
    published = outbox.published()
    assert len(published) == len(set(published)) == 4
    assert last in published
    assert first_hot not in published


def test_a_person_is_asked_where_the_topic_is_compacted(stack):
    """An older version of a key that compaction has taken would be the newest one."""
    outbox = Outbox(stack, topic_config={"cleanup.policy": "compact"})
    port = ports.choose(taken=set())
    with relaying(outbox, cleanup=False):  # nothing was ever on the topic, so that nothing can have been taken
        outbox.wait_published([outbox.insert(), outbox.insert()])
        outbox.wait_confirmed()
    outbox.drop_slot()
    with relaying(outbox, cleanup=False, http_port=port):
        wait_until(lambda: "are compacted" in answer(port, "/readyz")[1], "it asks")
    with relaying(outbox, cleanup=False, initial="none"):
        outbox.wait_confirmed()
        outbox.wait_published([outbox.insert()])
    assert len(outbox.published()) == 3


# What the reader of the log leaves to a poller.


def unmarked(outbox):
    return outbox.one("SELECT count(*) FROM outbox WHERE published_at IS NULL")


@pytest.mark.parametrize("killed", [False, True])
def test_a_poller_publishes_nothing_again_that_the_reader_of_the_log_has_published(outbox, killed):
    outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz")
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert() for _ in range(10)])
        wait_until(lambda: not unmarked(outbox), "they are marked")
        outbox.wait_confirmed()
    if killed:  # as if it had ended between what it confirmed and what it marked
        outbox.connection.execute("UPDATE outbox SET published_at = NULL")
        with relaying(outbox, cleanup=False):
            wait_until(lambda: not unmarked(outbox), "they are marked by the next one")
    forget(outbox)
    with relaying(outbox, reader="polling", cleanup=False):
        late = outbox.insert()
        outbox.wait_published([late])
    assert outbox.published() == [late]


def test_rows_without_a_mark_that_their_topic_has_forgotten_are_decided_on_by_the_reader_of_the_log(outbox):
    """As those are that it published before it set marks."""
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert() for _ in range(10)])
        outbox.wait_confirmed()
    forget(outbox)
    outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz")
    with capture_logs() as logs, relaying(outbox, cleanup=False):
        wait_until(lambda: not unmarked(outbox), "they are marked")
    assert [line["rows"] for line in logs if "older than what their topics hold" in line["event"]] == [10]
    with relaying(outbox, reader="polling", cleanup=False):
        late = outbox.insert()
        outbox.wait_published([late])
    assert outbox.published() == [late]


def test_rows_without_a_mark_that_nobody_can_decide_on_are_told_and_hold_nothing_up(outbox):
    port = ports.choose(taken=set())
    outbox.connection.execute("ALTER TABLE outbox DROP COLUMN created_at")
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    forget(outbox)
    outbox.insert(to="gone")  # and one whose topic was deleted since
    outbox.one("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", outbox.slot)
    outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz")
    with capture_logs() as logs, relaying(outbox, cleanup=False, http_port=port):
        wait_until(lambda: any("nothing tells" in line["event"] for line in list(logs)), "it is told")
        late = outbox.insert()
        outbox.wait_published([late])
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it is ready")
    assert outbox.published() == [late]


def test_a_search_is_not_undone_by_others_who_remove_rows_meanwhile(outbox, monkeypatch):
    """As who keeps rows for a time does."""
    with relaying(outbox, cleanup=False):
        rows = [outbox.insert(), outbox.insert()]
        outbox.wait_published(rows)
        outbox.wait_confirmed()
    forget(outbox)
    outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz")
    to_publish = cleaner.Cleaner._to_publish

    def thinned(self, connection, missing):
        outbox.connection.execute("DELETE FROM outbox WHERE id = %s", (rows[0],))
        return to_publish(self, connection, missing)

    monkeypatch.setattr(cleaner.Cleaner, "_to_publish", thinned)
    with capture_logs() as logs, relaying(outbox, cleanup=False):
        left = "SELECT count(*) FROM outbox WHERE published_at = 'infinity'"
        wait_until(lambda: outbox.one(left) == 1, "the other one is marked as left")
    assert not [line for line in logs if "could not serialize" in line["event"]]
    assert unmarked(outbox) == 0


def test_a_row_that_was_left_gets_its_mark_once_it_is_published(outbox):
    outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz")
    with relaying(outbox, cleanup=False):
        row_id = outbox.insert()
        outbox.wait_published([row_id])
        wait_until(lambda: not unmarked(outbox), "it is marked")
        outbox.connection.execute("UPDATE outbox SET published_at = 'infinity'")
        command(outbox, "rewind", "--row", row_id)
        wait_until(lambda: outbox.one("SELECT isfinite(published_at) FROM outbox"), "it is marked as published")


def test_a_role_that_may_not_mark_says_so_and_reads_on(outbox):
    outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz")
    role = limited_role(outbox, "SELECT")
    with capture_logs() as logs, relaying_as(role, outbox):
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: any("get no mark" in line["event"] for line in list(logs)), "it is told")
        outbox.wait_published([outbox.insert()])
    assert unmarked(outbox) == 2


def test_a_role_that_may_not_mark_reads_on_though_rows_wait_for_a_decision_that_is_made_once_it_may(outbox):
    outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz")
    left = outbox.insert()
    outbox.connection.execute("UPDATE outbox SET published_at = 'infinity'")
    role = limited_role(outbox, "SELECT, DELETE")
    grant = f"GRANT UPDATE ON public.outbox TO relay_{outbox.name}"
    with capture_logs() as logs, relaying_as(role, outbox, initial="all"):
        late = outbox.insert()
        outbox.wait_published([late])
        outbox.wait_confirmed()
        assert [line for line in logs if line["event"].endswith(grant)]
    assert outbox.published() == [late]
    assert outbox.one("SELECT published_at = 'infinity' FROM outbox WHERE id = %s", left)
    outbox.connection.execute(grant)
    with relaying_as(role, outbox, initial="all"):
        outbox.wait_published([left])
    assert outbox.published() == [late, left]


def test_a_rule_that_somebody_set_is_told_with_what_it_leaves_out_and_while_it_is_set(outbox):
    def told(text):
        return [line for line in logs if text in line["event"]]

    outbox.insert()
    with capture_logs() as logs, relaying(outbox, initial="none"):
        outbox.wait_confirmed()
        outbox.wait_published([outbox.insert()])
    assert [line["rows"] for line in told("rows are not published, as the setting initial")] == [1]
    assert not told("take it out")
    with capture_logs() as logs, relaying(outbox, initial="none"):
        outbox.wait_published([outbox.insert()])
    assert len(told("take it out")) == 1
    assert len(outbox.published()) == 2


def test_of_rows_left_out_that_kafka_refuses_together_each_is_tried_by_itself(stack):
    outbox = Outbox(stack, topic_config={"max.message.bytes": "2000"})
    with relaying(outbox, cleanup=False):
        first = outbox.insert()
        outbox.wait_published([first])
        outbox.connection.execute(PUBLISH.format("update"))
        too_large = outbox.insert(payload=json.dumps(random.randbytes(10_000).hex()))
        left_out = [outbox.insert() for _ in range(20)]
        outbox.connection.execute(PUBLISH.format("insert"))
        outbox.wait_published([first, *left_out])
        (dead,) = wait_until(lambda: dead_rows(outbox.connection), "the row is put aside")
        assert dead.id == too_large


def test_a_search_that_fails_is_told_until_one_succeeds(outbox, monkeypatch):
    search, find_gap, port, refused = cleaner.Cleaner._search, Source.find_gap, ports.choose(taken=set()), Event()
    refused.set()
    told = []

    def failing(self, connection):
        if refused.is_set():
            raise SetupError("say which rows")
        return search(self, connection)

    def telling(self, gap):
        told.append(gap)
        find_gap(self, gap)

    monkeypatch.setattr(cleaner.Cleaner, "_search", failing)
    monkeypatch.setattr(Source, "find_gap", telling)
    monkeypatch.setattr(searches, "REST_S_MAX", 0.0)
    with relaying(outbox, cleanup=False, http_port=port):
        outbox.wait_published([outbox.insert()])
        missing = leave_out(outbox)
        wait_until(lambda: told.count("say which rows") >= 5, "it is told again and again")
        assert None not in told[told.index("say which rows") :]
        assert "say which rows" in answer(port, "/readyz")[1]
        refused.clear()
        outbox.wait_published([missing])
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it is ready")
