"""Ports for the parts: free ones of 127.0.0.1, the same as last time where possible."""

import random
import socket

from stack.errors import StackError

HOST = "127.0.0.1"

# Below the ephemeral ports of Linux and macOS, so that no outgoing connection takes the port of a broker or
# database while that is being restarted.
PORTS = range(15_000, 32_000)
TRIES_MAX = 200


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

    Raises:
        StackError: none was found.
    """
    taken = set() if taken is None else taken
    tries = [preferred] if preferred is not None else []
    tries += random.sample(PORTS, TRIES_MAX)
    for port in tries:
        if port not in taken and is_free(port):
            taken.add(port)
            return port
    raise StackError(f"no free port found on {HOST} between {PORTS.start} and {PORTS.stop}")


def accepts(port: int, timeout_s: float = 0.5) -> bool:
    """Whether somebody accepts connections on a port of 127.0.0.1."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s):
            return True
    except OSError:
        return False
