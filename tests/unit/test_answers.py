"""Whoever asks Kafka's administration waits by his own clock."""

from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException

from broker.answers import answer


def test_an_answer_or_an_error_is_passed_on():
    good, bad = Future(), Future()
    good.set_result(1)
    bad.set_exception(KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
    assert answer(good, 0) == 1
    with pytest.raises(KafkaException):
        answer(bad, 0)


def test_none_in_time_is_an_error_of_kafka():
    with pytest.raises(KafkaException) as raised:
        answer(Future(), 0.001)
    assert raised.value.args[0].code() == KafkaError._TIMED_OUT
