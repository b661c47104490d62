"""A part of an approach in a process of its own, which can be killed: ``python -m lab.comparison.process``.

The first line of standard input is the job, as JSON. A worker runs until its standard input ends, so it never
outlives the process that started it, however that ended.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any, Self

from contracts import failpoints
from contracts.events import WithdrawalRequested, decode, encode

READY = "ready"
STOP_S = 60.0


class DiedAtStartError(Exception):
    """A worker ended before it was ready."""


class Process:
    """A process that was started and is ended by this one.

    Args:
        job: its job, as JSON.
        failpoint: the failpoint at which it is to die.
        silent: whether its output is discarded.
    """

    def __init__(self, job: Mapping[str, Any], failpoint: str | None = None, *, silent: bool = False) -> None:
        environment = {name: value for name, value in os.environ.items() if name != failpoints.VARIABLE}
        if failpoint is not None:
            environment[failpoints.VARIABLE] = failpoint
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lab.comparison.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if silent or failpoint else None,
            env=environment,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self) -> None:
        """Wait until a worker works.

        Raises:
            DiedAtStartError: it ended instead.
        """
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != READY:
            raise DiedAtStartError(f"a worker ended at its start, exit code {self._process.wait(STOP_S)}")

    def wait_dead(self, timeout_s: float = STOP_S) -> int:
        """Wait until it has ended; its exit code, negative for a signal."""
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._close()

    def stop(self) -> None:
        """Tell it to end, and wait until it has."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._close()

    def _close(self) -> None:
        self._process.wait(STOP_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def death_job(
    approach: str, addresses: Mapping[str, str], deaths: Mapping[str, WithdrawalRequested]
) -> dict[str, Any]:
    """Withdrawals, each by a process of its own that dies at a failpoint of it."""
    requests = {point: encode(request).decode() for point, request in deaths.items()}
    return {"client": approach, "addresses": dict(addresses), "deaths": requests}


def worker_job(worker: str, addresses: Mapping[str, str]) -> dict[str, Any]:
    """A worker, until it is stopped."""
    return {"worker": worker, "addresses": dict(addresses)}


def main() -> None:
    """Do the job of the first line."""
    from lab.comparison import parts

    failpoints.arm_from_environment()
    job = json.loads(sys.stdin.readline())
    if "client" in job:
        sys.exit(_die(job))
    stop = threading.Event()
    run = parts.worker(job["worker"], job["addresses"])
    thread = threading.Thread(target=run, args=(stop,))
    thread.start()
    print(READY, flush=True)
    sys.stdin.read()
    stop.set()
    thread.join()


def _die(job: Mapping[str, Any]) -> int:
    """A child for each death; 0 if all died where they should. Forked: Python has been started once already."""
    from lab.comparison import parts

    make = parts.maker(job["client"])
    children = []
    for point, body in job["deaths"].items():
        child = os.fork()
        if child == 0:
            failpoints.arm(point)
            request = decode("WithdrawalRequested", body.encode())
            assert isinstance(request, WithdrawalRequested)
            make(job["addresses"]).withdraw(request)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return int(any(code != failpoints.EXIT_CODE for code in codes))


if __name__ == "__main__":
    main()
