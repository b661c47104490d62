"""Ports for the parts: free ones of 127.0.0.1, the same as last time where possible."""

import random
import socket
import sys

from stack.errors import StackError

HOST = "127.0.0.1"

# Below the ephemeral ports of Linux and macOS, so that no outgoing connection takes the port of a broker or
# database while that is being restarted.
PORTS = range(15_000, 32_000)
TRIES_MAX = 200

# Of this process, until it ends or gives them back. It takes seconds until its server listens; another stack
# that starts meanwhile would find the port free too.
_reserved: dict[int, socket.socket] = {}


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((HOST, port))
        except OSError:
            return False
    return True


def choose(preferred: int | None = None, *, taken: set[int] | None = None) -> int:
    """A free port: the preferred one if it still is, otherwise any; added to ``taken``.

    On Linux it stays reserved until this process ends or gives it back: no other process is given it here.

    Raises:
        StackError: none was found.
    """
    taken = set() if taken is None else taken
    tries = [preferred] if preferred is not None else []
    tries += [port for port in random.sample(PORTS, TRIES_MAX) if port not in _reserved]
    for port in tries:
        if port not in taken and is_free(port) and _reserve(port):
            taken.add(port)
            return port
    raise StackError(f"no free port found on {HOST} between {PORTS.start} and {PORTS.stop}")


def give_back(given: set[int]) -> None:
    """Let others choose these ports again, and empty the set."""
    for port in given:
        if (reservation := _reserved.pop(port, None)) is not None:
            reservation.close()
    given.clear()


def _reserve(port: int) -> bool:
    """Whether the port is this process's, by an address that one process can have, and that ends with it."""
    if port in _reserved or sys.platform != "linux":  # where there are no abstract addresses
        return True
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        reservation.bind(f"\0settle-port-{port}")
    except OSError:
        reservation.close()
        return False
    _reserved[port] = reservation
    return True


def accepts(port: int, timeout_s: float = 0.5) -> bool:
    """Whether somebody accepts connections on a port of 127.0.0.1."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s):
            return True
    except OSError:
        return False
