"""Credentials that change on disk: taken up once, when they can be used, and not before."""

import pytest

from broker import rotation, security
from broker.rotation import Rotation

KAFKA = "127.0.0.1:9"


class World:
    """The time, which the test moves, and the file of a Kafka's properties."""

    def __init__(self, folder):
        self.file = folder / "client.properties"
        self.now_s = 1_000.0
        self.told = []
        self.write("client.rack=a")
        security.assume(KAFKA, {"SETTLE_KAFKA_CONFIG": str(self.file)})
        self.rotation = Rotation(KAFKA, self.told.append, lambda: self.now_s)

    def write(self, text):
        self.file.write_text(f"{text}\n")

    def is_due(self):
        self.now_s += rotation.LOOK_EVERY_S
        return self.rotation.is_due()


@pytest.fixture
def world(tmp_path):
    yield World(tmp_path)
    security.assume(KAFKA, None)


def test_what_stays_is_not_due(world):
    world.write("client.rack=a")
    assert not any(world.is_due() for _ in range(3))


def test_a_change_is_due_once(world):
    world.write("client.rack=b")
    assert [world.is_due() for _ in range(3)] == [True, False, False]


def test_files_are_looked_at_now_and_then_only(world):
    assert not world.is_due()
    world.write("client.rack=b")
    assert not world.rotation.is_due()
    assert world.is_due()


def test_what_cannot_be_used_is_told_once_and_taken_when_it_can(world):
    world.write("client.rack=b\nno.such=1")
    assert not any(world.is_due() for _ in range(3))
    (line,) = world.told
    assert line.startswith(
        "the Kafka identity has changed and cannot be used, the one before stays: SETTLE_KAFKA_CON"
    )
    world.write("client.rack=b")
    assert world.is_due()


def test_what_comes_back_as_it_was_is_no_change(world):
    world.write("nonsense")
    assert not world.is_due()
    world.write("client.rack=a")
    assert not world.is_due()


def test_a_file_that_is_gone_is_told(world):
    world.file.unlink()
    assert not world.is_due()
    assert "No such file" in world.told[0]


def test_a_password_file_is_watched_and_told_of_while_it_is_gone_or_empty(world, tmp_path):
    password = tmp_path / "password"
    password.write_text("one\n")
    user = {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "SASL_MECHANISM": "PLAIN", "SASL_USERNAME": "saga"}
    identity = {f"SETTLE_KAFKA_{name}": value for name, value in user.items()}
    security.assume(KAFKA, identity | {"SETTLE_KAFKA_SASL_PASSWORD_FILE": str(password)})
    assert world.is_due()
    password.unlink()
    assert not world.is_due()
    password.write_text("")
    assert not world.is_due()
    assert [f"SETTLE_KAFKA_SASL_PASSWORD_FILE={password}" in line for line in world.told] == [True, True]
    password.write_text("two\n")
    assert [world.is_due() for _ in range(2)] == [True, False]
