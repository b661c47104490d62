"""The Kafka users, and what each may do: what follows from the registry of services, and no more."""

from collections.abc import Iterable
from dataclasses import dataclass

from contracts.services import API, PROCESSORS, READ_BY, SERVICES, TOPICS, all_topic_names
from contracts.topics import DEAD_LETTERS_HANDLED, WITHDRAWAL_REQUESTS, consumer_group

RELAY, PRODUCER, VIEWER, OPERATOR = "relay", "producer", "viewer", "operator"
"""The users that are no service; each service's user has its name."""

OUTBOX_TRANSACTIONS = "settle-outbox-"
"""What the transactional IDs of relays begin with; then comes the outbox, which only its database tells."""

SCAN = "scan"
"""In the name of the group of who reads whole topics."""


@dataclass(frozen=True)
class KafkaUser:
    """A user of Kafka.

    Attributes:
        reads: the topics whose records it may read.
        writes: the topics to which it may write.
        asks_about: the topics whose configuration it may see.
        joins: the consumer groups of which it may be a member.
        looks_at: the consumer groups whose offsets and coordinator it may see.
        transacts: what the transactional IDs begin with by which it may send, and fence off others.
    """

    name: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    asks_about: tuple[str, ...] = ()
    joins: tuple[str, ...] = ()
    looks_at: tuple[str, ...] = ()
    transacts: tuple[str, ...] = ()


def relay_of(service: str) -> str:
    """The user of a relay that has the outbox of one service alone."""
    return f"{RELAY}-{service}"


def kafka_users() -> tuple[KafkaUser, ...]:
    """Every user: the services, one relay for all outboxes and one for each, producers, and people."""
    emitted = _names(topic.name for service in SERVICES for topic in service.emits)
    everything = (*all_topic_names(), DEAD_LETTERS_HANDLED)
    # Who reads a whole topic has a group's name as well, and joins none: librdkafka looks for its coordinator.
    groups = (*(consumer_group(name) for name in READ_BY), consumer_group(SCAN))
    return (
        *(
            KafkaUser(
                service.name,
                reads=_names(topic.name for topic in service.reads),
                writes=_names(topic.dead_letters for topic in service.reads),
                joins=(consumer_group(service.name),),
            )
            for service in PROCESSORS
        ),
        # The API shows what a viewer may see; what it writes, its relay publishes.
        KafkaUser(API, reads=everything, looks_at=groups),
        # A relay looks up what is on a topic already, and whether compaction may have taken some of it.
        KafkaUser(
            RELAY,
            reads=emitted,
            writes=emitted,
            asks_about=emitted,
            looks_at=(consumer_group(RELAY),),
            transacts=(OUTBOX_TRANSACTIONS,),
        ),
        *(
            KafkaUser(
                relay_of(service.name),
                reads=_names(topic.name for topic in service.emits),
                writes=_names(topic.name for topic in service.emits),
                asks_about=_names(topic.name for topic in service.emits),
                looks_at=(consumer_group(RELAY),),
                transacts=(OUTBOX_TRANSACTIONS,),
            )
            for service in SERVICES
        ),
        KafkaUser(PRODUCER, writes=(WITHDRAWAL_REQUESTS.name,)),
        KafkaUser(VIEWER, reads=everything, looks_at=groups),
        # Redrives go to any topic that has dead letters; cancellations and republished requests to requests' own.
        KafkaUser(
            OPERATOR,
            reads=everything,
            writes=(*_names(topic.name for topic in TOPICS), DEAD_LETTERS_HANDLED),
            looks_at=groups,
        ),
    )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
