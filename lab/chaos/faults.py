"""The faults, injected into a stack by signals to its processes, and the watchdog that restarts what died."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import httpx
import psutil
from confluent_kafka import KafkaException, Message

from broker.clients import idempotent_producer
from broker.scan import scan
from lab.chaos.arming import Arming
from lab.chaos.operators import PRODUCER
from lab.chaos.plan import FAILPOINT, FREEZE, KILL, REPEAT, ROLL, STOP, Fault
from stack.errors import StackError
from stack.supervisor import Stack

REPEAT_RECORDS = 500
READY_S = 60.0
WATCH_S = 0.2
POLL_S = 0.05
THAW_GRACE_S = 2.0


class Watchdog:
    """Restarts at once whatever died, where the supervisor would pause longer with each death.

    Attributes:
        deaths: part and time (seconds since the epoch) of each death that was noticed.
    """

    def __init__(self, stack: Stack) -> None:
        self.deaths: list[tuple[str, float]] = []
        self._stack = stack
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        known = self._stack.statuses()
        while not self._done.is_set():
            for status in known:
                if status.state == "restarting":
                    self.deaths.append((status.name, time.time()))
                    with contextlib.suppress(StackError):
                        self._stack.start_service(status.name)
            known = self._stack.wait_changed(known, WATCH_S)


class Faults:
    """Injects the faults of a plan.

    Args:
        stack: whose parts are hit.
        arming: its command, which arms failpoints.
        others: handlers of faults of other kinds.
    """

    def __init__(
        self, stack: Stack, arming: Arming, others: Mapping[str, Callable[[Fault], None]] | None = None
    ) -> None:
        self._stack = stack
        self._arming = arming
        self._do: dict[str, Callable[[Fault], None]] = {
            KILL: self._kill,
            STOP: self._stop,
            FREEZE: self._freeze,
            FAILPOINT: self._die_at,
            REPEAT: self._repeat,
            ROLL: self._roll,
            **(others or {}),
        }

    def apply(self, fault: Fault) -> None:
        """Inject it; returns when that is done, not when the system has recovered."""
        self._do[fault.kind](fault)

    def _kill(self, fault: Fault) -> None:
        # It may just have died at a failpoint.
        with contextlib.suppress(StackError):
            self._stack.kill(fault.part)

    def _stop(self, fault: Fault) -> None:
        self._stack.stop_service(fault.part)
        self._stack.start_service(fault.part)

    def _die_at(self, fault: Fault) -> None:
        assert fault.failpoint is not None
        self._arming.arm(fault.part, fault.failpoint)
        self._kill(fault)

    def _freeze(self, fault: Fault) -> None:
        try:
            first = psutil.Process(self._stack.pid(fault.part))
            frozen = [first, *first.children(recursive=True)]
        except (StackError, psutil.Error):
            return
        # If this process is killed meanwhile, the child thaws them: a frozen process cannot receive its stop
        # signal.
        pids = " ".join(str(process.pid) for process in frozen)
        thaw = f"sleep {fault.for_s + THAW_GRACE_S}; kill -CONT {pids} 2>/dev/null"
        helper = subprocess.Popen(["sh", "-c", thaw], start_new_session=True)
        try:
            _send(frozen, signal.SIGSTOP)
            time.sleep(fault.for_s)
        finally:
            _send(frozen, signal.SIGCONT)
            os.killpg(helper.pid, signal.SIGKILL)
            helper.wait()

    def _repeat(self, fault: Fault) -> None:
        """Republish the newest records of a topic, as a relay that died before it confirmed them does."""
        bootstrap = self._stack.admin_bootstrap
        newest = self._newest(bootstrap, fault.part)
        producer = idempotent_producer(bootstrap, PRODUCER)
        for message in newest:
            producer.produce(
                fault.part,
                message.value(),
                message.key(),
                partition=message.partition() or 0,
                headers=list(message.headers() or []),  # type: ignore[arg-type]
            )
        producer.flush(READY_S)

    def _newest(self, bootstrap: str, topic: str) -> deque[Message]:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                return deque(scan(bootstrap, [topic]), maxlen=REPEAT_RECORDS)
            except KafkaException:  # an earlier fault's work; it may not be back yet
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def _roll(self, fault: Fault) -> None:
        """Restart a service while another instance of it works."""
        second = self._stack.start_second(fault.part)
        self._wait_up(second)
        self._stack.stop_service(fault.part)
        self._stack.start_service(fault.part)
        self._wait_up(fault.part)
        self._stack.stop_service(second)

    def _wait_up(self, part: str) -> None:
        deadline = time.monotonic() + READY_S
        while not self._is_up(part):
            if time.monotonic() > deadline:
                raise StackError(f"{part} was not up within {READY_S:g} s")
            time.sleep(POLL_S)

    def _is_up(self, part: str) -> bool:
        """Whether it can take over: it works, or (a relay) stands by and answers."""
        (status,) = (status for status in self._stack.statuses() if status.name == part)
        if not part.startswith("relay"):
            return status.state == "ready"
        try:
            return httpx.get(f"{status.address}/healthz", timeout=1, trust_env=False).is_success
        except httpx.HTTPError:
            return False


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
