"""The lag of each service behind its topics, from Kafka, so that it is known while the service is down."""

from collections import Counter
from collections.abc import Collection

from broker.clients import admin
from broker.offsets import TIMEOUT_S, Offsets
from contracts.services import READ_BY
from contracts.topics import consumer_group
from processors.runtime.gaps import Gap


def consumer_lag(
    bootstrap: str, services: Collection[str] = tuple(READ_BY), timeout_s: float = TIMEOUT_S
) -> list[tuple[str, str, int]]:
    """Records that a service has not committed yet, as (service, topic, records), where there are any.

    Raises:
        KafkaException: Kafka does not answer a query within ``timeout_s`` seconds.
    """
    offsets = Offsets(bootstrap, timeout_s=timeout_s)
    behind: Counter[tuple[str, str]] = Counter()
    for service in services:
        topics = [topic.name for topic in READ_BY[service]]
        # End offsets last, so that a commit in between cannot make the lag negative.
        confirmed = offsets.confirmed(consumer_group(service), topics)
        first, ends = offsets.first(topics), offsets.end(topics)
        for place, end in ends.items():
            behind[service, place[0]] += max(end - max(confirmed.get(place, 0), first[place]), 0)
    return sorted((service, topic, lag) for (service, topic), lag in behind.items() if lag)


def without_members(bootstrap: str, services: Collection[str], timeout_s: float) -> set[str]:
    """Those of some services whose consumer group has no member, so that no instance reads.

    Raises:
        KafkaException: Kafka does not answer within ``timeout_s`` seconds.
    """
    names = {consumer_group(service): service for service in services}
    client = admin(bootstrap)  # its futures resolve only while the client exists
    found = client.describe_consumer_groups(list(names), request_timeout=timeout_s)
    return {names[group] for group, future in found.items() if not future.result().members}


def deleted_unread(bootstrap: str) -> list[tuple[str, Gap]]:
    """What Kafka has deleted and a service has neither read nor recorded yet, as (service, gap).

    A group without committed offsets has read nothing.

    Raises:
        KafkaException: Kafka does not answer.
    """
    offsets = Offsets(bootstrap)
    found = []
    for service, subscribed in READ_BY.items():
        topics = [topic.name for topic in subscribed]
        # First offsets first: what is committed in between is not counted as missed.
        first, confirmed = offsets.first(topics), offsets.confirmed(consumer_group(service), topics)
        for place, begin in first.items():
            since = max(confirmed.get(place, 0), 0)
            if begin > since:
                found.append((service, Gap(*place, since, begin)))
    return found
