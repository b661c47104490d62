"""Factories for Kafka clients, one per purpose: the only module that sets ``bootstrap.servers`` and its like.

Each client has the identity of :mod:`broker.security`, unless it is given another. Callers may pass further
librdkafka properties, which override those set here:
https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from broker import security
from broker.security import KafkaSettingsError, Properties

T = TypeVar("T")

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
        KafkaSettingsError: the identity cannot be had, or librdkafka does not take it; so does every factory here.
    """
    ours = {"acks": "all", "enable.idempotence": True, **_PARTITIONER}
    return _made(Producer, _with(bootstrap, ours, properties, identity), logger)


def plain_producer(
    bootstrap: str, properties: Properties | None = None, identity: Properties | None = None
) -> Producer:
    """A producer for a few records, confirmed by all replicas; one may be written twice.

    Ready half a second sooner than an idempotent one.
    """
    return _made(Producer, _with(bootstrap, {"acks": "all", **_PARTITIONER}, properties, identity))


def group_consumer(
    bootstrap: str, group: str, properties: Properties | None = None, identity: Properties | None = None
) -> Consumer:
    """A member of a consumer group."""
    return _made(Consumer, _with(bootstrap, {"group.id": group, "client.id": group}, properties, identity))


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
    return _made(Consumer, _with(bootstrap, ours, properties, identity), logger)


def admin(bootstrap: str, properties: Properties | None = None, identity: Properties | None = None) -> AdminClient:
    """A client that asks about topics, groups and offsets, and creates topics."""
    return _made(AdminClient, _with(bootstrap, {}, properties, identity), SILENT)


def _with(
    bootstrap: str, ours: Properties, further: Properties | None, identity: Properties | None
) -> dict[str, Any]:
    """All properties of a client; those of the identity come last, as a person has given them.

    Args:
        identity: as :func:`broker.security.properties` makes it; by default, that of this process.
    """
    who = security.properties(bootstrap) if identity is None else identity
    return {"bootstrap.servers": bootstrap, **_QUIET, **ours, **(further or {}), **who}


def _made(kind: Callable[..., T], properties: dict[str, Any], logger: logging.Logger | None = None) -> T:
    try:
        return kind(properties, **({"logger": logger} if logger is not None else {}))
    except KafkaException as error:
        if error.args[0].code() != KafkaError._INVALID_ARG:
            raise
        # A file that is half written, for one: librdkafka reads those that the properties name.
        raise KafkaSettingsError(f"no client of Kafka can be made: {security.objection(error)}") from None
