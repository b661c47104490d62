"""How far a consumer has read, and what keeps it from reading, where only one of the brokers is away."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from broker.offsets import END
from processors.runtime import reading
from processors.runtime.consumer import LOST, BatchConsumer
from processors.runtime.fetching import FETCH_WAIT_S
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
        assert not consumer.assigned
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


def test_a_client_that_takes_long_to_connect_is_kept_until_it_is_and_one_that_errs_is_not(monkeypatch):
    answers: list[KafkaError | None] = [None, KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), None]
    clients: list[object] = []

    class Client:
        """One that answers the first question only when that is asked again."""

        def __init__(self, *_: object) -> None:
            clients.append(self)
            self.asked = 0

        def list_offsets(self, asked: dict[TopicPartition, object], **_: object) -> dict[TopicPartition, object]:
            self.asked += 1
            future: Future[object] = Future()
            if self.asked > 1 and (error := answers.pop(0)) is not None:
                future.set_exception(KafkaException(error))
            elif self.asked > 1:
                future.set_result(SimpleNamespace(offset=7))
            return dict.fromkeys(asked, future)

    monkeypatch.setattr(reading, "admin", Client)
    monkeypatch.setattr(reading, "ANSWER_S", 0.01)
    one = reading.Reading("far:1", SimpleNamespace())
    for _ in range(2):
        with pytest.raises(KafkaException, match="_TIMED_OUT"):
            one._offsets([("t", 0)], END)
        assert one._offsets([("t", 0)], END) == {("t", 0): 7}
        if len(clients) == 1:
            with pytest.raises(KafkaException, match="UNKNOWN_TOPIC"):
                one._offsets([("t", 0)], END)
    assert len(clients) == 2
    monkeypatch.setattr(reading, "CONNECTS_S_MAX", 0.0)
    one._asks.asked = 0
    for _ in range(2):
        with pytest.raises(KafkaException, match="_TIMED_OUT"):
            one._offsets([("t", 0)], END)
    assert len(clients) == 3
