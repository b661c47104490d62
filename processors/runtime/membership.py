"""Membership in a consumer group: a consumer's properties, by protocol, and how soon a dead member is replaced.

``consumer`` is KIP-848's, of Kafka 4: nobody stands still while partitions move, and the broker decides how long a
silent member counts as alive. ``classic`` is for Kafka 3, Redpanda and the like: there the member decides, and all
members stand still for the moment in which partitions move.
"""

from collections.abc import Callable
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._group import MemberDescription

from broker.answers import REQUEST_S, answer
from broker.clients import admin
from broker.security import Properties

Protocol = Literal["consumer", "classic"]
CONSUMER: Protocol = "consumer"
CLASSIC: Protocol = "classic"

SESSION_MS = 6_000
"""``classic``: how long a silent member counts as alive; the least that a broker takes by default."""

HEARTBEAT_MS = 500
"""``classic``: how long it takes at most until a member learns that partitions move."""

POLL_MS_MAX = 60_000
"""``classic``: a batch that takes longer costs the membership, and is redelivered, which changes nothing."""

SESSION_MS_MAX = 10_000
"""What recovery is promised with: a dead instance's partitions are read by the others within some ten seconds."""

ANSWER_S = 5.0

_BROKER_SETS = {CONSUMER: "group.consumer.session.timeout.ms", CLASSIC: "group.min.session.timeout.ms"}
_UNSUPPORTED = frozenset({KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE})
_NOT_TOLD = frozenset({KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED})


def membership(protocol: Protocol) -> Properties:
    """The properties by which a consumer is a member.

    Each topic is assigned evenly, all topics alike: an account is with one instance, on every topic. The default
    assignors count partitions of any topic, and may give an instance only those of an idle one.
    """
    if protocol == CONSUMER:
        return {
            "group.protocol": CONSUMER,
            "group.remote.assignor": "range",
            # A batch that waits for its database must not cost the group membership.
            "max.poll.interval.ms": 3_600_000,
        }
    return {
        "group.protocol": CLASSIC,
        "partition.assignment.strategy": "range",
        "session.timeout.ms": SESSION_MS,
        "heartbeat.interval.ms": HEARTBEAT_MS,
        # While partitions move the others wait for an instance with a batch under way, for so long at the most.
        "max.poll.interval.ms": POLL_MS_MAX,
    }


def has_no_partition(member: MemberDescription) -> bool:
    """Whether a member of a group of protocol ``consumer`` has no partition, nor is about to get one."""
    target = member.target_assignment  # None with ``classic``
    return target is not None and not target.topic_partitions and not member.assignment.topic_partitions


def unsupported(error: KafkaError) -> str | None:
    """That Kafka does not know the protocol, as one line; None for another error."""
    if error.code() not in _UNSUPPORTED:
        return None
    return f"this Kafka does not know group protocol {CONSUMER}; set SETTLE_KAFKA_GROUP_PROTOCOL={CLASSIC}"


def slow_recovery(bootstrap: str, protocol: Protocol, connect: Callable[[str], AdminClient] = admin) -> str | None:
    """Why a dead instance's work would stand for long, as one line for the operator of Kafka; None: it would not.

    Asks a broker for its configuration, which takes the right ``DescribeConfigs`` on the cluster: no user of ours
    has it, and who lacks it is told nothing.

    Raises:
        KafkaException: Kafka does not answer.
    """
    name = _BROKER_SETS[protocol]
    client = connect(bootstrap)
    try:
        answering = next(iter(client.list_topics(timeout=ANSWER_S).brokers), None)
        if answering is None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        asked = client.describe_configs(
            [ConfigResource(ConfigResource.Type.BROKER, str(answering))], request_timeout=REQUEST_S
        )
        (future,) = asked.values()
        found: dict[str, Any] = answer(future, ANSWER_S)
    except KafkaException as error:
        if error.args[0].code() not in _NOT_TOLD:
            raise
        return None
    if name not in found:
        if protocol == CONSUMER:
            return f"this Kafka has no {name}, and so not the protocol: set SETTLE_KAFKA_GROUP_PROTOCOL={CLASSIC}"
        return None
    broker_ms = int(found[name].value)
    if protocol == CONSUMER and broker_ms > SESSION_MS_MAX:
        return (
            f"what a dead instance has is taken over after {broker_ms / 1000:g} s only: Kafka's {name} is"
            f" {broker_ms}; set {SESSION_MS_MAX} or less there, or SETTLE_KAFKA_GROUP_PROTOCOL={CLASSIC}"
        )
    if protocol == CLASSIC and broker_ms > SESSION_MS:
        return f"no instance can join its group: Kafka's {name} is {broker_ms}; set {SESSION_MS} or less there"
    return None
