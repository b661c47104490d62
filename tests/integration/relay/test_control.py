"""A source is paused, goes on, and says so, by command and over HTTP; what was asked holds whatever restarts."""

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import psycopg
import pytest

from contracts.health import Request
from outbox_relay.control import acts, pages, table
from outbox_relay.control.acts import Asked
from outbox_relay.outbox import OUTBOX
from outbox_relay.replication import connect
from outbox_relay.source_settings import SourceSettings
from stack import ports
from tests.integration.relay.controlled import WAYS, WHY, Person, command, http
from tests.integration.relay.outbox import (
    DEADLINE_S,
    Outbox,
    answer,
    metric,
    relay_process,
    relaying,
    wait_until,
    writing,
)
from tests.integration.relay.test_table import as_url, limited_role, relaying_as


@pytest.fixture
def port():
    return ports.choose(taken=set())


def acts_of(outbox):
    """The acts and what came of each, the oldest first."""
    return [(one.act, one.ended) for one in reversed(table.acts(outbox.connection, OUTBOX, 100))]


@pytest.mark.parametrize(("by", "reader"), WAYS)
def test_a_paused_source_publishes_nothing_says_so_and_goes_on_where_it_was(outbox, port, by, reader):
    person = Person(outbox, by, port, reader)
    with relaying(outbox, http_port=port, reader=reader):
        outbox.wait_published([outbox.insert()])
        if reader == "wal":
            outbox.wait_confirmed()  # without a slot there is no lag
        person.do("pause")
        wait_until(lambda: person.status()["state"] == "paused", "it is paused")
        wait_until(lambda: metric(port, outbox, "paused") == 1, "the relay says so")
        ids = [outbox.insert() for _ in range(50)]
        lsn = outbox.lsn()
        if reader == "wal":
            wait_until(lambda: metric(port, outbox, "lag_bytes"), "it measures what it holds back")
            assert not outbox.confirmed_passes(lsn)
        status, text = answer(port, "/readyz")
        assert status == 200
        assert WHY in text
        assert "bytes of log" in text
        assert metric(port, outbox, "active") == 0
        found = person.status()
        assert (found["paused"]["why"], found["outbox"]["rows"] >= 50) == (WHY, True)
        assert not set(ids) & set(outbox.published())
        person.do("resume", reason=None)
        outbox.wait_published(ids)
        wait_until(lambda: acts_of(outbox) == [("pause", "done"), ("resume", "done")], "both are answered")
        assert metric(port, outbox, "paused") == 0
    outbox.assert_exactly_once_in_order()


def test_looks_at_a_table_that_takes_its_time_neither_pile_up_nor_go_on_when_nobody_waits(outbox, monkeypatch):
    look = Request("GET", f"/v1/sources/{outbox.name}", {"host": "127.0.0.1"}, b"", "127.0.0.1", "127.0.0.1")
    answers = pages.ControlPages([SourceSettings(outbox.dsn, outbox.bootstrap, name=outbox.name)], None)
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'outbox'::regclass AND NOT granted"

    def looked():
        return json.loads(answers(look).text)

    monkeypatch.setattr(pages, "LOOK_S", DEADLINE_S)
    with ThreadPoolExecutor() as pool, psycopg.connect(outbox.dsn) as slow:
        slow.execute("LOCK TABLE outbox")
        first = pool.submit(looked)
        wait_until(lambda: outbox.one(waiting) == 1, "the first one counts the rows")
        monkeypatch.setattr(pages, "LOOK_S", 0.1)
        assert "others look at it" in looked()["trouble"]
        assert outbox.one(waiting) == 1
        slow.rollback()
        assert first.result(DEADLINE_S)["state"] == "away"
        slow.execute("LOCK TABLE outbox")
        assert "`outbox-relay status` has the time" in looked()["trouble"]
        assert outbox.one(waiting) == 0


def test_a_source_can_be_paused_again_and_again_and_whenever_it_is_idle(outbox, port):
    with relaying(outbox, http_port=port):
        for _ in range(2):
            assert command(outbox, "pause", "--json")["state"] == "done"
            assert command(outbox, "pause", "--json")["state"] == "unchanged"
            row_id = outbox.insert()
            assert command(outbox, "resume", "--json", reason=None)["state"] == "done"
            outbox.wait_published([row_id])
        assert command(outbox, "resume", "--json", reason=None)["state"] == "unchanged"
    outbox.assert_exactly_once_in_order()


