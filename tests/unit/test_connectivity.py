"""The rule by which a client is taken for one that will never find Kafka again."""

import gc
import socket
import weakref

from confluent_kafka import KafkaError

from broker import clients, lifeline
from broker.lifeline import ANSWERS_TO_OTHERS, ASK_EVERY_S, Lifeline

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
