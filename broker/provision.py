"""The existing topics, and creation of those that are missing."""

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.cimpl import NewTopic

from broker.clients import admin
from broker.offsets import Offsets, check_hidden
from contracts.services import TOPICS, all_topic_names
from contracts.topics import DEAD_LETTER_BYTES_MAX, DEAD_LETTERS_HANDLED

TIMEOUT_S = 15.0
DAY_MS = 86_400_000
FOR_EVER = -1


def existing_topics(bootstrap: str, timeout_s: float = TIMEOUT_S, offsets: Offsets | None = None) -> set[str]:
    """The names of the topics that Kafka has.

    Args:
        bootstrap: Kafka, ``host:port``.
        timeout_s: of one query, seconds.
        offsets: to query with, by which topics are listed once; by default, a client of its own.

    Raises:
        KafkaException: it does not answer within ``timeout_s`` seconds, or hides one of ours from the user.
    """
    offsets = offsets or Offsets(bootstrap, timeout_s=timeout_s)
    listed = offsets.topics
    check_hidden(offsets.client, (name for name in all_topic_names() if name not in listed), timeout_s)
    return listed


def ensure_topics(
    bootstrap: str,
    partitions: int = 4,
    replication_factor: int = 1,
    min_insync_replicas: int = 1,
    retention_days: float = 7.0,
) -> list[str]:
    """Create the topics and their dead-letter topics where they are missing; returns the names created.

    Args:
        bootstrap: ``host:port`` of any broker.
        partitions: of each new topic; bounds how many instances of a service share the work.
        replication_factor: copies of each partition; 3 in production.
        min_insync_replicas: copies that must have a record before it is acknowledged; 2 in production.
        retention_days: how long records are kept, 0 = forever; dead letters are always kept forever.

    Raises:
        KafkaException: the broker does not answer, or refuses.
    """
    client = admin(bootstrap)
    existing = client.list_topics(timeout=TIMEOUT_S).topics
    safe = {"min.insync.replicas": str(min_insync_replicas)}
    kept = {"retention.ms": str(round(retention_days * DAY_MS) or FOR_EVER)}
    # Until someone has looked at them, which may be after a long holiday.
    letters = {"retention.ms": str(FOR_EVER), "max.message.bytes": str(DEAD_LETTER_BYTES_MAX)}
    wanted = [
        NewTopic(name, num_partitions=partitions, replication_factor=replication_factor, config=safe | config)
        for name, config, partitions in (
            *((topic.name, kept, partitions) for topic in TOPICS),
            *((topic.dead_letters, letters, partitions) for topic in TOPICS),
            (DEAD_LETTERS_HANDLED, {"cleanup.policy": "compact"}, 1),
        )
        if name not in existing
    ]
    if not wanted:
        return []
    created = []
    for name, future in client.create_topics(wanted, operation_timeout=TIMEOUT_S).items():
        try:
            future.result(timeout=TIMEOUT_S)
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    return created
