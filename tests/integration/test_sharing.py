"""Several instances of a service share its work evenly, and each account undivided."""

from contextlib import ExitStack, closing

import pytest
from uuid_utils.compat import uuid7

from contracts.services import READ_BY
from processors.runtime.consumer import BatchConsumer
from tests.conftest import wait_until


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
