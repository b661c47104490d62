"""Nothing committed stays unpublished, whatever people do to table, publication and slot."""

import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from itertools import pairwise

import psycopg
import pytest

from broker.security import KafkaSettingsError
from outbox_relay import cleaner, coverage, published
from outbox_relay.control import watch
from outbox_relay.dead import dead_rows
from outbox_relay.errors import SetupError
from outbox_relay.measures import measure
from outbox_relay.replication import connect
from outbox_relay.status import outbox_status
from stack import ports
from tests.conftest import kafka
from tests.integration.relay.controlled import command
from tests.integration.relay.outbox import (
    DEADLINE_S,
    Outbox,
    answer,
    header,
    metric,
    relay_process,
    relaying,
    wait_until,
)
from tests.integration.relay.test_table import limited_role, relaying_as

SWAP = (
    "BEGIN; ALTER TABLE outbox RENAME TO outbox_old; CREATE TABLE outbox (LIKE outbox_old INCLUDING ALL);"
    "CREATE TRIGGER note AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION note(); COMMIT"
)
PARTITIONED = """
    BEGIN; ALTER TABLE outbox RENAME TO outbox_old;
    CREATE TABLE outbox (LIKE outbox_old INCLUDING DEFAULTS) PARTITION BY HASH (id);
    CREATE TABLE outbox_0 PARTITION OF outbox FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TRIGGER note AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION note(); COMMIT
"""
SLOW_DELETE = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(17); RETURN OLD; END $$;
    CREATE TRIGGER wait BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION wait();
