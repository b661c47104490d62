"""The lag of each service behind its topics, and its rate, from Kafka: known while the service is down.

Kafka keeps offsets and no rates: a rate is the difference of two samples. A sample is kept by whoever took it.
"""

from collections.abc import Collection, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

import msgspec
from confluent_kafka.admin import AdminClient

from broker.answers import REQUEST_S, answer
from broker.clients import admin
from broker.offsets import TIMEOUT_S, Offsets, Place
from contracts.services import READ_BY
from contracts.topics import consumer_group
from processors.runtime.gaps import Gap


class Sample(msgspec.Struct, frozen=True):
    """Offsets at a moment.

    Attributes:
        at: the moment, UTC.
        end: the offset that the next record of each partition gets.
        read: the next offset that each service reads, by service and partition; what it has not read at all, from
            its first record on.
    """

    at: datetime
    end: dict[Place, int]
    read: dict[tuple[str, Place], int]


class Progress(msgspec.Struct, frozen=True):
    """A step: a service and a topic that it reads.

    Attributes:
        lag: records that it has not confirmed yet.
        arriving_per_s: records that are written to the topic, between the two samples; None with one sample alone.
        reading_per_s: records that the service confirms.
    """

    service: str
    topic: str
    lag: int
    arriving_per_s: float | None
    reading_per_s: float | None


def sample(
    bootstrap: str,
    services: Collection[str] = tuple(READ_BY),
    timeout_s: float = TIMEOUT_S,
    offsets: Offsets | None = None,
) -> Sample:
    """The offsets of some services and of the topics that they read.

    Args:
        bootstrap: Kafka, ``host:port``.
        services: whose.
        timeout_s: of one query, seconds.
        offsets: to query with; by default, its own.

    Raises:
        KafkaException: Kafka does not answer a query within ``timeout_s`` seconds.
    """
    offsets = offsets or Offsets(bootstrap, timeout_s=timeout_s)
    topics = list(dict.fromkeys(topic.name for service in services for topic in READ_BY[service]))
    by_group = offsets.confirmed_by(
        {consumer_group(service): [topic.name for topic in READ_BY[service]] for service in services}
    )
    confirmed = {service: by_group[consumer_group(service)] for service in services}
    # End offsets last, so that a commit in between cannot make the lag negative.
    first, end = offsets.bounds(topics)
    read = {
        (service, place): max(some.get(place, 0), first[place])
        for service, some in confirmed.items()
        for place in end
        if place[0] in {topic.name for topic in READ_BY[service]}
    }
    return Sample(datetime.now(UTC), end, read)


def progress(now: Sample, before: Sample | None = None) -> list[Progress]:
    """The lag of each step, with rates where there is an earlier sample; in the order of the registry."""
    seconds = (now.at - before.at).total_seconds() if before is not None else 0.0
    steps = dict.fromkeys((service, place[0]) for service, place in now.read)
    found = []
    for service, topic in steps:
        places = [place for one, place in now.read if (one, place[0]) == (service, topic)]
        lag = sum(max(now.end[place] - now.read[service, place], 0) for place in places)
        arriving = reading = None
        if before is not None and seconds > 0:
            # A partition that was not there then, or began anew, has no rate.
            arrived = (now.end[place] - before.end.get(place, now.end[place]) for place in places)
            keys = [(service, place) for place in places]
            done = (now.read[key] - before.read.get(key, now.read[key]) for key in keys)
            arriving = sum(max(count, 0) for count in arrived) / seconds
            reading = sum(max(count, 0) for count in done) / seconds
        found.append(Progress(service, topic, lag, arriving, reading))
    return found


def consumer_lag(
    bootstrap: str, services: Collection[str] = tuple(READ_BY), timeout_s: float = TIMEOUT_S
) -> list[tuple[str, str, int]]:
    """Records that a service has not committed yet, as (service, topic, records), where there are any.

    Raises:
        KafkaException: Kafka does not answer a query within ``timeout_s`` seconds.
    """
    return behind(sample(bootstrap, services, timeout_s))


def behind(now: Sample) -> list[tuple[str, str, int]]:
    """Records that a service has not committed yet, as (service, topic, records), where there are any."""
    return sorted((one.service, one.topic, one.lag) for one in progress(now) if one.lag)


def without_members(bootstrap: str, services: Collection[str], timeout_s: float) -> set[str]:
    """Those of some services whose consumer group has no member, so that no instance reads.

    Raises:
        KafkaException: Kafka does not answer within ``timeout_s`` seconds.
    """
    client = admin(bootstrap)  # its futures resolve only while the client exists
    return without_any(ask_members(client, services), timeout_s)


def ask_members(client: AdminClient, services: Collection[str]) -> "dict[str, Future[Any]]":
    """Ask for the members of the consumer group of each of some services, while the client exists."""
    names = {consumer_group(service): service for service in services}
    found = client.describe_consumer_groups(list(names), request_timeout=REQUEST_S)
    return {names[group]: future for group, future in found.items()}


def without_any(asked: "Mapping[str, Future[Any]]", timeout_s: float) -> set[str]:
    """Those of the services that were asked for whose group has no member.

    Raises:
        KafkaException: Kafka does not answer within ``timeout_s`` seconds.
    """
    return {service for service, future in asked.items() if not answer(future, timeout_s).members}


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
