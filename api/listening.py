"""The listening socket of the API, and the files that a process with many connections may open."""

import asyncio
import errno
import os
import resource
import socket
import time

import structlog
from granian.net import SocketHolder  # type: ignore[attr-defined]  # its stubs leave out half of it
from granian.server.embed import Server

UNREAD_S_MAX = 20
"""How long a client may read nothing of what waits for it, or acknowledge nothing; then it is dropped."""

SEND_BUFFER_BYTES = 256 * 1024
"""Of a connection in the kernel, which else would give megabytes to each client that does not read."""

OTHER_FILES = 256
"""Beside clients' connections: those to databases, libraries, the health pages and their clients."""

FILES_MAX = 131_072
"""What the limit of open files is raised to, where it may be. Over TLS the server takes every connection at once,
also beyond those that it serves, and gives a silent one up after ten seconds."""

FILES_LOOK_S = 5.0
FULL_S = 15.0
"""How long the process may be unable to open a file. Where that happens to its listener, it takes no connection
and gives up no silent one any more, and nothing but its end helps."""

log = structlog.get_logger()


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
    if soft != resource.RLIM_INFINITY and soft < FILES_MAX:
        soft = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(soft - OTHER_FILES, 1))


async def end_when_full() -> None:
    """End the process once it can open no file for :data:`FULL_S`: whoever supervises it starts another."""
    full_since: float | None = None
    while True:
        await asyncio.sleep(FILES_LOOK_S)
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
            full_since = None
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            full_since = full_since or time.monotonic()
            if time.monotonic() - full_since >= FULL_S:
                log.critical("no file can be opened any more, ending: too many connections?", error=str(error))
                os._exit(1)
