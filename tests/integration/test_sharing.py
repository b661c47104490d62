"""Several instances of a service share its work evenly, and each account undivided."""

from contextlib import ExitStack, closing

import pytest
from confluent_kafka.cimpl import NewTopic
from uuid_utils.compat import uuid7

from broker.clients import admin
from contracts.services import READ_BY
from processors.runtime.consumer import BatchConsumer
from tests.conftest import WAIT_S, wait_until


@pytest.fixture
def protocol():
    return "consumer"


def test_every_instance_has_the_same_share_of_every_topic(settle, protocol):
    topics = [topic.name for topic in READ_BY["account"]]
    group = f"test-{uuid7()}"

    def instance():
        return running.enter_context(
            closing(BatchConsumer(settle.bootstrap, group, topics, 1_000, 0.0, protocol=protocol))
        )

    def shares():
        """The partitions of each topic, by instance."""
        for one in instances:
            one.take()
        assigned = [one._consumer.assignment() for one in instances]
        return [{name: {p.partition for p in own if p.topic == name} for name in topics} for own in assigned]

    def shared_out():
        found = shares()
        sizes = [sum(map(len, share.values())) for share in found]
        return found if all(sizes) and sum(sizes) == 4 * len(topics) else None

    with ExitStack() as running:
        instances = [instance()]
        wait_until(shared_out, "one instance has all")
        instances.append(instance())
        found = wait_until(shared_out, "two share")

    assert [[len(numbers) for numbers in share.values()] for share in found] == [[2, 2], [2, 2]]
    assert all(len(set(map(frozenset, share.values()))) == 1 for share in found), "an account is divided"


def test_an_instance_without_partitions_is_ready_and_takes_over(settle, protocol):
    topic = group = f"test-{uuid7()}"
    client = admin(settle.bootstrap)
    client.create_topics([NewTopic(topic, 1, 1)])[topic].result(WAIT_S)

    def instance():
        return running.enter_context(
            closing(BatchConsumer(settle.bootstrap, group, [topic], 1_000, 0.0, protocol=protocol))
        )

    def has(*partitions):
        """Whether the instances are ready, with so many partitions each."""
        reasons = [(one.take(), one.waits_for(1.0))[1] for one in instances]
        return not any(reasons) and tuple(len(one._consumer.assignment()) for one in instances) == partitions

    with ExitStack() as running:
        instances = [instance()]
        wait_until(lambda: has(1), "one instance has all")
        instances.append(instance())
        wait_until(lambda: has(1, 0) or has(0, 1), "one has it, and both are ready")
        owner, spare = sorted(instances, key=lambda one: -len(one._consumer.assignment()))
        assert spare.lag(ask_kafka=True) == {}
        if protocol == "consumer":
            spare._on_lost(spare._consumer, [])  # and it has joined again, of which it is told nothing
            wait_until(lambda: has(1, 0) or has(0, 1), "it is known to be a member")
        instances = [spare]
        owner._consumer.unsubscribe()
        wait_until(lambda: has(1), "the other one takes over")