def test_a_source_under_load_is_paused_and_nothing_is_lost_or_doubled(outbox):
    with relaying(outbox), writing(outbox), outbox.consumer() as topic:
        for _ in range(2):
            before = outbox.length(topic)
            wait_until(lambda b=before: outbox.length(topic) > b + 100, "it is at work")
            assert command(outbox, "pause", "--json")["state"] == "done"
            length = outbox.length(topic)
            written = outbox.one("SELECT count(*) FROM written")
            wait_until(lambda w=written: outbox.one("SELECT count(*) FROM written") > w + 200, "rows come in")
            assert outbox.length(topic) == length
            command(outbox, "resume", reason=None)
    with relaying(outbox):
        outbox.wait_published(outbox.written())
    outbox.assert_exactly_once_in_order()


def test_a_source_that_waits_for_kafka_is_paused_too(outbox, port):
    outbox.insert_many(100)
    nowhere = f"127.0.0.1:{ports.choose(taken=set())}"
    with relaying(outbox, http_port=port, bootstrap=nowhere):
        wait_until(lambda: "Kafka does not answer" in answer(port, "/readyz")[1], "it waits for Kafka")
        assert command(outbox, "pause", "--json")["state"] == "done"
        assert answer(port, "/readyz")[0] == 200


def test_a_source_that_is_stuck_at_a_missing_topic_is_paused_and_says_that_it_is(stack, port):
    outbox = Outbox(stack, topic=False)
    with relaying(outbox, http_port=port):
        row_id = outbox.insert()
        wait_until(lambda: f"topic {outbox.topic}" in answer(port, "/readyz")[1], "it is stuck")
        assert command(outbox, "pause", "--json")["state"] == "done"
        outbox.create_topic()
        assert outbox.published() == []
        command(outbox, "resume", reason=None)
        outbox.wait_published([row_id])


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_a_pause_holds_after_kill_9_and_for_whoever_takes_over(outbox, port, reader):
    with relay_process(outbox, SETTLE_RELAY_READER=reader) as first:
        outbox.wait_published([outbox.insert()])
        with relaying(outbox, http_port=port, reader=reader):
            wait_until(lambda: metric(port, outbox, "standby") == 1, "the second stands by")
            acts.pause(settings_of(outbox, reader), Asked("a test", "taken over"))
            if (
                reader == "polling"
            ):  # where the log is read, it is killed before it can have noticed, or just after
                wait_until(lambda: acts_of(outbox) == [("pause", "done")], "it is paused")
                # Either may hold the outbox now: the first one lets go of it before it holds it.
                assert metric(port, outbox, "active") == 0
            first.send_signal(signal.SIGKILL)
            wait_until(lambda: metric(port, outbox, "paused") == 1, "the second is paused")
            ids = [outbox.insert() for _ in range(10)]
            assert "taken over" in answer(port, "/readyz")[1]
        with relaying(outbox, http_port=port, reader=reader):
            wait_until(lambda: metric(port, outbox, "paused") == 1, "it is paused after a restart")
            assert len(outbox.published()) == 1
            command(outbox, "resume", reason=None, reader=reader)
            outbox.wait_published(ids)
    outbox.assert_exactly_once_in_order()


def settings_of(outbox, reader="wal", described=OUTBOX):
    return SourceSettings(outbox.dsn, outbox.bootstrap, described, reader=reader, name=outbox.name)


def test_one_source_of_several_is_paused_and_must_be_named(outbox, stack, port):
    other = Outbox(stack)
    both = {"SETTLE_RELAY_SOURCES": f"{outbox.dsn} {other.dsn}"}
    with relaying(outbox, other, http_port=port):
        for one in (outbox, other):
            one.wait_published([one.insert()])
        assert f"{outbox.name}, {other.name}" in command(outbox, "pause", code=2, **both)
        assert "there is no source of that name" in command(outbox, "pause", "--only", "x", code=2, **both)
        command(outbox, "pause", "--only", other.name, **both)
        outbox.wait_published([outbox.insert()])
        late = other.insert()
        states = {one["source"]: one["state"] for one in command("", "status", "--json", reason=None, **both)}
        assert states == {outbox.name: "reading", other.name: "paused"}
        states = {one["source"]: one["state"] for one in http(port, "/v1/sources")[1]["sources"]}
        assert states == {outbox.name: "reading", other.name: "paused"}
        assert late not in other.published()


