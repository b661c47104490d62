"""One of our own services in the stack: run as ``settle run <name>``, ready when ``/readyz`` says so."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException

from contracts import failpoints
from stack.part import Part
from stack.ports import HOST, choose
from stack.process import Child, Home, start

PROBE_TIMEOUT_S = 0.5
ANSWER_BYTES_MAX = 1_000

LISTEN = "SETTLE_API_LISTEN"
"""Where a service takes requests, beside its health pages: ``host:port``."""

Command = Callable[[str], Sequence[str]]
"""From a service's name to the command that runs it."""


def settle_run(name: str) -> list[str]:
    """``settle run <name>`` with this interpreter; ``-P``: modules in the current folder are not imported."""
    return [sys.executable, "-P", "-m", "cli", "run", name]


class Service(Part):
    """The relay or a processor.

    Args:
        port: its ``SETTLE_HTTP_PORT``.
        environment: its configuration, as variables.
        address: where it listens for people, if not there.
    """

    start_timeout_s = 60.0
    stop_timeout_s = 20.0
    stop_signal = signal.SIGTERM
    hurry_signal = signal.SIGKILL

    def __init__(
        self,
        home: Home,
        name: str,
        port: int,
        environment: Mapping[str, str],
        command: Command,
        address: str | None = None,
    ):
        self.name = name
        self.address = address or f"http://{HOST}:{port}"
        self._home = home
        self._port = port
        # Variables that the user's shell exports for other purposes must not point a service to another stack.
        own = {"SETTLE_RELAY_SOURCES": "", "SETTLE_HTTP_HOST": HOST, "SETTLE_HTTP_PORT": str(port)}
        self._environment = {**environment, **own}
        self._command = command

    def twin(self, name: str) -> "Service":
        """Another instance of the same service, on a port of its own."""
        environment, address = dict(self._environment), None
        if LISTEN in environment:
            environment[LISTEN] = f"{HOST}:{choose()}"
            address = f"{self.address.partition('://')[0]}://{environment[LISTEN]}"
        return Service(self._home, name, choose(), environment, lambda _: self._command(self.name), address)

    def launch(self) -> Child:
        """Start the service; a failpoint of the environment holds for the first start only."""
        child = start(self._home, self.name, self._command(self.name), environment=self._environment)
        self._environment[failpoints.VARIABLE] = ""
        return child

    def waits_for(self) -> str | None:
        """None if ``GET /readyz`` is answered with 200; otherwise what it answers."""
        connection = HTTPConnection(HOST, self._port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            if answer.status == 200:
                return None
            return "; ".join(answer.read(ANSWER_BYTES_MAX).decode(errors="replace").splitlines())
        except (OSError, HTTPException) as error:
            return f"/readyz is not answered: {error}"
        finally:
            connection.close()
