"""The producers' settings: which Kafka they write to, and how long they wait. From the environment."""

from pydantic import Field

from contracts.settings import Settings

DELIVERY_TIMEOUT_S = 10.0

TOPIC_WAIT_S = 3.0
"""A topic that is still unknown then does not exist: one that has just been created is known within a second."""


def topic_wait_ms(delivery_timeout_s: float) -> int:
    """How long a topic may be unknown before that is the error, ahead of the delivery timeout; milliseconds."""
    return int(min(TOPIC_WAIT_S, delivery_timeout_s / 2) * 1_000)


class ProducerSettings(Settings):
    """What a producer reads; each is an environment variable with the prefix ``SETTLE_``."""

    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers, host:port, comma-separated")
    delivery_timeout_s: float = Field(
        DELIVERY_TIMEOUT_S, ge=0.1, le=3600, description="how long Kafka may take to confirm a request, seconds"
    )
