"""The relay keeps its promises where Kafka is three brokers, near or far, one of which dies or stands still."""

import signal
from secrets import token_hex

import pytest
from confluent_kafka import Producer
from structlog.testing import capture_logs

from broker import lifeline
from lab.cluster import NODES, Cluster
from outbox_relay import published, publisher
from outbox_relay.source import Source
from stack import ports
from tests.integration.relay.cluster import on
from tests.integration.relay.outbox import (
    Outbox,
    answer,
    header,
    metric,
    relay_process,
    relaying,
    taken,
    wait_until,
    writing,
)

# Seconds are enough where cores are free.
GOES_ON_S = 90.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def outbox(cluster, stack, request):
    outbox = Outbox(on(cluster.bootstrap, stack), topic_config=getattr(request, "param", None))
    cluster.wait_whole(outbox.topic)
    yield outbox
    cluster.mend()


@pytest.fixture
def far_outbox(cluster, stack, request):
    """One whose Kafka is 5 ms away, so that whatever may be on its way at the same time is."""
    outbox = Outbox(on(cluster.far_bootstrap, stack), topic_config=getattr(request, "param", None))
    cluster.wait_whole(outbox.topic)
    yield outbox
    cluster.mend()


@pytest.fixture
def on_topic_then(monkeypatch):
    """The IDs that are on the topic when a row is quarantined, for each; the test sets whose."""
    seen = []
    quarantine = Source.quarantine

    def look(source, error):
        seen.append(look.outbox.published())
        quarantine(source, error)

    monkeypatch.setattr(Source, "quarantine", look)
    look.seen = seen
    return look


@pytest.fixture
def said():
    """What the relay logs; it must not take a broker's death for a bug of its own."""
    with capture_logs() as lines:
        yield lines
    print(*lines, sep="\n")
    assert not [line for line in lines if "exc_info" in line or "bug" in line["event"]]


@pytest.fixture
def impatient(monkeypatch):
    """Acknowledgements are late sooner than the cluster notices that a broker is dead."""
    monkeypatch.setattr(publisher, "ACKNOWLEDGED_LATE_S", 0.3)
    monkeypatch.setattr(publisher, "KAFKA_PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr(publisher, "KAFKA_PROBE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(lifeline, "ASK_EVERY_S", 0.1)


def other(cluster, outbox):
    """A node that follows partition 0."""
    return next(node for node in NODES if node != cluster.leader(outbox.topic))


@pytest.mark.parametrize("which", ["outbox", "far_outbox"])
def test_a_partition_that_loses_its_leader_gets_each_row_once_from_the_same_producer(
    cluster, which, said, impatient, request
):
    outbox = request.getfixturevalue(which)
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port):
        outbox.wait_published([outbox.insert()])
        reconnects = metric(port, outbox, "reconnects_total")
        with writing(outbox):
            died = cluster.leader(outbox.topic)
            cluster.kill(died)
            waits = "acknowledges nothing"  # until the cluster notices that a broker is dead
            wait_until(lambda: any(waits in line["event"] for line in list(said)), "the relay says that it waits")
            wait_until(lambda: cluster.leader(outbox.topic) not in (-1, died), "another node leads")
            outbox.wait_published(outbox.written(), GOES_ON_S)
            cluster.start(died)
            cluster.wait_whole(outbox.topic)
        outbox.wait_published(outbox.written())
        outbox.wait_confirmed()
        assert metric(port, outbox, "reconnects_total") == reconnects
    outbox.assert_exactly_once_in_order()


def test_a_session_that_ends_with_records_in_flight_says_why_and_the_next_repeats_none(cluster, outbox, said):
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port):
        outbox.insert_many(100)  # each partition's first one, which others would wait for
        outbox.wait_published(outbox.written())
        cluster.signal(other(cluster, outbox), signal.SIGSTOP)
        outbox.insert_many(1_000)
        wait_until(lambda: metric(port, outbox, "unacknowledged"), "records are in flight")
        outbox.one(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", outbox.slot
        )
        outbox.wait_published(outbox.written(), GOES_ON_S)
        # They may be seen before the session has heard of their acknowledgement, and has ended.
        wait_until(lambda: (metric(port, outbox, "reconnects_total") or 0) >= 1, "another session has begun")
    outbox.assert_exactly_once_in_order()
    assert "terminating connection" in str(said)


@pytest.mark.parametrize("outbox", [{"min.insync.replicas": "3"}], indirect=True)
def test_records_that_a_replica_has_not_got_are_not_sent_again_by_whoever_starts_then(cluster, outbox, said):
    port = ports.choose(taken=set())
    with relay_process(outbox, SETTLE_HTTP_PORT=str(port)):
        outbox.insert_many(100)
        outbox.wait_published(outbox.written())
        frozen = other(cluster, outbox)
        cluster.signal(frozen, signal.SIGSTOP)
        outbox.insert_many(200)
        wait_until(lambda: metric(port, outbox, "unacknowledged") == 200, "all are on their way")
    lsn = outbox.lsn()
    with relaying(outbox, http_port=port):
        wait_until(lambda: len(cluster.partitions(outbox.topic)[0].isrs) < len(NODES), "a replica is missing")
        assert not outbox.confirmed_passes(lsn)
        cluster.signal(frozen, signal.SIGCONT)
        outbox.wait_published(outbox.written(), GOES_ON_S)
        outbox.wait_confirmed()
    outbox.assert_exactly_once_in_order()