"""
PUBLISH = "ALTER PUBLICATION settle_outbox SET (publish = '{}')"
DROP, ADD = "ALTER PUBLICATION settle_outbox DROP TABLE outbox", "ALTER PUBLICATION settle_outbox ADD TABLE "
MEMBER = f"BEGIN; {DROP}; {ADD}{{}}; COMMIT"
ALL = "outbox (id, aggregatetype, aggregateid, type, payload, traceparent, tracestate)"
# What is done, and what undoes it; where nothing does, the relay has to.
CHANGES = {
    "replaced by rename": (SWAP, None),
    "replaced by partitions": (PARTITIONED, None),
    "publication dropped": ("DROP PUBLICATION settle_outbox", None),
    "publication dropped and made": (
        "DROP PUBLICATION settle_outbox",
        f"CREATE PUBLICATION settle_outbox FOR TABLE {ALL}",
    ),
    "inserts not published": (PUBLISH.format("update"), None),
    "inserts not published for a while": (PUBLISH.format("update"), PUBLISH.format("insert")),
    "rows filtered": (MEMBER.format("outbox WHERE (aggregateid = 'nobody')"), None),
    "rows filtered for a while": (MEMBER.format("outbox WHERE (aggregateid = 'nobody')"), MEMBER.format(ALL)),
    "columns left out for a while": (MEMBER.format("outbox (id, type)"), MEMBER.format(ALL)),
    "no member for a while": (DROP, ADD + ALL),
}


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is away"])
@pytest.mark.parametrize("change", CHANGES)
def test_each_row_is_published_once_whatever_becomes_of_table_and_publication(outbox, change, running):
    do, undo = CHANGES[change]

    def change_it():
        outbox.connection.execute(do)
        outbox.insert_many(10)
        if undo is not None:
            # The relay may have mended it meanwhile.
            with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                outbox.connection.execute(undo)
        outbox.insert_many(10)

    with relaying(outbox):
        outbox.wait_published([outbox.insert() for _ in range(10)])
        if running:
            change_it()
            wait_for_all(outbox)
    if not running:
        change_it()
    with relaying(outbox):
        outbox.insert_many(10)
        wait_for_all(outbox)
    assert len(outbox.published()) == len(set(outbox.published())) == 40


def test_a_repair_of_the_publication_is_done_as_a_whole_or_not_at_all(outbox):
    """Whoever changes it meanwhile finds the table in it, and no row is committed while it is out."""
    outbox.connection.execute(f"CREATE PUBLICATION settle_outbox FOR TABLE {ALL}")
    with closing(connect(outbox.dsn)) as connection, pytest.raises(SetupError):
        coverage.mend(connection, coverage.Gap("incomplete", (DROP, ADD + "outbox (nowhere)")))
    assert outbox.one("SELECT count(*) FROM pg_publication_tables WHERE pubname = 'settle_outbox'") == 1


def wait_for_all(outbox):
    outbox.wait_published(outbox.written())
    wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "and none is left in the table")


@contextmanager
def slot_taken_along(outbox):
    """The relay is away, and somebody does something to its slot."""
    with relaying(outbox):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    outbox.insert_many(50)
    slot = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND NOT active"
    wait_until(lambda: outbox.one(slot, outbox.slot), "nobody reads the slot")
    yield
    outbox.insert_many(50)
    with relaying(outbox):
        wait_for_all(outbox)
    assert len(outbox.published()) == len(set(outbox.published())) == 101


def test_a_slot_that_somebody_has_advanced_loses_no_row(outbox):
    with slot_taken_along(outbox):
        outbox.one("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())::text", outbox.slot)


def test_a_slot_that_somebody_else_has_made_while_there_were_rows_loses_none(outbox):
    with slot_taken_along(outbox):
        outbox.drop_slot()
        outbox.one("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')::text", outbox.slot)


def test_a_publication_that_the_role_may_not_mend_is_told_everywhere_and_its_rows_are_published(outbox):
    role = limited_role(outbox, "SELECT, DELETE")
    port = ports.choose(taken=set())
    with relaying_as(role, outbox, port):
        outbox.wait_published([outbox.insert()])
        outbox.connection.execute(PUBLISH.format("update"))
        outbox.insert_many(10)
        said = "publication settle_outbox does not publish inserts: let the table's owner run: ALTER PUBLICATION"
        wait_until(lambda: said in answer(port, "/readyz")[1], "what to run is told")
        assert answer(port, "/readyz")[0] == 503
        assert metric(port, outbox, "covered") == 0
        assert said in outbox_status(outbox.connection).gap
        wait_for_all(outbox)
        assert metric(port, outbox, "rows_recovered_total") == 10
        outbox.connection.execute(PUBLISH.format("insert"))
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it is ready again")
        assert metric(port, outbox, "covered") == 1
        assert outbox_status(outbox.connection).gap is None
    assert outbox.assert_exactly_once_in_order() == 11


def test_a_row_that_no_one_has_acknowledged_is_not_removed_though_the_log_went_past_it(outbox):
    """Its topic is missing, and the log does not bring it: nothing holds the position back."""
    with relaying(outbox):
        outbox.wait_published([outbox.insert()])
        with outbox.connection.transaction():  # or else the relay might mend it in between
            outbox.connection.execute(f"{DROP}; {ADD}outbox WHERE (aggregatetype <> 'elsewhere')")
            lost = outbox.insert(to="elsewhere")
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
        count = "SELECT count(*) FROM outbox WHERE id <> %s::uuid"
        wait_until(lambda: outbox.one(count, lost) == 0, "the others are removed")
        assert outbox.one("SELECT id::text FROM outbox") == lost


def test_a_row_that_did_not_come_and_has_no_topic_is_told_and_holds_up_no_other(outbox):
    port = ports.choose(taken=set())
    later = Outbox(outbox.stack, table=False, topic=False)
    with relaying(outbox, http_port=port):
        outbox.wait_published([outbox.insert()])
        with outbox.connection.transaction():  # or else the relay might mend it in between
            outbox.connection.execute(f"{DROP}; {ADD}outbox WHERE (aggregateid <> 'left out')")
            waits, other = outbox.insert("left out", to=later.name), outbox.insert("left out")
        outbox.wait_published([other])
        said = f"{outbox.name}: rows wait: topic {later.topic} cannot be written"
        wait_until(lambda: said in answer(port, "/readyz")[1], "which topic is missing is told")
        later.create_topic()
        later.wait_published([waits])
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it is ready again")
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "and none is left in the table")
    assert later.published() == [waits]
    assert len(outbox.published()) == len(set(outbox.published())) == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            sqlite3.OperationalError("database or disk is full"),
            "the outbox cannot be looked after: database or disk",
        ),
        (KafkaSettingsError("no such file: ca.pem"), "no such file: ca.pem"),
        (ValueError("deque.remove(x): x not in deque"), "a bug in the relay: deque.remove"),
    ],
    ids=["disk", "settings", "bug"],
)
def test_whatever_goes_wrong_beside_the_log_is_told_and_done_again(outbox, monkeypatch, error, said):
    def fail(*_):
        raise error

    monkeypatch.setattr(cleaner, "AGAIN_AFTER_S", 0.1)
    monkeypatch.setattr(cleaner, "measure", fail)
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port):
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: said in answer(port, "/readyz")[1], "it is told")
        monkeypatch.setattr(cleaner, "measure", measure)
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it is ready again")
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "published rows are removed")


def test_a_relay_that_reads_on_and_can_connect_no_more_says_so(outbox, monkeypatch):
    """Nobody looks after its table then, and what people ask is not heard."""
    monkeypatch.setattr(cleaner, "AGAIN_AFTER_S", 0.1)
    monkeypatch.setattr(cleaner, "AWAY_S_MAX", 0.5)
    monkeypatch.setattr(watch, "AWAY_S_MAX", 0.5)
    role, port = limited_role(outbox, "SELECT, DELETE"), ports.choose(taken=set())
    helpers = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE usename = %s AND backend_type = 'client backend'
    """
    with relaying_as(role, outbox, port):
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it is ready")
        before = metric(port, outbox, "reconnects_total")
        outbox.connection.execute(f"ALTER ROLE relay_{outbox.name} CONNECTION LIMIT 0")
        outbox.one(helpers, f"relay_{outbox.name}")
        for said in ("the outbox cannot be looked after: ", "what is asked of it cannot be read: "):
            wait_until(lambda said=said: said in answer(port, "/readyz")[1], "it is told")
        assert answer(port, "/readyz")[0] == 503
        outbox.wait_published([outbox.insert()])
        assert metric(port, outbox, "reconnects_total") == before
        outbox.connection.execute(f"ALTER ROLE relay_{outbox.name} CONNECTION LIMIT -1")
        wait_until(lambda: answer(port, "/readyz") == (200, "ready\n"), "it is ready again")
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "published rows are removed")


