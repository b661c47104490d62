"""Detection of a client that will never find Kafka again, as distinct from Kafka being away.

librdkafka lets go of every broker that an answer of Kafka's does not name, and a cluster that starts, or goes on
after it stood still, may for a moment name none. The client then begins anew with its bootstrap servers; or its
threads race, and it never connects to anything again (librdkafka 2.16 does, and others since 2.12:
https://github.com/confluentinc/librdkafka/issues/5301). Then only a new client helps.

A client that is connected and not answered is another thing: a broker handles what comes over a connection one
after the other, so while it holds back an acknowledgement until the replicas have the record, it answers nothing
else, which takes until the cluster notices that a broker has died. Such a client waits. Imports nothing of ours.
"""

from collections.abc import Callable
from time import monotonic

from confluent_kafka import KafkaError, KafkaException, Producer

from broker.clients import admin

ASK_EVERY_S = 2.0
ANSWER_S = 1.0
ANSWERS_TO_OTHERS = 5
"""Some ten seconds: a client that lost its connections tries again each second or two."""

FLUSH_S_MAX = 0.1
"""From 0.2 s on, confluent-kafka's ``flush`` goes on after an error was raised in it, and the next delivery report
fails for no reason of its own, with a :class:`SystemError`."""


def why_unanswered(bootstrap: str) -> str | None:
    """What keeps a new client from Kafka, in words; None if nothing does. Takes :data:`ANSWER_S` at the most."""
    client = admin(bootstrap)
    try:
        known = client.list_topics(timeout=ANSWER_S)
    except KafkaException as error:
        return str(error.args[0].str())
    return None if known.brokers else "it names no broker"


def flush(producer: Producer, timeout_s: float) -> int:
    """Wait until all that a producer was handed is reported on, or the time is over; how much is not.

    Raises:
        KafkaException: the producer has failed for good, and takes nothing more.
    """
    give_up = monotonic() + timeout_s
    while left := producer.flush(min(timeout_s, FLUSH_S_MAX)):
        if monotonic() > give_up:
            break
    return left


class Lifeline:
    """Tells a client that is cut off from one that has to wait.

    Args:
        bootstrap: ``host:port[,host:port…]``.
        answers_others: whether Kafka answers a client that is new; without it, one is made and asks.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        bootstrap: str,
        answers_others: Callable[[], bool] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._answers_others = answers_others or (lambda: why_unanswered(bootstrap) is None)
        self._clock = clock
        self._ask_at = 0.0
        self._answers = 0

    def holds(self) -> None:
        """The client was answered."""
        self._answers = 0

    def is_cut(self, error: KafkaError) -> bool:
        """Called again and again while the client is not answered: whether it will never be.

        Takes :data:`ANSWER_S` at the most, and that every :data:`ASK_EVERY_S` only. What counts is answers and not
        seconds, as a process that stood still has seen neither.

        Args:
            error: how the client's own ``list_topics`` ended.
        """
        if error.code() != KafkaError._TRANSPORT:  # which means that it is connected to no broker
            self.holds()
            return False
        now = self._clock()
        if now < self._ask_at:
            return False
        self._ask_at = now + ASK_EVERY_S
        self._answers = self._answers + 1 if self._answers_others() else 0
        return self._answers >= ANSWERS_TO_OTHERS
