"""Detection of a client that will never find Kafka again, as distinct from Kafka being away.

librdkafka drops every broker that a metadata response does not name, and a cluster that starts, or resumes after
a freeze, may briefly name none. The client then falls back to its bootstrap servers; or its threads race, and it
never connects to anything again (librdkafka 2.16 does, and others since 2.12:
https://github.com/confluentinc/librdkafka/issues/5301). Only a new client recovers from that.

A client that is connected but gets no response is a different case: a broker handles the requests of a connection
in order, so while it holds back an acknowledgement until the replicas have the record, it answers nothing else,
which lasts until the cluster notices that a broker has died. Such a client waits.
"""

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException

from broker.clients import admin
from broker.security import KafkaSettingsError
from broker.troubles import Troubles, explained, unexplained

ASK_EVERY_S = 2.0
ANSWER_S = 1.0
ANSWERS_TO_OTHERS = 5
"""Some ten seconds: a client that lost its connections tries again each second or two."""

FLUSH_S_MAX = 0.1
"""From 0.2 s on, confluent-kafka's ``flush`` goes on after an error was raised in it, and the next delivery report
then fails with an unrelated :class:`SystemError`."""


def why_unanswered(
    bootstrap: str, timeout_s: float = ANSWER_S, is_called_off: Callable[[], bool] = lambda: False
) -> str | None:
    """Why a new client gets no answer from Kafka, with the variable to look at if one is wrong; None if it does.

    Args:
        bootstrap: ``host:port[,host:port…]``.
        timeout_s: how long that may take, seconds, and little more where a certificate or protocol is in doubt. To
            connect takes up to eight round trips, and all topics of a large cluster are megabytes: whoever cannot
            do without an answer gives several seconds.
        is_called_off: asked each :data:`ANSWER_S` while it is connected to no broker.
    """
    troubles, give_up, patience_s = Troubles(bootstrap), monotonic() + timeout_s, ANSWER_S
    try:
        client = admin(bootstrap, {"error_cb": troubles.note})
        while True:
            try:
                known = client.list_topics(timeout=min(patience_s, max(0.0, give_up - monotonic())))
                break
            except KafkaException as error:
                client.poll(0)  # what it has noted meanwhile
                if troubles.text is not None or monotonic() >= give_up or is_called_off():
                    raise
                if error.args[0].code() == KafkaError._TIMED_OUT:  # connected: it takes the answer as long
                    patience_s = timeout_s
    except KafkaSettingsError as error:
        return str(error)
    except KafkaException as error:
        if troubles.text is None and error.args[0].code() == KafkaError._TRANSPORT:
            return unexplained(bootstrap) or str(error.args[0].str())
        return troubles.text or explained(error.args[0], bootstrap)
    return None if known.brokers else "it names no broker"


class Flushes(Protocol):
    """A producer, or what stands for one."""

    def flush(self, timeout: float, /) -> int:
        """Wait for delivery reports; returns how many are missing."""


def flush(producer: Flushes, timeout_s: float) -> int:
    """Wait for the delivery reports of all queued messages, up to the timeout; returns how many are missing.

    Raises:
        KafkaException: the producer has failed permanently and accepts no more messages.
    """
    give_up = monotonic() + timeout_s
    while left := producer.flush(min(timeout_s, FLUSH_S_MAX)):
        if monotonic() > give_up:
            break
    return left


class Lifeline:
    """Distinguishes a client that is cut off for good from one that has to wait.

    Args:
        bootstrap: ``host:port[,host:port…]``.
        answers_others: whether Kafka answers a new client; by default, one is created to ask.
        clock: monotonic seconds.

    Attributes:
        why: why a new client got no answer either, when last asked; None if it got one, or was not asked.
    """

    def __init__(
        self,
        bootstrap: str,
        answers_others: Callable[[], bool] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._bootstrap = bootstrap
        self._answers_others = answers_others or self._answers_a_new_client
        self._clock = clock
        self._ask_at = 0.0
        self._answers = 0
        self.why: str | None = None

    def _answers_a_new_client(self) -> bool:
        self.why = why_unanswered(self._bootstrap)
        return self.why is None

    def holds(self) -> None:
        """Record that the client was answered."""
        self._answers = 0
        self.why = None

    def is_cut(self, error: KafkaError) -> bool:
        """Whether the client will never be answered again; call repeatedly while it gets no answer.

        Takes at most :data:`ANSWER_S`, once per :data:`ASK_EVERY_S`. Answers are counted rather than seconds, as a
        process that was frozen has seen neither.

        Args:
            error: what the client's own ``list_topics`` raised.
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
