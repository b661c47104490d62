"""How far is each service behind its topics? Asked of Kafka, so it counts when the service is down, too."""

from collections import Counter
from collections.abc import Sequence

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from contracts.topics import READ_BY, consumer_group

TIMEOUT_S = 10.0

_FIRST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_END = OffsetSpec.latest()  # type: ignore[no-untyped-call]


def consumer_lag(bootstrap: str) -> list[tuple[str, str, int]]:
    """Records that a service has not confirmed yet, as (service, topic, records); nothing where there are none.

    Raises:
        KafkaException: Kafka does not answer.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    topics = admin.list_topics(timeout=TIMEOUT_S).topics
    behind: Counter[tuple[str, str]] = Counter()
    for service, subscribed in READ_BY.items():
        places = [
            TopicPartition(topic.name, partition)
            for topic in subscribed
            if topic.name in topics
            for partition in topics[topic.name].partitions
        ]
        if not places:
            continue
        # Ends last, so that what is confirmed in between is not counted as more than there is.
        confirmed = _confirmed(admin, consumer_group(service), places)
        first, ends = _offsets(admin, places, _FIRST), _offsets(admin, places, _END)
        for place, end in ends.items():
            behind[service, place[0]] += max(end - max(confirmed.get(place, 0), first[place]), 0)
    return sorted((service, topic, lag) for (service, topic), lag in behind.items() if lag)


def confirmed_offsets(bootstrap: str, service: str) -> dict[tuple[str, int], int]:
    """The next offset that a service has yet to confirm, by topic and partition.

    Raises:
        KafkaException: Kafka does not answer.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    topics = admin.list_topics(timeout=TIMEOUT_S).topics
    names = [topic.name for topic in READ_BY[service] if topic.name in topics]
    places = [TopicPartition(name, partition) for name in names for partition in topics[name].partitions]
    return _confirmed(admin, consumer_group(service), places)


_Places = dict[tuple[str, int], int]


def _confirmed(admin: AdminClient, group: str, places: Sequence[TopicPartition]) -> _Places:
    request = ConsumerGroupTopicPartitions(group, list(places))
    (future,) = admin.list_consumer_group_offsets([request], request_timeout=TIMEOUT_S).values()
    return {(place.topic, place.partition): place.offset for place in future.result().topic_partitions}


def _offsets(admin: AdminClient, places: Sequence[TopicPartition], spec: OffsetSpec) -> _Places:
    asked = admin.list_offsets(dict.fromkeys(places, spec), request_timeout=TIMEOUT_S)
    return {(place.topic, place.partition): future.result().offset for place, future in asked.items()}
