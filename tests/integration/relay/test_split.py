"""One outbox split by key over several slots: each row in one share, a key in its order, none lost or doubled."""

import json
from contextlib import closing, contextmanager
from itertools import pairwise

import psycopg
import pytest
from structlog.testing import capture_logs

from outbox_relay import coverage
from outbox_relay.check import check
from outbox_relay.errors import SetupError, SlotBusyError
from outbox_relay.explain import explained
from outbox_relay.outbox import OUTBOX
from outbox_relay.outbox import Outbox as Description
from outbox_relay.process import configure_logs
from outbox_relay.replication import connect
from outbox_relay.settings import RelaySettings
from outbox_relay.slot_name import slot_name
from outbox_relay.table import find_table, lock
from stack import ports
from tests.integration.relay.controlled import command
from tests.integration.relay.outbox import (
    answer,
    relay_process,
    running,
    wait_until,
    writing,
)


@pytest.fixture
def configured(outbox, tmp_path):
    """Writes a configuration file that splits the outbox."""

    def write(split, more="", *, port=0):
        path = tmp_path / f"relay{split}_{port}.toml"
        path.touch(0o600)
        path.write_text(
            f'kafka.bootstrap = "{outbox.bootstrap}"\nhttp.port = {port}\n'
            f'[[source]]\ndsn = "{outbox.dsn}"\n{more}\n[[source.outbox]]\nsplit = {split}\n'
        )
        return path

    return write


@contextmanager
def relay(outbox, path, **environment):
    """A relay in a process of its own."""
    variables = {"SETTLE_RELAY_SOURCES": "", "SETTLE_RELAY_CONFIG": str(path), **environment}
    with relay_process(outbox, **variables) as process:
        yield process


def slots(outbox):
    rows = outbox.connection.execute(
        "SELECT slot_name::text FROM pg_replication_slots WHERE database = %s ORDER BY 1", (outbox.name,)
    )
    return [name for (name,) in rows]


def empty(outbox):
    return outbox.one("SELECT count(*) FROM outbox") == 0


def test_each_row_is_in_one_share_and_a_key_keeps_its_order_whatever_is_killed(outbox, configured):
    taken = set()
    ports_ = [ports.choose(taken=taken) for _ in range(2)]
    with relay(outbox, configured(3, port=ports_[0])) as first:
        wait_until(lambda: len(slots(outbox)) == 3, "each share has a slot")
        wait_until(lambda: answer(ports_[0], "/readyz")[0] == 200, "it reads")
        with relay(outbox, configured(3, port=ports_[1]), SETTLE_RELAY_PROCESSES="2"):
            with writing(outbox):
                wait_until(lambda: "standing by" in answer(ports_[1], "/readyz")[1], "the second one is a standby")
                wait_until(lambda: len(outbox.written()) > 1_000, "rows are written")
                first.kill()
                ready = "ready\n"
                wait_until(lambda: answer(ports_[1], "/readyz") == (200, ready), "the second one takes over")
            outbox.wait_published(outbox.written())
            wait_until(lambda: empty(outbox), "published rows are removed")

            def published():
                lines = answer(ports_[1], "/metrics")[1].splitlines()
                name = "settle_relay_events_published_total{"
                return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)]

            # A process that does not answer for a second is left out of a page: its last numbers are there.
            wait_until(lambda: len(found := published()) == 3 and all(found), "each share says what it published")
            assert f'source="{outbox.name}-2"' in answer(ports_[1], "/metrics")[1]
    assert outbox.assert_exactly_once_in_order() > 1_000


def test_a_split_is_changed_with_rows_that_wait_and_the_slots_before_it_are_told_of(outbox, configured):
    def left():
        outbox.insert_many(500, keys=20)

    outbox.slot = slot_name(outbox.connection, OUTBOX.split(3)[0])
    with running(RelaySettings(relay_config=configured(3))):
        left()
        outbox.wait_published(outbox.written())
        for share in (OUTBOX, OUTBOX.split(2)[1]):  # not beside a relay that splits it otherwise
            with closing(connect(outbox.dsn, replication=False)) as connection, pytest.raises(SlotBusyError):
                lock(connection, share)
    left()
    with running(RelaySettings(relay_config=configured(2))):
        left()
        outbox.wait_published(outbox.written())
        wait_until(lambda: empty(outbox), "published rows are removed")
    left()
    configure_logs()
    with capture_logs() as logged, running(RelaySettings(relay_config=configured(1))):
        left()
        outbox.wait_published(outbox.written())
        with closing(connect(outbox.dsn, replication=False)) as connection, pytest.raises(SlotBusyError):
            lock(connection, OUTBOX.split(2)[1])
        wait_until(lambda: empty(outbox), "published rows are removed")
    assert outbox.assert_exactly_once_in_order() == 2_500
    told = " ".join(line["event"] for line in logged)
    for name in slots(outbox):
        assert (f"SELECT pg_drop_replication_slot('{name}')" in told) == ("of" in name.rpartition("_")[2])


