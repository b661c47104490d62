"""What is said of a broker is proved by what it answers: one that is slow, starts or stops is not misjudged."""

import socket
import struct
import threading
from contextlib import closing, contextmanager

import pytest
from confluent_kafka import KafkaError

from broker.troubles import about_identity, unexplained
from tests.conftest import wait_until
from tests.unit.mock_kafka import mock_cluster

PROTOCOL = "SETTLE_KAFKA_SECURITY_PROTOCOL"
AWAY = KafkaError(KafkaError._ALL_BROKERS_DOWN)
NO_HANDSHAKE = KafkaError(KafkaError._SSL)


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    monkeypatch.setenv(PROTOCOL, "SASL_SSL")
    monkeypatch.setenv("SETTLE_KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
    monkeypatch.setenv("SETTLE_KAFKA_SASL_USERNAME", "saga")
    monkeypatch.setenv("SETTLE_KAFKA_SASL_PASSWORD", "hunter2")


@contextmanager
def server(then):
    """Somebody who takes connections and does something with each."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                    with connection:
                        then(connection)
                except ConnectionError:
                    continue
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)  # which ends accept()


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang_up(connection):
    connection.recv(1)


def of_http(connection):
    connection.recv(1)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    while connection.recv(4_096):
        pass


@pytest.mark.parametrize("error", [AWAY, NO_HANDSHAKE])
def test_a_broker_that_is_silent_may_be_slow(error):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:  # the kernel takes connections, nobody else
        assert about_identity(error, f"127.0.0.1:{listener.getsockname()[1]}") is None


@pytest.mark.parametrize("error", [AWAY, NO_HANDSHAKE])
@pytest.mark.parametrize("then", [reset, hang_up])
def test_a_broker_that_hangs_up_may_start_or_stop(error, then):
    with server(then) as address:
        assert about_identity(error, address) is None


@pytest.mark.parametrize("error", [AWAY, NO_HANDSHAKE])
def test_a_broker_that_answers_in_plain_text_speaks_no_tls(error):
    with mock_cluster("group") as cluster:
        line = wait_until(lambda: about_identity(error, cluster.bootstrap), "it answers in time")
    assert line == f"Kafka speaks no TLS on this port; look at {PROTOCOL}, which is SASL_SSL"


def test_what_answers_a_handshake_with_something_else_speaks_no_tls_either():
    with server(of_http) as address:
        line = wait_until(lambda: about_identity(NO_HANDSHAKE, address), "it answers in time")
    assert line.startswith(f"Kafka speaks another kind of TLS on this port, or none; look at {PROTOCOL}: ")


@pytest.mark.parametrize(
    ("protocol", "hint"), [("SASL_SSL", ""), ("SSL", f"; if Kafka runs, look at {PROTOCOL}, which is SSL")]
)
def test_only_who_has_no_user_is_told_that_one_may_be_wanted(monkeypatch, protocol, hint):
    monkeypatch.setenv(PROTOCOL, protocol)
    if protocol == "SSL":
        for name in ("MECHANISM", "USERNAME", "PASSWORD"):
            monkeypatch.delenv(f"SETTLE_KAFKA_SASL_{name}")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        line = unexplained(f"127.0.0.1:{listener.getsockname()[1]}")
    assert line == f"somebody listens there and does not answer{hint}"
