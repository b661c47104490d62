"""Answers of Kafka's administration, which are waited for here and not by librdkafka.

A request that librdkafka itself has given up, and whose answer comes all the same (to a process that was frozen
meanwhile), may abort the process: https://github.com/confluentinc/librdkafka/issues/4605. So requests get more
time than a freeze takes, and whoever asks waits for less.
"""

from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException

REQUEST_S = 600.0
"""The ``request_timeout`` of whoever waits with :func:`answer`."""


def answer(future: "Future[Any]", timeout_s: float) -> Any:
    """What Kafka answers.

    Raises:
        KafkaException: an error, or nothing within ``timeout_s`` seconds.
    """
    try:
        return future.result(timeout_s)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
