"""A client for questions is shared by all who ask with one identity, and is never freed by a thread of its own."""

import gc

import pytest

from broker import clients
from broker.clients import shared_admin


class Fake:
    """A client that counts those that are there."""

    there = 0

    def __init__(self, properties: dict[str, object], **_: object) -> None:
        self.properties = properties
        Fake.there += 1

    def __del__(self) -> None:
        Fake.there -= 1


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(clients, "AdminClient", Fake)
    monkeypatch.setattr(clients, "_shared", type(clients._shared)())
    identity: dict[str, object] = {}
    monkeypatch.setattr(clients.security, "properties", lambda _: dict(identity))
    Fake.there = 0
    return identity


def test_it_is_the_same_for_all_and_stays_when_nobody_has_it(fake):
    one = shared_admin("kafka:9092")
    assert shared_admin("kafka:9092") is one
    assert shared_admin("other:9092") is not one
    del one
    gc.collect()
    assert Fake.there == 2


def test_another_password_makes_another_client(fake):
    fake["sasl.password"] = "one"
    one = shared_admin("kafka:9092")
    fake["sasl.password"] = "two"
    two = shared_admin("kafka:9092")
    assert (two is one, two.properties["sasl.password"]) == (False, "two")


def test_there_are_never_many(fake):
    for number in range(3 * clients._SHARED_MAX):
        shared_admin(f"kafka-{number}:9092")
    gc.collect()
    assert Fake.there == clients._SHARED_MAX
