"""Are all topics there? Creates those that are missing."""

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from contracts.topics import DEAD_LETTERS_HANDLED, TOPICS

TIMEOUT_S = 15.0


def ensure_topics(bootstrap: str, partitions: int = 4, replication_factor: int = 1) -> list[str]:
    """Create the topics and their dead-letter topics where they are missing; returns the names created.

    Args:
        bootstrap: ``host:port`` of any broker.
        partitions: of each new topic; bounds how many instances of a service share the work.
        replication_factor: copies of each partition; 3 in production.

    Raises:
        KafkaException: the broker does not answer, or refuses.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    existing = admin.list_topics(timeout=TIMEOUT_S).topics
    wanted = [
        NewTopic(name, num_partitions=partitions, replication_factor=replication_factor, config=config)
        for name, config, partitions in (
            *((topic.name, {}, partitions) for topic in TOPICS),
            # Until someone has looked at them, which may be after a long holiday.
            *((topic.dead_letters, {"retention.ms": "-1"}, partitions) for topic in TOPICS),
            (DEAD_LETTERS_HANDLED, {"cleanup.policy": "compact"}, 1),
        )
        if name not in existing
    ]
    if not wanted:
        return []
    created = []
    for name, future in admin.create_topics(wanted, operation_timeout=TIMEOUT_S).items():
        try:
            future.result(timeout=TIMEOUT_S)
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    return created
