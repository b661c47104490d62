"""How far a consumer has read, and what keeps it from reading, where only one of the brokers is away."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from confluent_kafka import KafkaException

from processors.runtime.consumer import FETCH_WAIT_S, LOST, BatchConsumer
from tests.conftest import wait_until
from tests.unit.mock_kafka import PARTITIONS, MockCluster, mock_cluster

GROUP = "g"


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with mock_cluster(GROUP) as cluster:
        yield cluster


@contextmanager
def member(cluster: MockCluster, batch_max: int = 8_000) -> Iterator[BatchConsumer]:
    consumer = BatchConsumer(cluster.bootstrap, GROUP, ["t"], batch_max, gather_s_max=0.0, protocol="classic")
    with closing(consumer):
        yield consumer


def read(consumer: BatchConsumer, records: int) -> None:
    taken = 0

    def take() -> bool:
        nonlocal taken
        taken += len(consumer.take())
        consumer.store_offsets()
        return taken >= records

    wait_until(take, f"{records} records are read")


def waiting(consumer: BatchConsumer) -> str | None:
    consumer.take()
    return consumer.waits_for(1.0)


def asked(consumer: BatchConsumer) -> dict[str, int]:
    """What it is behind; a client that connects may take longer than it waits."""

    def answered() -> dict[str, int] | None:
        with suppress(KafkaException):
            return consumer.lag(ask_kafka=True)
        return None

    return wait_until(answered, "Kafka answers")  # type: ignore[return-value]


def test_a_member_whose_partitions_are_lost_is_not_ready_until_it_has_them_again(cluster: MockCluster):
    cluster.write(10)
    with member(cluster) as consumer:
        read(consumer, 10 * PARTITIONS)
        assert consumer.waits_for(10.0) is None
        cluster.take_away(cluster.COORDINATOR)
        assert wait_until(lambda: waiting(consumer), "it is told") == LOST
        # What is due in the database goes on meanwhile.
        assert (consumer.assigned, consumer.was_assigned) == (False, True)
        cluster.bring_back(cluster.COORDINATOR)
        wait_until(lambda: waiting(consumer) is None, "it has them again")


def test_a_member_whose_leader_is_silent_is_not_ready_though_another_broker_answers(cluster: MockCluster):
    cluster.write(10)
    with member(cluster) as consumer:
        read(consumer, 10 * PARTITIONS)
        cluster.take_away(cluster.LEADER)
        said = wait_until(lambda: waiting(consumer), "it is told")
        assert said.startswith("t/")
        assert "cannot be read: its leader: " in said
        cluster.bring_back(cluster.LEADER)
        wait_until(lambda: waiting(consumer) is None, "it answers again")


def test_what_nothing_was_taken_of_yet_is_behind_as_well(cluster: MockCluster):
    cluster.write(100)
    with member(cluster, batch_max=50) as consumer:
        first = wait_until(consumer.take, "the first batch")
        assert {record.partition for record in first} != {*range(PARTITIONS)}
        assert asked(consumer) == {"t": 100 * PARTITIONS - len(first)}
    with member(cluster, batch_max=50) as consumer:  # nothing was stored: it begins again where the group stands
        wait_until(lambda: consumer.take() or consumer.assigned, "it has partitions")
        assert asked(consumer)["t"] >= 100 * PARTITIONS - 50


def test_an_idle_consumer_is_told_at_once_how_far_it_is(cluster: MockCluster):
    """Its own connection answers only when its fetch has waited for half a second, once for each partition."""
    cluster.write(10)
    with member(cluster) as consumer:
        read(consumer, 10 * PARTITIONS)
        consumer.take()  # nothing: a fetch is under way
        asked(consumer)  # connects

        def is_at_once() -> bool:
            began = time.monotonic()
            assert asked(consumer) == {"t": 0}
            return time.monotonic() - began < FETCH_WAIT_S

        wait_until(is_at_once, "it is told at once")
