"""How many connections the API may have, by the limit of open files, which it raises as far as it may."""

import resource
import socket

import pytest

from api import listening
from api.listening import FILES_MAX, OTHER_FILES, SEND_BUFFER_BYTES, UNREAD_S_MAX, Listening, connections_possible

NONE = resource.RLIM_INFINITY
WANTED = 4_096


@pytest.mark.parametrize(
    ("soft", "hard", "raised_to", "connections"),
    [
        (1_024, 1_048_576, FILES_MAX, WANTED),
        (1_024, NONE, FILES_MAX, WANTED),
        (1_024, 4_096, 4_096, 4_096 - OTHER_FILES),
        (1_024, 1_024, 1_024, 1_024 - OTHER_FILES),
        (1_024, WANTED + OTHER_FILES, WANTED + OTHER_FILES, WANTED),
        (20_000, 1_048_576, FILES_MAX, WANTED),
        (FILES_MAX, 1_048_576, None, WANTED),  # enough is left as it is
        (NONE, NONE, None, WANTED),
        (100, 100, 100, 1),
    ],
)
def test_the_limit_is_raised_and_what_is_left_of_it_is_for_connections(
    monkeypatch, soft, hard, raised_to, connections
):
    found = []
    monkeypatch.setattr(listening.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(listening.resource, "setrlimit", lambda _, limits: found.append(limits))

    assert connections_possible(WANTED) == connections
    assert found == ([(raised_to, hard)] if raised_to is not None else [])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_inherit_what_bounds_a_client_that_does_not_read(host):
    server = Listening(None, address=host, port=0)
    server._init_shared_socket()
    with socket.socket(fileno=server._shd.get_fd()) as ours:
        ours.listen()
        with socket.create_connection(ours.getsockname()[:2]), ours.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNREAD_S_MAX * 1_000
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER_BYTES
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
