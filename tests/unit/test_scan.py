"""A read of whole topics goes on where its user has no right to the group whose name it bears."""

from types import SimpleNamespace

from confluent_kafka import KafkaError

from broker.scan import _read


def message(topic=None, partition=None, offset=None, error=None):
    found = {"topic": topic, "partition": partition, "offset": offset, "error": error}
    return SimpleNamespace(**{name: lambda value=value: value for name, value in found.items()})


def test_a_missing_right_to_the_group_does_not_end_it():
    denied = message(error=KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    record = message("withdrawal.requests", 0, 0)
    batches = iter([[denied], [], [record], []])
    consumer = SimpleNamespace(assign=lambda places: None, consume=lambda *_: next(batches))
    assert list(_read(consumer, {("withdrawal.requests", 0): 1}, {})) == [record]
