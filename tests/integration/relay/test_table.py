"""The outbox stays small and clean: published rows go, dead rows are quarantined, and rights are asked for."""

import json
import random
import threading

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from outbox_relay import source
from outbox_relay.dead import dead_rows, retry
from outbox_relay.publisher import Publisher
from stack import ports
from tests.integration.relay.outbox import Outbox, answer, metric, relay_process, relaying, wait_until, writing

READERS = ["wal", "polling"]


@pytest.mark.parametrize("reader", READERS)
def test_published_rows_are_removed(outbox, reader):
    port = ports.choose(taken=set())
    outbox.insert_many(25_000)
    with relaying(outbox, reader=reader, http_port=port):
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "the outbox is empty")
        wait_until(lambda: metric(port, outbox, "rows_removed_total") == 25_000, "they are counted")
    outbox.assert_exactly_once_in_order()


def test_a_log_that_the_server_keeps_in_memory_does_not_keep_rows_back(outbox):
    """A walsender sends what is on disk; what no commit follows is there by chance: the server's own snapshot."""
    more = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 100))"
    # A relay that has the log written does it with a message of its own.
    slot = "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', true)::text"
    by_relay = """
        SELECT count(*) FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL,
            'proto_version', '1', 'publication_names', 'settle_outbox', 'messages', 'true')
        WHERE position('settle-relay'::bytea IN data) > 0
    """
    with (
        outbox.server_setting("bgwriter_delay", "10s"),
        relaying(outbox),
        psycopg.connect(outbox.dsn) as under_way,
    ):
        outbox.wait_confirmed()
        outbox.one(slot, f"{outbox.slot}_seen")

        def removed_by_relay():
            outbox.wait_published([outbox.insert()])
            under_way.execute(more)
            wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "published rows are removed")
            return outbox.one(by_relay, f"{outbox.slot}_seen")

        wait_until(removed_by_relay, "the relay has the log written")
        outbox.one("SELECT pg_drop_replication_slot(%s)::text", f"{outbox.slot}_seen")


def test_rows_that_are_not_published_stay_even_those_of_a_transaction_that_was_numbered_first(outbox):
    with relaying(outbox), psycopg.connect(outbox.dsn) as early:
        outbox.wait_confirmed()
        first = outbox.insert(connection=early)
        later = [outbox.insert() for _ in range(50)]
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "the later rows are removed")
        assert first not in outbox.published()
        early.commit()
        outbox.wait_published([first])
    assert sorted(outbox.published()) == sorted([first, *later])


def test_a_row_that_is_published_before_others_see_it_is_removed_in_the_end(outbox):
    """A commit that waits for a standby is in the log already, and in no snapshot yet."""
    outbox.connection.execute("SET synchronous_commit = local")
    outbox.connection.execute(f"ALTER DATABASE {outbox.name} SET synchronous_commit = local")
    with relaying(outbox), psycopg.connect(outbox.dsn, autocommit=True) as unseen:
        outbox.wait_confirmed()
        unseen.execute("SET synchronous_commit = on")
        waiting = threading.Event()

        def insert():
            while not waiting.is_set():
                outbox.insert(connection=unseen)

        commit = threading.Thread(target=insert)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
        with outbox.server_setting("synchronous_standby_names", "nobody"):
            commit.start()  # commits wait once the checkpointer has heard of it, whatever a session shows
            wait_until(lambda: outbox.one(waits, unseen.info.backend_pid), "the commit waits for a standby")
            waiting.set()
            wait_until(lambda: set(outbox.published()) - set(outbox.written()), "its row is published")
            outbox.insert()
            wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "the row that is seen is removed")
        commit.join()
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "the other one too")
    outbox.assert_exactly_once_in_order()


def test_the_outbox_is_emptied_while_rows_keep_coming(outbox):
    """Not only once nobody writes any more; where the relay is behind for a while, it catches up first."""
    with relaying(outbox), writing(outbox, rows=50):

        def emptied():
            left, written = outbox.one("SELECT count(*) FROM outbox"), outbox.one("SELECT count(*) FROM written")
            return written > 20_000 and left < written / 10

        wait_until(emptied, "of more than 20,000 rows few are left", 240)


def test_whoever_may_not_delete_keeps_the_rows_and_is_told(outbox, tmp_path):
    role = limited_role(outbox, "SELECT")
    outbox.insert()
    said = tmp_path / "stderr"
    with said.open("w") as stderr, relay_process(outbox, dsn=as_url(role), stderr=stderr):
        outbox.wait_published(outbox.written())
        wait_until(lambda: "may not DELETE" in said.read_text(), "the relay says so")
    assert outbox.one("SELECT count(*) FROM outbox") == 1


def test_an_outbox_without_a_key_is_emptied_too(outbox):
    outbox.connection.execute("ALTER TABLE outbox DROP CONSTRAINT outbox_pkey")
    outbox.insert_many(100)
    with relaying(outbox):
        outbox.wait_published(outbox.written())
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "published rows are removed")


