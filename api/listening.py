"""The listening socket of the API, and the files that a process with many connections may open."""

import resource
import socket

from granian.net import SocketHolder  # type: ignore[attr-defined]  # its stubs leave out half of it
from granian.server.embed import Server

UNREAD_S_MAX = 20
"""How long a client may read nothing of what waits for it, or acknowledge nothing; then it is dropped."""

SEND_BUFFER_BYTES = 256 * 1024
"""Of a connection in the kernel, which else would give megabytes to each client that does not read."""

OTHER_FILES = 256
"""Beside clients' connections: those to databases, libraries, the health pages and their clients."""


class Listening(Server):
    """The server on a socket of ours, whose connections inherit the limits above."""

    def _init_shared_socket(self) -> None:
        family = socket.AF_INET6 if ":" in self.bind_addr else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
                ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S_MAX * 1_000)
            ours.bind((self.bind_addr, self.bind_port))
            self._shd = SocketHolder(ours.detach(), False, self.backlog)  # type: ignore[assignment, call-arg]


def connections_possible(wanted: int) -> int:
    """How many connections this process may have, up to those wanted, once its limit of open files is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(soft - OTHER_FILES, 1))
