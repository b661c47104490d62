"""The producers' exceptions: one base class, one line of text each."""

from confluent_kafka import KafkaError

from broker.troubles import denied

_NO_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})


def reason_of(error: KafkaError) -> str:
    """Why Kafka's client did not deliver a message, and what to do where that is known."""
    if error.code() in _NO_TOPIC:
        return f"{error.str()} (`settle topics` creates those that are missing)"
    return denied(error) or str(error.str())


class ProducerError(Exception):
    """Base of everything this package raises; its text is one line for a person."""


class InvalidRequestError(ProducerError, ValueError):
    """A request that was refused before it was sent; the text says what is wrong with it."""


class NotDeliveredError(ProducerError):
    """Kafka did not confirm a request; the text names the address and the reason.

    It may have been written all the same (the confirmation can be what was lost). Sending it again with the same
    payment ID is safe: a payment ID is acted on once.
    """
