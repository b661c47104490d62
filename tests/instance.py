"""One more instance of a service, beside those of a stack or in their place, as that service's Kafka user."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from stack.supervisor import Stack
from tests.conftest import wait_until

STOP_S = 60.0


@contextmanager
def another_instance(
    stack: Stack,
    service: str,
    changes: str = "",
    log: Path | None = None,
    *,
    may_die: bool = False,
    **variables: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, once it has partitions; afterwards it must end in good order when told to.

    Args:
        changes: Python code that runs in it first.
        log: where it writes its log.
        may_die: whether it may end in another way.
        variables: of its environment, beside those of the stack.
    """
    environment = {**os.environ, **stack.environment(service), "SETTLE_HTTP_PORT": "0", **variables}
    start = f"import sys; sys.argv[1:] = ['run', {service!r}]; import cli; cli.start()"
    with TemporaryDirectory() as folder:
        log = log or Path(folder, "log")
        with log.open("w") as lines:
            instance = subprocess.Popen(
                [sys.executable, "-c", f"{changes}\n{start}"], env=environment, stderr=lines
            )
        try:
            wait_until(lambda: has_partitions(instance, log), f"{service} has partitions")
            yield instance
        finally:
            instance.terminate()
            try:
                instance.wait(STOP_S)
            finally:
                instance.kill()
        assert may_die or instance.returncode == 0, log.read_text()


def has_partitions(instance: subprocess.Popen[bytes], log: Path) -> bool:
    assert instance.poll() is None, f"it ended: {log.read_text()}"
    return "partitions assigned" in log.read_text()
