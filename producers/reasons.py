"""Why Kafka's client did not deliver a message, in words."""

from confluent_kafka import KafkaError

from broker.troubles import denied

_NO_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})


def reason_of(error: KafkaError) -> str:
    """Why Kafka's client did not deliver a message, and what to do where that is known."""
    if error.code() in _NO_TOPIC:
        return f"{error.str()} (`settle topics` creates those that are missing)"
    return denied(error) or str(error.str())