def test_where_deletes_are_refused_the_rows_stay_and_the_relay_says_so(outbox, tmp_path):
    outbox.connection.execute("ALTER TABLE outbox DROP CONSTRAINT outbox_pkey")
    outbox.connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    outbox.insert()
    said = tmp_path / "stderr"
    with said.open("w") as stderr, relay_process(outbox, stderr=stderr):
        outbox.wait_published(outbox.written())
        wait_until(lambda: "it does not have a replica identity" in said.read_text(), "the relay says so")
    assert outbox.one("SELECT count(*) FROM outbox") == 1


def test_where_the_delete_of_a_dead_row_is_refused_the_table_is_looked_after_all_the_same(stack, tmp_path):
    outbox = Outbox(stack, topic_config={"max.message.bytes": "2000"})
    port, said = ports.choose(taken=set()), tmp_path / "stderr"
    with (
        said.open("w") as stderr,
        relay_process(outbox, stderr=stderr, SETTLE_HTTP_PORT=str(port)),
    ):
        outbox.wait_published([outbox.insert()])
        outbox.connection.execute("""
            CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE foreign_key_violation USING MESSAGE = 'an order refers to it'; END $$;
            CREATE TRIGGER keep BEFORE DELETE ON outbox FOR EACH ROW WHEN (OLD.aggregateid = 'dead')
                EXECUTE FUNCTION keep();
        """)
        outbox.insert("dead", payload=json.dumps(random.randbytes(10_000).hex()))
        outbox.wait_published([outbox.insert()])
        wait_until(
            lambda: "a row that is quarantined stays in public.outbox: an order" in said.read_text(), "it says so"
        )
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "the relay is ready")
    assert "cannot be looked after" not in said.read_text()


@pytest.mark.parametrize("rights", ["SELECT", "SELECT, DELETE"])
def test_replication_and_select_on_the_outbox_are_enough(outbox, rights):
    role = limited_role(outbox, rights)
    before = outbox.insert()
    with relaying_as(role, outbox):
        outbox.wait_published([before])
        after = outbox.insert()
        outbox.wait_published([after])
        if "DELETE" in rights:
            wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "published rows are removed")
    assert outbox.published() == [before, after]


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ("REPLICATION", "let the table's owner run: CREATE PUBLICATION"),
        ("NOREPLICATION", "ALTER ROLE relay_"),
    ],
)
def test_a_right_that_is_missing_is_named(outbox, attributes, said):
    role = limited_role(outbox, "SELECT", attributes, publication=False)
    port = ports.choose(taken=set())
    with relaying_as(role, outbox, port):
        wait_until(lambda: said in answer(port, "/readyz")[1], "the relay names what it needs")


def limited_role(outbox, rights, attributes="REPLICATION", *, publication=True):
    """A role with these rights on the outbox, and nothing else; the publication is there, unless not."""
    role = f"relay_{outbox.name}"
    if publication:
        outbox.connection.execute("CREATE PUBLICATION settle_outbox FOR TABLE outbox WITH (publish = 'insert')")
    outbox.connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'test' {attributes}")
    outbox.connection.execute(f"GRANT {rights} ON outbox TO {role}")
    return make_conninfo(outbox.dsn, user=role, password="test")


def relaying_as(dsn, outbox, http_port=0, **reading):
    class Seen:
        bootstrap = outbox.bootstrap

    Seen.dsn = as_url(dsn)
    return relaying(Seen, http_port=http_port, **reading)


def as_url(conninfo):
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(conninfo)
    return f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['dbname']}"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("limit", "size"), [("1048588", 12_000_000), ("2000", 20_000)], ids=["client", "broker"])
