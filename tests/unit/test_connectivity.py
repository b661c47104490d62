"""The rule by which a client is taken for one that will never find Kafka again."""

import gc
import socket
import weakref
from types import SimpleNamespace

from confluent_kafka import KafkaError, KafkaException

from broker import clients, lifeline
from broker.lifeline import ANSWER_S, ANSWERS_TO_OTHERS, ASK_EVERY_S, Lifeline
from outbox_relay import kafka_asked

UNCONNECTED, UNANSWERED = KafkaError(KafkaError._TRANSPORT), KafkaError(KafkaError._TIMED_OUT)


class Kafka:
    """What a new client finds, and the time, which the test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.answers = True
        self.asked = 0
        self.lifeline = Lifeline("nowhere:1", self.answers_others, lambda: self.now_s)

    def answers_others(self) -> bool:
        self.asked += 1
        return self.answers

    def after(self, seconds: float, error: KafkaError = UNCONNECTED) -> bool:
        self.now_s += seconds
        return self.lifeline.is_cut(error)


def test_a_client_is_cut_off_once_others_were_answered_several_times():
    kafka = Kafka()
    assert [kafka.after(ASK_EVERY_S) for _ in range(ANSWERS_TO_OTHERS)] == [False] * (ANSWERS_TO_OTHERS - 1) + [
        True
    ]


def test_others_are_asked_now_and_then_only():
    kafka = Kafka()
    assert not any(kafka.after(ASK_EVERY_S / 100) for _ in range(100))
    assert kafka.asked <= 2


def test_a_client_that_is_answered_in_between_is_not_cut_off():
    kafka = Kafka()
    for _ in range(3 * ANSWERS_TO_OTHERS):
        assert not kafka.after(ASK_EVERY_S)
        kafka.lifeline.holds()


def test_while_nobody_is_answered_nobody_is_cut_off():
    kafka = Kafka()
    for _ in range(3 * ANSWERS_TO_OTHERS):
        kafka.answers = not kafka.answers
        assert not kafka.after(ASK_EVERY_S)


def test_a_process_that_stood_still_is_not_cut_off():
    kafka = Kafka()
    assert not kafka.after(ASK_EVERY_S)
    assert not kafka.after(1_000 * ASK_EVERY_S)


def test_a_client_that_is_connected_is_not_cut_off_however_long_it_waits():
    kafka = Kafka()
    assert not any(kafka.after(ASK_EVERY_S, UNANSWERED) for _ in range(3 * ANSWERS_TO_OTHERS))
    assert not any(kafka.after(ASK_EVERY_S) for _ in range(ANSWERS_TO_OTHERS - 1))
    assert not kafka.after(ASK_EVERY_S, UNANSWERED)
    assert not any(kafka.after(ASK_EVERY_S) for _ in range(ANSWERS_TO_OTHERS - 1))


def test_a_client_that_asked_in_vain_is_gone_without_a_collection(monkeypatch):
    """Each holds threads and files, and services collect rarely."""
    asked = []

    def admin(*arguments):
        client = clients.admin(*arguments)
        asked.append(weakref.ref(client))
        return client

    monkeypatch.setattr(lifeline, "admin", admin)
    with socket.socket() as refuses:
        refuses.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{refuses.getsockname()[1]}"
        gc.disable()
        try:
            assert lifeline.why_unanswered(address) is not None
            assert [client() for client in asked] == [None]
        finally:
            gc.enable()


class Distant:
    """A client of a Kafka that is far away: it is connected once it has been asked so often."""

    def __init__(self, connects_after, code=KafkaError._TRANSPORT):
        self.connects_after, self.code, self.given = connects_after, code, []

    def poll(self, _):
        pass

    def list_topics(self, timeout):
        self.given.append(timeout)
        if len(self.given) > self.connects_after:
            return SimpleNamespace(brokers={1: "a broker"})
        raise KafkaException(KafkaError(self.code))


def test_a_new_client_is_given_the_time_that_it_takes_to_connect(monkeypatch):
    client = Distant(connects_after=3)
    monkeypatch.setattr(lifeline, "admin", lambda *_: client)
    assert lifeline.why_unanswered("far:1", 60.0) is None
    assert client.given == [ANSWER_S] * 4


def test_one_that_is_connected_is_given_all_the_time_for_its_answer(monkeypatch):
    client = Distant(connects_after=1, code=KafkaError._TIMED_OUT)
    monkeypatch.setattr(lifeline, "admin", lambda *_: client)
    assert lifeline.why_unanswered("far:1", 60.0) is None
    assert client.given[0] == ANSWER_S < 30 < client.given[1]


def test_one_that_is_not_answered_is_given_up_in_time_or_once_it_is_called_off(monkeypatch):
    for timeout_s, is_called_off in ((0.0, lambda: False), (3_600.0, lambda: True)):
        client = Distant(connects_after=9)
        monkeypatch.setattr(lifeline, "admin", lambda *_, client=client: client)
        assert lifeline.why_unanswered("127.0.0.1:1", timeout_s, is_called_off) is not None
        assert len(client.given) == 1


def test_a_relay_gives_kafka_several_seconds_to_answer_at_first_and_a_standby_asks_now_and_then(monkeypatch):
    asked = []
    monkeypatch.setattr(kafka_asked, "why_unanswered", lambda *about: asked.append(about))
    one = kafka_asked.KafkaAsked("far:1", "called off")
    for is_standby in (False, True, True):
        one.ask(is_standby=is_standby)
    assert asked == [("far:1", kafka_asked.ANSWER_S, "called off")]
    assert kafka_asked.ANSWER_S > 5 * ANSWER_S