def test_a_session_that_begins_while_rows_of_the_last_are_being_removed_waits_for_that(outbox, monkeypatch):
    at_work, most, begun = [], [], []
    work, enter = cleaner.Cleaner._work, cleaner.Cleaner.__enter__

    def counted(one, connection):
        at_work.append(one)
        most.append(len(at_work))
        try:
            work(one, connection)
        finally:
            at_work.remove(one)

    def entered(one):
        begun.append(one)
        return enter(one)

    monkeypatch.setattr(cleaner.Cleaner, "_work", counted)
    monkeypatch.setattr(cleaner.Cleaner, "__enter__", entered)
    monkeypatch.setattr(cleaner, "AGAIN_AFTER_S", 0.1)  # how long its end is waited for, too
    monkeypatch.setattr(cleaner, "LOCK_WAIT", "60s")
    outbox.connection.execute(SLOW_DELETE)
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid"
    waits += " FROM pg_database WHERE datname = current_database())"
    reader = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s"
    with psycopg.connect(outbox.dsn, autocommit=True) as other, relaying(outbox):
        other.execute("SELECT pg_advisory_lock(17)")
        # Not before: that its rows can be removed would be tried out, and wait as well.
        wait_until(lambda: outbox.one(reader, outbox.slot) is not None, "the slot is read")
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: outbox.one(waits) == 1, "its row is being removed")
        before = len(begun)
        outbox.one("SELECT pg_terminate_backend(%s)", outbox.one(reader, outbox.slot))
        wait_until(lambda: len(begun) > before, "the next session has begun")
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
        other.execute("SELECT pg_advisory_unlock(17)")
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "all rows are removed")
    assert max(most) == 1
    outbox.assert_exactly_once_in_order()


