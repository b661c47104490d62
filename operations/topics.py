"""The topics of the system as Kafka has them: which exist, and how large each is."""

import msgspec

from broker.clients import admin
from broker.offsets import check_hidden
from broker.provision import TIMEOUT_S
from contracts.services import all_topic_names
from contracts.topics import DEAD_LETTERS_HANDLED


class TopicState(msgspec.Struct, frozen=True):
    """A topic of ours; partitions and copies are 0 where it does not exist."""

    name: str
    partitions: int
    copies: int


def topic_states(bootstrap: str) -> list[TopicState]:
    """Each topic, in the order of the registry.

    Raises:
        KafkaException: Kafka does not answer, or hides one of them from the user.
    """
    client = admin(bootstrap)
    listed = client.list_topics(timeout=TIMEOUT_S).topics
    names = (*all_topic_names(), DEAD_LETTERS_HANDLED)
    check_hidden(client, (name for name in names if name not in listed), TIMEOUT_S)
    found = []
    for name in names:
        partitions = listed[name].partitions.values() if name in listed else ()
        copies = min((len(one.replicas) for one in partitions), default=0)
        found.append(TopicState(name, len(partitions), copies))
    return found