def test_a_poller_reads_its_share_only_and_rows_without_a_key_have_one(outbox, configured):
    outbox.connection.execute("ALTER TABLE outbox ALTER aggregateid DROP NOT NULL")
    outbox.insert_many(300, keys=20)
    port = ports.choose(taken=set())
    for more in ('reader = "polling"\npoll_interval_s = 0.05', ""):
        ids = [outbox.insert(None) for _ in range(20)]
        outbox.insert_many(300, keys=20)
        with running(RelaySettings(relay_config=configured(2, more, port=port))):
            ids += [outbox.insert(None) for _ in range(20)]
            outbox.wait_published(outbox.written())
            wait_until(lambda: empty(outbox), "published rows are removed")
            if more:
                name = f'settle_relay_events_published_total{{source="{outbox.name}-'
                lines = [line for line in answer(port, "/metrics")[1].splitlines() if line.startswith(name)]
                counts = [float(line.rpartition(" ")[2]) for line in lines]
                assert sum(counts) == len(outbox.written())
                assert all(counts)
    assert sorted(outbox.published()) == sorted(outbox.written())


@pytest.mark.parametrize("rule", ["all", "since=2020-01-01T00:00:00Z"])
def test_a_poller_removes_no_row_that_another_share_has_yet_to_decide_on(outbox, configured, rule):
    outbox.insert_many(300, keys=20)
    first, second = (find_table(outbox.connection, share) for share in OUTBOX.split(2))
    path = configured(2, f'reader = "polling"\npoll_interval_s = 0.05\ninitial = "{rule}"')

    def left(table):
        return outbox.one(table.outbox.sql("SELECT count(*) FROM {table} WHERE {mine}", mine=table.mine))

    of_second = left(second)
    assert 0 < of_second < 300
    with closing(connect(outbox.dsn, replication=False)) as other:
        lock(other, second.outbox)  # its share does not begin yet
        with running(RelaySettings(relay_config=path)):
            wait_until(lambda: left(first) == 0, "what the first share has published is removed")
            assert left(second) == of_second
            other.close()
            outbox.wait_published(outbox.written())
            wait_until(lambda: empty(outbox), "so is what the second has")
    assert outbox.assert_exactly_once_in_order() == 300


def test_a_share_whose_relay_is_gone_is_away_whoever_reads_the_others(outbox, configured):
    outbox.insert_many(300, keys=20)
    path = configured(2)

    def statuses():
        return command(
            outbox, "status", "--json", reason=None, SETTLE_RELAY_SOURCES="", SETTLE_RELAY_CONFIG=str(path)
        )

    with closing(connect(outbox.dsn, replication=False)) as reader:
        lock(reader, OUTBOX.split(2)[0])
        first, second = statuses()
    assert (first["state"], second["state"]) == ("reading", "away")
    counts = [one["outbox"]["rows"] for one in (first, second)]
    assert all(counts)
    assert sum(counts) == 300


KINDS = {
    "text": "'a'",
    "varchar(10)": "'a'",
    "char(3)": "'a'",
    "name": "'a'",
    "uuid": "'018f0000-0000-7000-8000-000000000001'::uuid",
    "smallint": "-3::int2",
    "integer": "-3",
    "bigint": "-3000000000",
    "numeric": "1.5",
}


@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_every_type_that_can_be_filtered_are_in_one_share(outbox, kind):
    outbox.connection.execute(f"ALTER TABLE outbox ALTER aggregateid TYPE {kind} USING NULL::{kind}")
    found = []
    for share in Description(publication="Settle's").split(3):
        table = find_table(outbox.connection, share)
        gap = coverage.publication_gap(outbox.connection, table)
        coverage.mend(outbox.connection, gap)
        assert coverage.publication_gap(outbox.connection, table) is None
        query = share.sql("SELECT {mine} FROM (SELECT " + KINDS[kind] + ") AS one (aggregateid)", mine=table.mine)
        found += outbox.connection.execute(query).fetchone()
    assert sorted(found) == [False, False, True]


