"""How far a consumer has read, and what keeps it from reading, where only one of the brokers is away."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from processors.runtime.consumer import LOST, BatchConsumer
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
        assert consumer.lag(ask_kafka=True) == {"t": 100 * PARTITIONS - len(first)}
    with member(cluster, batch_max=50) as consumer:  # nothing was stored: it begins again where the group stands
        wait_until(lambda: consumer.take() or consumer.assigned, "it has partitions")
        assert consumer.lag(ask_kafka=True)["t"] >= 100 * PARTITIONS - 50
