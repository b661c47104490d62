"""Factories for Kafka clients, one per purpose: the only module that sets ``bootstrap.servers`` and its like.

Each client has the identity of :mod:`broker.security`, unless it is given another. Callers may pass further
librdkafka properties, which override those set here:
https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

import logging
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from broker import security
from broker.security import Properties

SILENT = logging.Logger("silent", level=logging.CRITICAL + 1)
"""For clients whose errors the caller logs itself: librdkafka prints nothing."""

# The Java clients' default partitioner: an account maps to the same partition for every writer.
_PARTITIONER = {"partitioner": "murmur2_random"}
# Errors that matter are raised to the caller.
_QUIET = {"log_level": 0}


def idempotent_producer(
    bootstrap: str,
    properties: Properties | None = None,
    logger: logging.Logger | None = None,
    identity: Properties | None = None,
) -> Producer:
    """A producer whose records are confirmed by all replicas and in order, and written once while it lives.

    Raises:
        KafkaSettingsError: the identity cannot be had; so does every factory here.
    """
    ours = {"acks": "all", "enable.idempotence": True, **_PARTITIONER}
    return Producer(_with(bootstrap, ours, properties, identity), **_logged(logger))


def plain_producer(
    bootstrap: str, properties: Properties | None = None, identity: Properties | None = None
) -> Producer:
    """A producer for a few records, confirmed by all replicas; one may be written twice.

    Ready half a second sooner than an idempotent one.
    """
    return Producer(_with(bootstrap, {"acks": "all", **_PARTITIONER}, properties, identity))


def group_consumer(
    bootstrap: str, group: str, properties: Properties | None = None, identity: Properties | None = None
) -> Consumer:
    """A member of a consumer group."""
    return Consumer(_with(bootstrap, {"group.id": group, "client.id": group}, properties, identity))


def reader(
    bootstrap: str,
    name: str,
    properties: Properties | None = None,
    logger: logging.Logger | None = None,
    identity: Properties | None = None,
) -> Consumer:
    """A consumer with assigned partitions: the group name is only a label, it joins none and commits nothing.

    Without a right to that group it reports ``GROUP_AUTHORIZATION_FAILED`` once, and reads all the same.
    """
    ours = {"group.id": name, "enable.auto.commit": False}
    return Consumer(_with(bootstrap, ours, properties, identity), **_logged(logger))


def admin(bootstrap: str, properties: Properties | None = None, identity: Properties | None = None) -> AdminClient:
    """A client that asks about topics, groups and offsets, and creates topics."""
    return AdminClient(_with(bootstrap, {}, properties, identity), logger=SILENT)


def _with(
    bootstrap: str, ours: Properties, further: Properties | None, identity: Properties | None
) -> dict[str, Any]:
    """All properties of a client; those of the identity come last, as a person has given them.

    Args:
        identity: as :func:`broker.security.properties` makes it; by default, that of this process.
    """
    who = security.properties(bootstrap) if identity is None else identity
    return {"bootstrap.servers": bootstrap, **_QUIET, **ours, **(further or {}), **who}


def _logged(logger: logging.Logger | None) -> dict[str, logging.Logger]:
    return {"logger": logger} if logger is not None else {}
