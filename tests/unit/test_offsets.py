"""Offsets are asked for once more where the broker has just started, and given up for every other error."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from broker import offsets
from broker.offsets import Offsets


class Admin:
    """Has one topic of one partition; answers with these errors before it answers."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)

    def list_topics(self, timeout):
        return SimpleNamespace(topics={"there": SimpleNamespace(partitions={0: None})})

    def describe_topics(self, topics, request_timeout):
        codes = {"hidden": KafkaError.TOPIC_AUTHORIZATION_FAILED}
        described = {name: Future() for name in topics.topic_names}
        for name, future in described.items():
            future.set_exception(KafkaException(KafkaError(codes.get(name, KafkaError.UNKNOWN_TOPIC_OR_PART))))
        return described

    def list_offsets(self, asked, request_timeout):
        return {place: self.answer(SimpleNamespace(offset=7)) for place in asked}

    def list_consumer_group_offsets(self, requests, request_timeout):
        (request,) = requests
        for place in request.topic_partitions:
            place.offset = 5
        return {request.group_id: self.answer(request)}

    def answer(self, result):
        future = Future()
        if self.errors:
            future.set_exception(KafkaException(KafkaError(self.errors.pop(0))))
        else:
            future.set_result(result)
        return future


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(offsets, "RETRY_S", 0)


def test_a_coordinator_that_still_loads_is_asked_again():
    for reason in (
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    ):
        admin = Admin(reason, reason)
        assert Offsets("", admin).confirmed("settle-saga", ["there", "missing"]) == {("there", 0): 5}


def test_a_leader_that_is_not_known_yet_is_asked_again():
    admin = Admin(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
    assert Offsets("", admin).first(["there"]) == Offsets("", admin).end(["there"]) == {("there", 0): 7}


def test_a_leader_that_has_just_started_and_knows_of_an_older_epoch_is_asked_again():
    admin = Admin(KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.FENCED_LEADER_EPOCH)
    assert Offsets("", admin).end(["there"]) == {("there", 0): 7}


def test_other_errors_are_raised_at_once_and_those_of_a_start_in_the_end():
    admin = Admin(KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaException, match="GROUP_AUTHORIZATION_FAILED"):
        Offsets("", admin).confirmed("settle-saga", ["there"])
    assert len(admin.errors) == 1
    loads = Admin(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    with pytest.raises(KafkaException, match="COORDINATOR_LOAD_IN_PROGRESS"):
        Offsets("", loads, timeout_s=-1).confirmed("settle-saga", ["there"])


def test_topics_that_do_not_exist_have_no_offsets():
    assert Offsets("", Admin()).end(["missing"]) == Offsets("", Admin()).confirmed("g", ["missing"]) == {}


def test_a_topic_that_is_hidden_from_the_user_is_an_error_that_names_it():
    for ask in (Offsets("", Admin()).end, Offsets("", Admin()).first):
        with pytest.raises(KafkaException, match="hidden: Topic authorization failed"):
            ask(["there", "missing", "hidden"])