@pytest.mark.parametrize("before", [0, 1], ids=["first", "in the middle"])
@pytest.mark.parametrize("far_outbox", [{"max.message.bytes": "2000"}], indirect=True)
def test_nothing_behind_a_refused_record_is_published_before_that_is_decided(
    far_outbox, on_topic_then, said, before
):
    """Row by row, each in a batch of its own, and all of them sent before Kafka has answered for one."""
    on_topic_then.outbox = far_outbox
    with far_outbox.connection.transaction():
        fine = [far_outbox.insert() for _ in range(before)]
        large = far_outbox.insert(payload=too_large())
        behind = [far_outbox.insert() for _ in range(4)]
    with relaying(far_outbox):
        far_outbox.wait_published(fine + behind)
    assert on_topic_then.seen == [fine]
    assert far_outbox.published() == fine + behind
    assert far_outbox.one("SELECT id::text FROM outbox_dead") == large


def test_records_refused_once_the_topic_takes_smaller_ones_are_overtaken_by_none(far_outbox, on_topic_then, said):
    on_topic_then.outbox = far_outbox
    with relaying(far_outbox):
        with writing(far_outbox):
            far_outbox.wait_published([far_outbox.insert("acc-0")])
            far_outbox.set_topic({"max.message.bytes": "2000"})
            large, behind = refused(far_outbox, on_topic_then.seen)
        far_outbox.connection.execute("DELETE FROM written WHERE id = %s", (large,))
        far_outbox.wait_published(far_outbox.written(), GOES_ON_S)
    assert not set(behind) & set(on_topic_then.seen[0])
    far_outbox.assert_exactly_once_in_order()


def refused(outbox, seen):
    """A large row that is quarantined, and those behind it; leaders hear a moment later what a topic takes now."""
    with outbox.consumer() as consumer:
        consumer.assign(outbox.partitions())
        while True:
            large = outbox.insert("acc-0", payload=too_large())
            behind = [outbox.insert("acc-0") for _ in range(5)]

            def is_decided(row=large):
                return seen or row in [header(record, "id") for record in taken(consumer)]

            wait_until(is_decided, "the large one is quarantined, or published", GOES_ON_S)
            if seen:
                return large, behind


FENCING = {"SETTLE_RELAY_FENCING": "true"}


def test_a_relay_that_thaws_after_another_has_taken_over_publishes_nothing_more(cluster, outbox, said):
    port = ports.choose(taken=set())
    with relay_process(outbox, bootstrap=cluster.far_bootstrap, SETTLE_HTTP_PORT=str(port), **FENCING) as frozen:
        outbox.insert_many(500)
        outbox.wait_published(outbox.written())
        # What it sends gets no further than the network, until both go on.
        cluster.network.signal(signal.SIGSTOP)
        outbox.insert_many(1_000)
        wait_until(lambda: (metric(port, outbox, "unacknowledged") or 0) >= 100, "records are under way")
        frozen.send_signal(signal.SIGSTOP)
        outbox.one(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", outbox.slot
        )
        with relaying(outbox, fencing=True):
            outbox.wait_published(outbox.written(), GOES_ON_S)
            cluster.network.signal(signal.SIGCONT)
            frozen.send_signal(signal.SIGCONT)
            wait_until(lambda: metric(port, outbox, "standby") == 1, "the frozen one stands by", GOES_ON_S)
            outbox.insert_many(500)
            outbox.wait_published(outbox.written(), GOES_ON_S)
            outbox.wait_confirmed()
    assert outbox.assert_exactly_once_in_order() == 2_000


def test_what_a_killed_relay_left_uncommitted_is_published_once_for_consumers_of_committed_records(
    cluster, far_outbox, said
):
    outbox, port = far_outbox, ports.choose(taken=set())
    for _ in range(4):
        with relay_process(outbox, SETTLE_HTTP_PORT=str(port), **FENCING), writing(outbox):
            outbox.wait_published([outbox.insert()], GOES_ON_S)
            wait_until(lambda: metric(port, outbox, "unacknowledged"), "records are under way")
    with relaying(outbox, fencing=True):
        outbox.wait_published(outbox.written(), GOES_ON_S)
        outbox.wait_confirmed()
    outbox.assert_exactly_once_in_order()


def test_a_fenced_relay_that_starts_waits_for_transactions_of_others(cluster, outbox, said, monkeypatch):
    """Before their end it is not known which records behind their first one count."""
    monkeypatch.setattr(published, "COMMITTED_WAIT_S", 1.0)
    other = Producer({"bootstrap.servers": cluster.bootstrap, "transactional.id": "other"})
    other.init_transactions()
    other.begin_transaction()
    other.produce(outbox.topic, b"{}", partition=0)
    other.flush()
    row, port = outbox.insert(), ports.choose(taken=set())
    with relaying(outbox, http_port=port, fencing=True):
        wait_until(lambda: "stays open" in answer(port, "/readyz")[1], "the relay says what it waits for")
        other.abort_transaction()
        outbox.wait_published([row], GOES_ON_S)
    assert outbox.published() == [row]


@pytest.mark.parametrize("reader", ["wal", "polling"])
@pytest.mark.parametrize("far_outbox", [{"max.message.bytes": "2000"}], indirect=True)
def test_a_refused_record_is_quarantined_and_its_transaction_sent_again_without_it(far_outbox, said, reader):
    with far_outbox.connection.transaction():
        rows = [far_outbox.insert() for _ in range(3)]
        large = far_outbox.insert(payload=too_large())
        rows += [far_outbox.insert() for _ in range(3)]
    with relaying(far_outbox, fencing=True, reader=reader):
        far_outbox.wait_published(rows)
        others = "SELECT count(*) FROM outbox WHERE id <> %s"
        wait_until(lambda: far_outbox.one(others, large) == 0, "published rows are removed")
    assert far_outbox.published() == rows
    assert far_outbox.one("SELECT id::text FROM outbox_dead") == large


def too_large():
    """What also compressed is more than a topic of 2,000 bytes takes."""
    return f'"{token_hex(10_000)}"'