def test_the_columns_of_a_trace_that_are_added_later_are_published(outbox):
    outbox.connection.execute("ALTER TABLE outbox DROP COLUMN traceparent, DROP COLUMN tracestate")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    with relaying(outbox):
        outbox.insert_many(1)
        outbox.wait_published(outbox.written())
        outbox.connection.execute("ALTER TABLE outbox ADD traceparent text, ADD tracestate text")
        member = "SELECT 'traceparent' = ANY(attnames) FROM pg_publication_tables WHERE pubname = 'settle_outbox'"
        wait_until(lambda: outbox.one(member), "the publication has the columns")
        traced = outbox.insert(traceparent=trace)
        outbox.wait_published([traced])
    (record,) = [record for record in outbox.records() if header(record, "id") == traced]
    assert header(record, "traceparent") == trace


# Tables that keep their rows.


@pytest.mark.parametrize("when", ["while it runs", "while it is away"])
def test_an_outbox_that_the_log_has_nothing_of_is_published_from_the_table(outbox, when):
    port = ports.choose(taken=set())
    with relaying(outbox):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
        if when == "while it runs":
            unlog(outbox)
    if when == "while it is away":
        unlog(outbox)
    with relaying(outbox, http_port=port):
        wait_until(
            lambda: "ALTER TABLE public.outbox SET LOGGED" in answer(port, "/readyz")[1], "it says what to do"
        )
        outbox.wait_published([outbox.insert() for _ in range(10)])
        outbox.connection.execute("ALTER TABLE outbox SET LOGGED")
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it reads the log again")
        outbox.wait_published([outbox.insert()])
    outbox.assert_exactly_once_in_order()


def unlog(outbox):
    with outbox.connection.transaction():
        outbox.connection.execute("ALTER PUBLICATION settle_outbox DROP TABLE outbox")
        outbox.connection.execute("ALTER TABLE outbox SET UNLOGGED")


def test_a_table_that_keeps_its_rows_is_covered_too(outbox):
    """There, only the catalogs can tell that something was changed."""
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert()])
        looked = metric_of_look(outbox)
        wait_until(looked, "publication and table have been looked at")
        outbox.connection.execute(PUBLISH.format("update"))
        outbox.insert_many(10)
        outbox.connection.execute(PUBLISH.format("insert"))
        outbox.insert_many(10)
        outbox.wait_published(outbox.written())
    assert outbox.one("SELECT count(*) FROM outbox") == 21
    assert len(outbox.published()) == len(set(outbox.published())) == 21


