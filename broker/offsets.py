"""First and end offsets of topics, and committed offsets of a consumer group. For operators' tools and audits."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any, TypeVar

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from broker.answers import REQUEST_S, answer
from broker.clients import admin

TIMEOUT_S = 15.0
"""Time limit of one request, and for a broker that has just started to become ready."""

RETRY_S = 0.1

# Of a topic that has just been created, or a broker that has just started.
_NOT_YET = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
FIRST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
END = OffsetSpec.latest()  # type: ignore[no-untyped-call]

Place = tuple[str, int]
"""Topic and partition."""

T = TypeVar("T")


class Offsets:
    """Offset queries; topics that do not exist have none.

    Every method raises KafkaException for no answer, and for a topic that the user may not see.

    Topics and partitions are listed once, with the first query.

    Args:
        bootstrap: ``host:port``.
        client: to query with; by default, one of its own.
        timeout_s: of one query, seconds.
    """

    def __init__(self, bootstrap: str, client: AdminClient | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._admin = client or admin(bootstrap)
        self._timeout_s = timeout_s
        self._absent: set[str] = set()

    @property
    def topics(self) -> set[str]:
        """The names of the topics that Kafka lists."""
        return {*self._partitions}

    @property
    def client(self) -> AdminClient:
        """What it queries with."""
        return self._admin

    def first(self, topics: Iterable[str]) -> dict[Place, int]:
        """The oldest offset that each partition still has."""
        return self._listed(topics, FIRST)

    def end(self, topics: Iterable[str]) -> dict[Place, int]:
        """The next offset of each partition."""
        return self._listed(topics, END)

    def bounds(self, topics: Iterable[str]) -> tuple[dict[Place, int], dict[Place, int]]:
        """The oldest and the next offset of each partition, asked for at once."""
        places = self._places(topics)
        if not places:
            return {}, {}

        def ask() -> tuple[dict[Place, int], dict[Place, int]]:
            asked = [
                self._admin.list_offsets(dict.fromkeys(places, which), request_timeout=REQUEST_S)
                for which in (FIRST, END)
            ]
            first, end = (
                {
                    (one.topic, one.partition): answer(future, self._timeout_s).offset
                    for one, future in some.items()
                }
                for some in asked
            )
            return first, end

        return _patiently(ask, self._timeout_s)

    def since(self, topics: Iterable[str], timestamp_ms: int) -> dict[Place, int]:
        """The first offset of each partition whose record is of that time or later; its end where none is."""
        topics = list(topics)
        end = self.end(topics)
        found = self._listed(topics, OffsetSpec.for_timestamp(timestamp_ms))
        return {place: offset if offset >= 0 else end[place] for place, offset in found.items()}

    def confirmed(self, group: str, topics: Iterable[str]) -> dict[Place, int]:
        """The committed offset of a group (the next it will read); below zero where it has committed nothing."""
        return self.confirmed_by({group: topics})[group]

    def confirmed_by(self, groups: Mapping[str, Iterable[str]]) -> dict[str, dict[Place, int]]:
        """The same of several groups, each for some topics, asked for at once."""
        places = {group: self._places(topics) for group, topics in groups.items()}

        def ask() -> dict[str, dict[Place, int]]:
            asked: dict[str, Future[Any]] = {}
            for group, some in places.items():
                if some:  # one request for each group: more are more than Kafka 2 takes
                    request = ConsumerGroupTopicPartitions(group, some)
                    asked |= self._admin.list_consumer_group_offsets([request], request_timeout=REQUEST_S)
            return {
                group: {
                    (place.topic, place.partition): place.offset
                    for place in (answer(asked[group], self._timeout_s).topic_partitions if group in asked else ())
                }
                for group in places
            }

        return _patiently(ask, self._timeout_s)

    def _listed(self, topics: Iterable[str], which: OffsetSpec) -> dict[Place, int]:
        places = self._places(topics)
        if not places:
            return {}

        def ask() -> dict[Place, int]:
            asked = self._admin.list_offsets(dict.fromkeys(places, which), request_timeout=REQUEST_S)
            return {
                (one.topic, one.partition): answer(future, self._timeout_s).offset for one, future in asked.items()
            }

        return _patiently(ask, self._timeout_s)

    @cached_property
    def _partitions(self) -> dict[str, list[int]]:
        known = self._admin.list_topics(timeout=self._timeout_s).topics
        return {name: list(topic.partitions) for name, topic in known.items()}

    def _places(self, topics: Iterable[str]) -> list[TopicPartition]:
        topics = list(topics)
        unlisted = {name for name in topics if name not in self._partitions} - self._absent
        check_hidden(self._admin, unlisted, self._timeout_s)
        self._absent |= unlisted
        return [TopicPartition(name, number) for name in topics for number in self._partitions.get(name, ())]


def check_hidden(client: AdminClient, unlisted: Iterable[str], timeout_s: float) -> None:
    """Check that topics that Kafka does not list do not exist: it leaves out those that the user may not see.

    Raises:
        KafkaException: the user lacks the right to one of them, or Kafka does not answer.
    """
    if names := list(unlisted):
        topic_ids(client, names, timeout_s)


def topic_ids(client: AdminClient, topics: Sequence[str], timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """The ID of each topic that exists, one or more: a topic that is deleted and made anew has another (KIP-516).

    Raises:
        KafkaException: the user lacks the right to one of them, or Kafka does not answer.
    """

    def ask() -> dict[str, str]:
        found = {}
        asked = client.describe_topics(TopicCollection(list(topics)), request_timeout=REQUEST_S)
        for name, future in asked.items():
            try:
                found[name] = str(answer(future, timeout_s).topic_id)
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise refused(name) from None
                if code != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        return found

    return _patiently(ask, timeout_s)


def refused(topic: str) -> KafkaException:
    """The error of a missing right to a topic, with its name, which Kafka's own does not give."""
    return KafkaException(
        KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, f"{topic}: Topic authorization failed")
    )


def _patiently(ask: Callable[[], T], timeout_s: float) -> T:
    """The answer, retried while Kafka replies that it is not ready yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_S)
