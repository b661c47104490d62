"""Kafka clients, each made for a purpose: the one place that says where Kafka is and how it is spoken to.

What a caller needs beside is given as further properties of librdkafka's, which win over those here:
https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

SILENT = logging.Logger("silent", level=logging.CRITICAL + 1)
"""For clients whose troubles are told in words of our own."""

Properties = Mapping[str, Any]

# As every Kafka client in Java does: an account has one partition, whoever writes.
_PARTITIONER = {"partitioner": "murmur2_random"}
# What matters reaches the caller as an error.
_QUIET = {"log_level": 0}


def idempotent_producer(
    bootstrap: str, properties: Properties | None = None, logger: logging.Logger | None = None
) -> Producer:
    """A producer whose records are confirmed by all replicas and in order, and written once while it lives."""
    ours = {"acks": "all", "enable.idempotence": True, **_PARTITIONER}
    return Producer(_with(bootstrap, ours, properties), **_logged(logger))


def plain_producer(bootstrap: str, properties: Properties | None = None) -> Producer:
    """A producer for a few records, confirmed by all replicas; one may be written twice.

    Ready half a second sooner than an idempotent one.
    """
    return Producer(_with(bootstrap, {"acks": "all", **_PARTITIONER}, properties))


def group_consumer(bootstrap: str, group: str, properties: Properties | None = None) -> Consumer:
    """A member of a consumer group."""
    return Consumer(_with(bootstrap, {"group.id": group, "client.id": group}, properties))


def reader(
    bootstrap: str, name: str, properties: Properties | None = None, logger: logging.Logger | None = None
) -> Consumer:
    """A consumer that is given its partitions, joins no group (of the name that it says) and commits nothing."""
    return Consumer(
        _with(bootstrap, {"group.id": name, "enable.auto.commit": False}, properties), **_logged(logger)
    )


def admin(bootstrap: str) -> AdminClient:
    """A client that asks about topics, groups and offsets, and creates topics."""
    return AdminClient(_with(bootstrap, {}, None), logger=SILENT)


def _with(bootstrap: str, ours: Properties, further: Properties | None) -> dict[str, Any]:
    return {"bootstrap.servers": bootstrap, **_QUIET, **ours, **(further or {})}


def _logged(logger: logging.Logger | None) -> dict[str, logging.Logger]:
    return {"logger": logger} if logger is not None else {}