def metric_of_look(outbox):
    """Whether the relay has asked for the gauges after this moment, which it does with the rest."""
    began = outbox.one("SELECT clock_timestamp()")
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE '%%''member ''%%' AND query_start > %s
            AND pid <> pg_backend_pid() AND state = 'idle'
    """
    return lambda: outbox.one(query, began)


def forget(outbox):
    """Have the topic lose all its records, as retention does."""
    with outbox.consumer() as consumer:
        places = outbox.partitions()
        for place in places:
            place.offset = consumer.get_watermark_offsets(place)[1]
    for future in outbox.admin.delete_records(places).values():
        future.result(30)


@pytest.mark.parametrize("reader", ["wal", "polling"])
@pytest.mark.parametrize(
    ("initial", "published"), [(None, 0), ("none", 0), ("all", 10), ("since=2000-01-01T00:00:00Z", 10)]
)
def test_rows_that_the_topics_have_forgotten_are_published_again_only_if_somebody_says_so(
    outbox, initial, published, reader
):
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert() for _ in range(10)])
        outbox.wait_confirmed()
    forget(outbox)
    outbox.drop_slot()
    port = ports.choose(taken=set())
    with relaying(outbox, cleanup=False, initial=initial, reader=reader, http_port=port):
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "the relay reads")
        new = outbox.insert()
        outbox.wait_published([new])
        # Ordered after them, so whatever was to be published of the others is there as well.
        assert len(outbox.published()) == published + 1


@pytest.mark.parametrize("reader", ["wal", "polling"])
@pytest.mark.parametrize("cleanup", [True, False])
@pytest.mark.parametrize(("initial", "published"), [("none", 0), ("all", 10)])
def test_rows_that_a_poller_left_undecided_are_decided_on_by_whoever_reads_next(
    outbox, initial, published, cleanup, reader
):
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert() for _ in range(10)])
        outbox.wait_confirmed()
    forget(outbox)
    outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz")
    outbox.connection.execute("UPDATE outbox SET published_at = '-infinity'")
    with relaying(outbox, cleanup=cleanup, initial=initial, reader=reader):
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: len(outbox.published()) == published + 1, "what was decided on is published")
        if cleanup:
            wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "all are removed")
        else:
            assert outbox.one("SELECT count(*) FROM outbox") == 11
    assert len(outbox.published()) == published + 1


def test_a_table_that_keeps_rows_without_a_time_asks_what_to_do(outbox):
    outbox.connection.execute("ALTER TABLE outbox DROP COLUMN created_at")
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    forget(outbox)
    outbox.drop_slot()
    port = ports.choose(taken=set())
    with relaying(outbox, cleanup=False, http_port=port):
        wait_until(lambda: "--initial all or none" in answer(port, "/readyz")[1], "it asks")


# Sources, readers and sessions.


def test_two_databases_with_the_same_numbers_on_one_topic_are_two_sources(outbox, stack):
    other = Outbox(stack)
    make = """
        DROP TABLE outbox; CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            aggregatetype text, aggregateid text, type text, payload json)
    """
    insert = """
        INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
        SELECT %s, 'k', 'T', '{}' FROM generate_series(1, 50)
    """
    for one in (outbox, other):
        one.connection.execute(make)
    outbox.connection.execute(insert, (outbox.name,))
    with outbox.consumer() as topic:
        with relaying(outbox):
            wait_until(lambda: outbox.length(topic) == 50, "the first one's rows are published")
        other.connection.execute(insert, (outbox.name,))
        with relaying(outbox, other):
            wait_until(lambda: outbox.length(topic) == 100, "so are the second one's")
            wait_until(lambda: other.one("SELECT count(*) FROM outbox") == 0, "they are removed")
        with relaying(outbox, other):
            other.connection.execute(insert, (outbox.name,))
            wait_until(lambda: outbox.length(topic) == 150, "and none twice")


def test_a_table_that_counts_anew_loses_no_row(outbox):
    make = """
        DROP TABLE IF EXISTS outbox; CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            aggregatetype text, aggregateid text, type text, payload json, created_at timestamptz DEFAULT now())
    """
    insert = """
        INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
        SELECT %s, 'k', 'T', json_build_object('n', %s + n) FROM generate_series(1, 20) AS n
    """
    with outbox.consumer() as topic:
        outbox.connection.execute(make)
        with relaying(outbox):
            outbox.connection.execute(insert, (outbox.name, 0))
            wait_until(lambda: outbox.length(topic) == 20, "the first table's rows are published")
            outbox.connection.execute(make)
            outbox.connection.execute(insert, (outbox.name, 100))
            wait_until(lambda: outbox.length(topic) == 40, "so are the second one's")
            wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "they are removed")
        assert outbox.length(topic) == 40


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_a_table_that_counts_anew_beside_dead_rows_loses_no_row_and_repeats_it_if_asked(outbox, reader):
    """An ID that says nothing by itself is among the dead, with other contents."""
    outbox.connection.execute(
        "DROP TABLE outbox; CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "aggregatetype text, aggregateid text, type text, payload json, created_at timestamptz DEFAULT now())"
    )
    insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES (%s, 'k', 'T', '{}')"
    with relaying(outbox, reader=reader, cleanup=False):
        outbox.connection.execute(insert, ("no such topic",))
        outbox.connection.execute(insert, (outbox.name,))
        outbox.wait_published(["2"])
        assert [row.id for row in dead_rows(outbox.connection)] == ["1"]
    with outbox.consumer() as topic:
        outbox.connection.execute("TRUNCATE outbox RESTART IDENTITY")
        with relaying(outbox, reader=reader, cleanup=False):
            outbox.connection.execute(insert, (outbox.name,))
            wait_until(lambda: outbox.length(topic) == 2, "the row with the dead one's ID is published")
            if reader == "polling":
                wait_until(lambda: outbox.one("SELECT published_at IS NOT NULL FROM outbox"), "it is marked")
            command(outbox, "rewind", "--row", "1", reader=reader)
            assert outbox.length(topic) == 3
    assert sorted(outbox.published()) == ["1", "1", "2"]


def test_rows_that_row_level_security_hides_are_no_empty_table(outbox):
    role = limited_role(outbox, "SELECT")
    outbox.connection.execute("ALTER TABLE outbox ENABLE ROW LEVEL SECURITY")
    port = ports.choose(taken=set())
    first = outbox.insert()
    with relaying_as(role, outbox, port):
        said = f"row-level security hides rows of public.outbox from relay_{outbox.name}"
        wait_until(lambda: said in answer(port, "/readyz")[1], "it is told")
        outbox.connection.execute(f"ALTER ROLE relay_{outbox.name} BYPASSRLS")
        outbox.wait_published([first])


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_a_partitioned_outbox_is_published_and_emptied(outbox, reader):
    outbox.connection.execute(PARTITIONED)
    with relaying(outbox, reader=reader):
        for _ in range(40):
            outbox.insert_many(25, keys=5)
        wait_for_all(outbox)
    assert len(outbox.published()) == len(set(outbox.published())) == 1_000


def test_whoever_polls_and_whoever_reads_the_log_exclude_each_other_and_both_are_ready(outbox):
    first, second = ports.choose(taken=set()), ports.choose(taken=set())
    for active, other in (("wal", "polling"), ("polling", "wal")):
        with relay_process(outbox, SETTLE_RELAY_READER=active, SETTLE_HTTP_PORT=str(first)):
            wait_until(lambda: answer(first, "/readyz") == (200, "ready\n"), "one relay reads")
            with relay_process(outbox, SETTLE_RELAY_READER=other, SETTLE_HTTP_PORT=str(second)):
                wait_until(
                    lambda: (page := answer(second, "/readyz"))[0] == 200 and "standing by" in page[1],
                    "the other one is ready, and stands by",
                )
                assert outbox_status(outbox.connection).active
                assert metric(second, outbox, "active") == 0


def test_a_slot_that_nobody_reads_any_more_is_told_and_can_be_dropped(outbox, tmp_path):
    from outbox_relay.slot import drop_slot

    with relaying(outbox):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    said = tmp_path / "stderr"
    with said.open("w") as stderr, relay_process(outbox, stderr=stderr, SETTLE_RELAY_READER="polling"):
        wait_until(lambda: "settle outbox slot drop" in said.read_text(), "it is told")
    assert drop_slot(outbox.connection, outbox.slot)
    assert not drop_slot(outbox.connection, outbox.slot)
    assert outbox.one("SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", outbox.slot) == 0


@pytest.mark.parametrize("replication", [True, False])
def test_the_limits_that_a_database_has_for_others_are_not_those_of_the_relay(outbox, replication):
    limits = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
    if outbox.connection.info.server_version >= 170_000:
        limits.append("transaction_timeout")
    for name in limits:
        outbox.connection.execute(f"ALTER DATABASE {outbox.name} SET {name} = '10s'")
    for setting in ("bytea_output = 'escape'", "row_security = on", "timezone = 'Asia/Kathmandu'"):
        outbox.connection.execute(f"ALTER DATABASE {outbox.name} SET {setting}")
    with connect(outbox.dsn, replication=replication) as connection:
        found = {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in limits}
        assert set(found.values()) == {"0"}
        assert connection.execute("SHOW bytea_output").fetchone()[0] == "hex"
        assert connection.execute("SHOW row_security").fetchone()[0] == "off"
        assert connection.execute("SHOW timezone").fetchone()[0] == "UTC"


def test_rows_without_ordered_ids_are_published_in_the_order_of_their_times_also_without_a_zone(outbox):
    outbox.connection.execute(
        "ALTER TABLE outbox ALTER id SET DEFAULT gen_random_uuid(),"
        " ALTER created_at TYPE timestamp USING created_at AT TIME ZONE 'Pacific/Kiritimati'"
    )
    outbox.connection.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, created_at)"
        " SELECT %s, 'k', 'T', to_json(n), timestamp '2026-01-01' + n * interval '1 s'"
        " FROM generate_series(1, 50) AS n",
        (outbox.name,),
    )
    with relaying(outbox):
        outbox.wait_published(outbox.written())
    numbers = [int(record.value()) for record in outbox.records()]
    assert all(one < other for one, other in pairwise(numbers))


def test_somebodys_open_transaction_does_not_hide_the_end_of_a_topic(outbox):
    from confluent_kafka import Producer

    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    hanging = Producer({**kafka(outbox.stack), "transactional.id": f"hangs-{outbox.name}"})
    hanging.init_transactions()
    hanging.begin_transaction()
    for number in range(4):
        hanging.produce(outbox.topic, b"{}", key=f"k{number}")
    hanging.flush()
    outbox.drop_slot()
    with relaying(outbox):
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "its row is found on the topic")
    hanging.abort_transaction()


def test_a_server_that_reads_through_a_large_foreign_transaction_is_not_left(outbox, monkeypatch):
    """It says nothing meanwhile, for half of wal_sender_timeout."""
    from outbox_relay import replication

    asked = threading.Event()
    is_read_by = replication.is_read_by
    monkeypatch.setattr(replication, "SILENCE_MAX_S", 0.0)
    monkeypatch.setattr("outbox_relay.wal.is_read_by", lambda *who: asked.set() or is_read_by(*who))
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port):
        outbox.wait_published([outbox.insert()])
        # A partition that was just created may have had no leader at first.
        before = metric(port, outbox, "reconnects_total")
        assert asked.wait(DEADLINE_S)
        outbox.wait_published([outbox.insert()])
        assert metric(port, outbox, "reconnects_total") == before


def test_a_server_that_has_gone_is_left(outbox):
    from outbox_relay.replication import is_read_by

    assert not is_read_by(outbox.dsn, outbox.slot, 1)
    nowhere = f"postgresql://nobody@127.0.0.1:{ports.choose(taken=set())}/gone"
    assert not is_read_by(nowhere, outbox.slot, 1)


def test_while_the_end_of_a_topic_is_read_the_server_hears_from_the_relay(outbox, monkeypatch):
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    # The time that the reader was last heard of, by the server's clock; it would be cut off after 6 s of silence.
    heard = """
        SELECT extract(epoch FROM r.reply_time - s.backend_start)::float8 FROM pg_stat_replication AS r
        JOIN pg_replication_slots AS p ON p.active_pid = r.pid JOIN pg_stat_activity AS s ON s.pid = r.pid
        WHERE p.slot_name = %s
    """
    tail_ids = published.tail_ids

    def slow_tail_ids(*about, **level):
        meanwhile = about[-1]
        wait_until(lambda: meanwhile() or (outbox.one(heard, outbox.slot) or 0.0) > 13.0, "13 s have gone by")
        return tail_ids(*about, **level)

    monkeypatch.setattr(published, "tail_ids", slow_tail_ids)
    with outbox.server_setting("wal_sender_timeout", "6s"):
        late = outbox.insert()
        with relaying(outbox, cleanup=False):
            # Which needs a session that was not cut off for 13 s.
            outbox.wait_published([late])