def test_a_row_that_can_never_be_published_is_put_aside_and_the_rest_goes_on(stack, reader, limit, size):
    outbox = Outbox(stack, topic_config={"max.message.bytes": limit})
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port, reader=reader):
        before = outbox.insert()
        outbox.wait_published([before])
        too_large = outbox.insert(payload=json.dumps(random.randbytes(size // 2).hex()))
        after = [outbox.insert() for _ in range(300)]
        outbox.wait_published([before, *after])
        (dead,) = wait_until(lambda: dead_rows(outbox.connection), "the row is put aside")
        assert (dead.id, dead.aggregateid) == (too_large, "acc-1")
        assert "large" in dead.reason.lower()
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "the relay is ready")
        if reader == "wal":
            wait_until(lambda: metric(port, outbox, "dead_rows") == 1, "it is counted")
    assert outbox.published() == [before, *after]


@pytest.mark.parametrize("keeps_up", [True, False], ids=["keeps up", "is behind"])
@pytest.mark.parametrize("reader", READERS)
def test_after_a_refused_batch_rows_are_sent_in_batches_again(stack, reader, keeps_up, monkeypatch):
    if not keeps_up:  # the table is never looked through then
        monkeypatch.setattr(source.Source, "has_looked", lambda *_, **__: None)
    outbox = Outbox(stack, topic_config={"max.message.bytes": "2000"})
    made = []

    def publisher(*about, one_by_one, **more):
        made.append(one_by_one)
        return Publisher(*about, one_by_one=one_by_one, **more)

    monkeypatch.setattr(source, "Publisher", publisher)
    with relaying(outbox, reader=reader):
        outbox.insert(payload=json.dumps(random.randbytes(10_000).hex()))
        wait_until(lambda: dead_rows(outbox.connection), "the row is put aside")
        wait_until(lambda: True in made and not made[-1], "there are batches again")
        outbox.wait_published([outbox.insert()])


def test_a_poller_whose_row_is_refused_late_quarantines_it_and_publishes_the_others(stack, monkeypatch):
    class Impatient(Publisher):
        """Goes on at once, so that the first rows are known to be published before the last one is refused."""

        def push(self, _):
            super().push(0)

    monkeypatch.setattr(source, "Publisher", Impatient)
    outbox = Outbox(stack, topic_config={"max.message.bytes": "2000"})
    with outbox.connection.transaction():
        before = [outbox.insert() for _ in range(5)]
        too_large = outbox.insert(payload=json.dumps(random.randbytes(10_000).hex()))
    with relaying(outbox, reader="polling"):
        (dead,) = wait_until(lambda: dead_rows(outbox.connection), "the row is put aside")
        assert dead.id == too_large
        after = outbox.insert()
        outbox.wait_published([*before, after])
    assert outbox.published() == [*before, after]


@pytest.mark.parametrize("reader", READERS)
def test_a_dead_row_is_published_when_it_is_sent_again_and_the_cause_is_gone(stack, reader):
    outbox = Outbox(stack, topic_config={"max.message.bytes": "2000"})
    with relaying(outbox, reader=reader):
        too_large = outbox.insert(payload=json.dumps(random.randbytes(10_000).hex()))
        wait_until(lambda: dead_rows(outbox.connection), "the row is put aside")
        other = outbox.insert()
        outbox.wait_published([other])
        allow(outbox, 1_000_000)
        assert retry(outbox.connection, ["no-such-id"]) == []
        assert retry(outbox.connection, [too_large]) == [too_large]
        outbox.wait_published([other, too_large])
    assert outbox.published() == [other, too_large]
    assert dead_rows(outbox.connection) == []


def test_a_dead_row_stays_dead_after_a_restart_and_a_lost_slot(stack):
    outbox = Outbox(stack, topic_config={"max.message.bytes": "2000"})
    with relaying(outbox, cleanup=False):
        too_large = outbox.insert(payload=json.dumps(random.randbytes(10_000).hex()))
        wait_until(lambda: dead_rows(outbox.connection), "the row is put aside")
        first = outbox.insert()
        outbox.wait_published([first])
    allow(outbox, 1_000_000)
    with relaying(outbox, cleanup=False):
        second = outbox.insert()
        outbox.wait_published([second])
        outbox.wait_confirmed()
    outbox.drop_slot()
    with relaying(outbox, cleanup=False):
        third = outbox.insert()
        outbox.wait_published([third])
    assert too_large not in outbox.published()
    assert sorted(outbox.published()) == sorted([first, second, third])


def test_a_name_that_no_topic_can_have_is_put_aside(outbox):
    with relaying(outbox):
        bad = outbox.insert(to="no such topic")
        good = outbox.insert()
        outbox.wait_published([good])
        (dead,) = wait_until(lambda: dead_rows(outbox.connection), "the row is put aside")
    assert (dead.id, dead.reason) == (bad, "aggregatetype 'no such topic' makes no topic name")


def test_a_row_that_cannot_be_put_aside_holds_the_position_and_says_what_to_grant(stack):
    outbox = Outbox(stack, topic_config={"max.message.bytes": "2000"})
    role = limited_role(outbox, "SELECT")
    port = ports.choose(taken=set())
    with relaying_as(role, outbox, port):
        too_large = outbox.insert(payload=json.dumps(random.randbytes(10_000).hex()))
        after, lsn = outbox.insert(), outbox.lsn()
        wait_until(lambda: "CREATE TABLE IF NOT EXISTS public.outbox_dead" in answer(port, "/readyz")[1], "said")
        assert not outbox.confirmed_passes(lsn)
        from outbox_relay.dead import create_table

        outbox.connection.execute(create_table())
        outbox.connection.execute(f"GRANT SELECT, INSERT, UPDATE ON outbox_dead TO relay_{outbox.name}")
        outbox.wait_published([after])
        assert [row.id for row in wait_until(lambda: dead_rows(outbox.connection), "put aside")] == [too_large]
        outbox.wait_confirmed()
    assert outbox.published() == [after]


def allow(outbox, size):
    """Let the topic take records of this size."""
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, outbox.topic, incremental_configs=[entry])
    outbox.admin.incremental_alter_configs([resource])[resource].result(30)
    seen = threading.Event()
    wait_until(
        lambda: (
            outbox.admin.describe_configs([ConfigResource(ResourceType.TOPIC, outbox.topic)])[resource]
            .result(30)["max.message.bytes"]
            .value
            == str(size)
            or seen.wait(0.05)
        ),
        "the limit holds",
    )
