"""How a service is a member of its group, and what it says of a broker that would replace it late."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from processors.runtime.membership import CLASSIC, CONSUMER, SESSION_MS, membership, slow_recovery, unsupported

SETS = {CONSUMER: "group.consumer.session.timeout.ms", CLASSIC: "group.min.session.timeout.ms"}


def broker(refusal=None, **settings):
    """A client of a broker with these settings, or that refuses to tell them."""

    told = Future()
    if refusal is not None:
        told.set_exception(KafkaException(KafkaError(refusal)))
    else:
        told.set_result({name: SimpleNamespace(value=value) for name, value in settings.items()})
    return lambda _: SimpleNamespace(
        list_topics=lambda timeout: SimpleNamespace(brokers={1: None}),
        describe_configs=lambda resources, request_timeout: {resources[0]: told},
    )


def test_with_the_classic_protocol_the_member_decides_when_it_is_dead():
    assert membership(CLASSIC)["session.timeout.ms"] == SESSION_MS
    assert "session.timeout.ms" not in membership(CONSUMER)


@pytest.mark.parametrize(
    ("protocol", "limit", "says"),
    [
        (CONSUMER, "3000", None),
        (CONSUMER, "10000", None),
        (CONSUMER, "45000", "taken over after 45 s only: Kafka's group.consumer.session.timeout.ms is 45000"),
        (CLASSIC, "6000", None),
        (CLASSIC, "10000", "no instance can join its group: Kafka's group.min.session.timeout.ms is 10000"),
    ],
)
def test_a_broker_that_would_replace_it_late_is_named_with_its_setting(protocol, limit, says):
    found = slow_recovery("", protocol, broker(**{SETS[protocol]: limit}))
    assert found is None if says is None else says in found


def test_a_broker_without_the_protocol_is_named_with_the_variable():
    assert "set SETTLE_KAFKA_GROUP_PROTOCOL=classic" in slow_recovery("", CONSUMER, broker(other="1"))
    assert slow_recovery("", CLASSIC, broker(other="1")) is None
    assert "SETTLE_KAFKA_GROUP_PROTOCOL=classic" in unsupported(KafkaError(KafkaError.UNSUPPORTED_VERSION))
    assert unsupported(KafkaError(KafkaError._TRANSPORT)) is None


def test_who_may_not_ask_is_not_warned_for_having_no_more_rights_than_it_needs():
    refuses = broker(refusal=KafkaError.CLUSTER_AUTHORIZATION_FAILED)
    assert slow_recovery("", CONSUMER, refuses) is None
    with pytest.raises(KafkaException):
        slow_recovery("", CONSUMER, broker(refusal=KafkaError._TIMED_OUT))