@pytest.mark.parametrize("kind", ["citext", "colour", "words"])
def test_keys_of_other_types_are_refused_in_one_line(outbox, kind):
    outbox.connection.execute("CREATE TYPE colour AS ENUM ('red'); CREATE DOMAIN words AS text")
    if kind == "citext":
        try:
            outbox.connection.execute("CREATE EXTENSION citext")
        except psycopg.Error:
            pytest.skip("this server has no citext")
    outbox.connection.execute(f"ALTER TABLE outbox ALTER aggregateid TYPE {kind} USING NULL")
    share = OUTBOX.split(2)[0]
    with pytest.raises(SetupError, match=r"cannot be split|User-defined types are not allowed") as error:
        table = find_table(outbox.connection, share)
        coverage.mend(outbox.connection, coverage.publication_gap(outbox.connection, table))
    assert "\n" not in str(error.value)


def test_another_filter_is_a_gap_that_is_mended_and_what_it_left_out_is_published(outbox, configured):
    port = ports.choose(taken=set())
    with running(RelaySettings(relay_config=configured(2, port=port))):
        outbox.wait_published([outbox.insert()])
        # The other share's publication may come later.
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "both shares are read")
        other = "ALTER PUBLICATION settle_outbox_1of2 SET TABLE outbox WHERE (aggregateid = 'x')"
        outbox.connection.execute(other)
        outbox.insert_many(100)
        outbox.wait_published(outbox.written())
        row_filter = "SELECT rowfilter FROM pg_publication_tables WHERE pubname = 'settle_outbox_1of2'"
        wait_until(lambda: "hashtext" in outbox.one(row_filter), "the filter is mended")
        wait_until(lambda: empty(outbox), "published rows are removed")
    assert sorted(outbox.published()) == sorted(outbox.written())


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_each_share_is_controlled_by_itself(outbox, configured, reader):
    """What is asked of one is neither done nor answered by the others."""
    ids = [outbox.insert(f"key-{number}") for number in range(20)]
    tables = [find_table(outbox.connection, share) for share in OUTBOX.split(2)]
    of_share = [
        [row_id for (row_id,) in outbox.connection.execute(one.outbox.sql(_IDS, mine=one.mine))] for one in tables
    ]
    assert sorted(map(str, of_share[0] + of_share[1])) == sorted(map(str, ids))
    assert all(of_share)
    path = configured(2, f'reader = "{reader}"\npoll_interval_s = 0.05\ncleanup = false')
    second, row = ("--only", f"{outbox.name}-2"), str(of_share[1][0])

    def ask(*words, code=0):
        return command(outbox, *words, code=code, SETTLE_RELAY_SOURCES="", SETTLE_RELAY_CONFIG=str(path))

    assert "no such row" in ask("skip", row, "--only", f"{outbox.name}-1", "--wait", "0", code=1)
    ask("skip", row, *second, "--wait", "0")
    with running(RelaySettings(relay_config=path)):
        wait_until(lambda: outbox.one("SELECT to_regclass('outbox_dead') IS NOT NULL"), "dead rows have a table")
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox_dead") == 1, "the row is skipped")
        others = [row_id for row_id in map(str, ids) if row_id != row]
        outbox.wait_published(others)
        ask("rewind", "--since", "2020-01-01T00:00:00Z", *second)
        again = [row_id for row_id in map(str, of_share[1]) if row_id != row]
        outbox.wait_published([*others, *again])
    assert sorted(map(str, outbox.published())) == sorted([*others, *again])


_IDS = "SELECT id FROM {table} WHERE {mine}"


def test_check_and_explain_know_the_shares(outbox, configured):
    settings = RelaySettings(relay_config=configured(2))
    # Of Kafka, which comes first, it asks for an answer within a second.
    found = wait_until(lambda: (found := list(check(settings)))[0].is_ok and found, "Kafka answers")
    assert all(one.is_ok for one in found), json.dumps([str(one) for one in found])
    names = [one.source for one in found if one.subject == "publication"]
    assert names == [f"{outbox.name}-1", f"{outbox.name}-2"]
    script = explained(settings)
    assert script.count("CREATE PUBLICATION settle_outbox_") == 2
    assert script.count("CREATE ROLE") == 1
    places = [script.index(f"settle_outbox_{number}of2 FOR TABLE") for number in (1, 2)]
    assert all(one < other for one, other in pairwise(places))
    outbox.connection.execute("\n".join(line for line in script.splitlines() if not line.startswith("\\")))
    for share in OUTBOX.split(2):
        table = find_table(outbox.connection, share)
        assert coverage.publication_gap(outbox.connection, table) is None