def test_a_source_is_paused_in_the_midst_of_what_was_there_before_its_slot(outbox, port):
    outbox.insert_many(100_000)
    with relaying(outbox, http_port=port), outbox.consumer() as topic:
        wait_until(lambda: outbox.length(topic) > 0, "rows from before the slot are published")
        assert command(outbox, "pause", "--json")["state"] == "done"
        length = outbox.length(topic)
        assert command(outbox, "status", "--json", reason=None)[0]["state"] == "paused"
        assert outbox.length(topic) == length
        command(outbox, "resume", "--wait", "0", reason=None)
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "all are published, and removed", 240)
    outbox.assert_exactly_once_in_order()


def test_whoever_may_not_make_the_table_or_read_it_is_told_what_to_run(outbox, port):
    role = as_url(limited_role(outbox, "SELECT, DELETE"))
    with relaying_as(role, outbox, port):
        outbox.wait_published([outbox.insert()])
        refused = command(role, "pause", code=1)
        assert "CREATE TABLE IF NOT EXISTS public.outbox_control" in refused
        assert f"GRANT SELECT, INSERT ON public.outbox_control TO relay_{outbox.name}" in refused
        (status,) = command(role, "status", "--json", reason=None)
        assert "there is no table public.outbox_control" in status["trouble"]
        # Made, and not granted: what it reads it goes on to read, and says that it does not hear.
        outbox.connection.execute(table.create_table(OUTBOX))
        grant = f"GRANT SELECT, INSERT ON public.outbox_control TO relay_{outbox.name}"
        wait_until(lambda: grant in answer(port, "/readyz")[1], "it says so")
        outbox.wait_published([outbox.insert()])
        outbox.connection.execute(grant)
        assert command(role, "pause", "--json")["state"] == "done"
    outbox.connection.execute(f"REVOKE SELECT ON public.outbox_control FROM relay_{outbox.name}")
    with relaying_as(role, outbox, port):
        # One that begins does not: the outbox may be paused.
        wait_until(lambda: grant in answer(port, "/readyz")[1], "it waits for the right")
        assert answer(port, "/readyz")[0] == 503


def test_whoever_acts_first_finds_a_table_also_where_several_make_it_at_the_same_moment(outbox):
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(outbox.dsn, replication=False))) for _ in range(10)]
        threads = stack.enter_context(ThreadPoolExecutor(len(connections)))
        start = threading.Barrier(len(connections))

        def ensure(connection):
            start.wait(DEADLINE_S)
            table.ensure(connection, OUTBOX)

        for _ in range(50):
            outbox.connection.execute("DROP TABLE IF EXISTS outbox_control")
            for done in [threads.submit(ensure, connection) for connection in connections]:
                done.result(DEADLINE_S)


def test_acts_at_the_same_moment_leave_one_state_that_all_agree_on(outbox, port):
    asked = [acts.pause, acts.resume] * 10
    source = settings_of(outbox)
    with relaying(outbox, http_port=port):
        outbox.wait_published([outbox.insert()])
        start = threading.Barrier(10)

        def do(act):
            start.wait(DEADLINE_S)
            return act(source, Asked("a test", "at once"))

        with ThreadPoolExecutor(10) as threads:
            results = list(threads.map(do, asked))
        changes = [one.act for one in results if one.state == "asked"]
        switches = [one for one in acts_of(outbox) if one[0] in ("pause", "resume")]
        assert len(switches) == len(changes)
        assert [act for act, _ in switches] == ["pause", "resume"] * (len(switches) // 2) + ["pause"] * (
            len(switches) % 2
        )
        acts.resume(source, Asked("a test"))
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: all(ended for _, ended in acts_of(outbox)), "each act is answered")
