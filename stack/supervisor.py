"""The supervisor: one thread that starts the parts in order, keeps them running, and stops them in order."""

import atexit
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from broker.security import assume
from contracts.rights import OPERATOR
from contracts.services import API, DATABASES, READ_BY
from stack import ports
from stack import state as stack_json
from stack.assembly import FIRST, Options, assemble
from stack.errors import ChildFailed, StackError
from stack.jars import kafka_jars, postgres_with_tls
from stack.lock import FolderLock
from stack.names import SERVERS
from stack.notes import unfailing
from stack.part import PartStatus, Preparation
from stack.postgres import Clusters
from stack.process import Child, Home
from stack.provision import make_secrets, migrate, provide
from stack.service import Command, Service, settle_run
from stack.supervised import Supervised

SERVICES = ("relay", *READ_BY)
"""What a withdrawal passes, whoever asks for it."""

WITH_API = (*SERVICES, API)
TICK_S = 0.2
START_POLL_S = 0.05
HURRY_WAIT_S = 3.0
PREPARE_TIMEOUT_S = 60.0


class _Interrupted(StackError):  # noqa: N818
    """The start was aborted because the stack is to stop."""


def to_stderr(line: str) -> None:
    """Print a line for a person on standard error."""
    print(line, file=sys.stderr, flush=True)


class Stack:
    """Kafka, PostgreSQL and our services on one data folder, from ``start`` to ``stop``; a context manager.

    One thread of its own does everything and is the only one that forks (see :mod:`stack.process`), so methods may
    be called from any thread. If this process dies, its children are ended.

    Args:
        data: the data folder; created if missing. A stack continues on the data that an earlier one left in it.
        services: which of our services to run; none for only Kafka and PostgreSQL with topics and schemas.
        databases: which databases to have, each on a server of its own; those that the services need, at least.
        environment: further variables for the services.
        postgres_settings: of postgresql.conf, over :data:`stack.postgres.SETTINGS`.
        java_options: of the broker's Java, over :data:`stack.kafka.JVM_FLAGS`.
        partitions: of each topic that is created.
        command: how a service is run.
        secure: TLS everywhere, a Kafka user for each service, and ACLs; a data folder that was secured stays so.
        note: called with a line that a person may want to read, of a restart for example; it may raise anything.
    """

    def __init__(
        self,
        data: Path,
        *,
        services: Sequence[str] = WITH_API,
        databases: Sequence[str] = DATABASES,
        environment: Mapping[str, str] | None = None,
        postgres_settings: Mapping[str, str] | None = None,
        java_options: Sequence[str] = (),
        partitions: int = 4,
        command: Command = settle_run,
        secure: bool = False,
        note: Callable[[str], None] = to_stderr,
    ):
        self.data = data.expanduser().resolve()
        self._services = tuple(services)
        self._options = Options(
            self._services,
            tuple(databases),
            dict(environment or {}),
            dict(postgres_settings or {}),
            tuple(java_options),
            partitions,
            command,
            secure or stack_json.was_secured(self.data),
        )
        self._note = unfailing(note)
        self._lock: FolderLock | None = None
        self._ports: set[int] = set()
        self._thread: threading.Thread | None = None
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._supervised: dict[str, Supervised] = {}
        self._supervising = False
        self._stopping = threading.Event()
        self._hurried = False
        self._changed = threading.Condition()
        self._statuses: tuple[PartStatus, ...] = ()
        self._state: stack_json.State | None = None
        self._admin_bootstrap: str | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def state(self) -> stack_json.State:
        """Addresses and process IDs, as in ``stack.json``."""
        if self._state is None:
            raise StackError("the stack has not been started")
        return self._state

    @property
    def admin_bootstrap(self) -> str:
        """Kafka's address for whoever may do everything, which this process is there."""
        if self._admin_bootstrap is None:
            raise StackError("the stack has not been started")
        return self._admin_bootstrap

    def environment(self, user: str = OPERATOR) -> dict[str, str]:
        """The environment variables with which a program connects to this stack.

        Args:
            user: who it is for Kafka, where that is secured: the operator, or a service.
        """
        return stack_json.environment(self.state, user=user)

    def statuses(self) -> tuple[PartStatus, ...]:
        """The status of each part, in the order of their start."""
        return self._statuses

    def start(self) -> None:
        """Start everything; returns when every part is ready.

        Raises:
            AlreadyRunning: another process runs a stack on this folder.
            StackError: something could not be started; nothing is left running.
        """
        jars = kafka_jars(self._note)
        if self._options.secure:
            postgres_with_tls(self._note)
        self._lock = FolderLock(self.data, self._note)
        if self._options.secure:
            self.data.chmod(0o700)  # else other users of this machine could read what they may not ask for
        self._stopping.clear()
        self._hurried = False
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="stack", daemon=True)
        self._thread.start()
        # atexit handlers run while daemon threads still live, so a script that forgets to stop still ends cleanly.
        atexit.register(self.stop)
        try:
            self._do(lambda: self._start(jars))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything in order; returns when no process is left. Each Ctrl-C meanwhile hurries it."""
        if self._thread is None:
            return
        self._stopping.set()
        stopped: Future[None] = Future()
        # If an earlier call was interrupted there are two of these jobs; the first one ends the thread.
        self._jobs.put((self._stop, stopped))
        interrupted = False
        while self._thread.is_alive():
            try:
                self._thread.join()
            except KeyboardInterrupt:
                interrupted = True
                self.hurry()
        self._thread = None
        atexit.unregister(self.stop)
        if self._lock is not None:
            self._lock.close()
        ports.give_back(self._ports)
        if stopped.done():
            stopped.result()
        if interrupted:
            raise KeyboardInterrupt

    def hurry(self) -> None:
        """Shorten the wait of a stop to a brief grace, then kill; a signal handler may call it."""
        self._hurried = True

    def kill(self, name: str) -> None:
        """SIGKILL a part, as a crash would; returns when it is dead. It is started again after its pause."""
        self._do(self._part(name).kill)

    def stop_service(self, *names: str) -> None:
        """Stop parts in order, several at once, and leave them stopped."""
        self._do(lambda: self._end([self._part(name) for name in names]))

    def start_service(self, name: str) -> None:
        """Start a part that was stopped, without waiting for it to be ready."""
        supervised = self._part(name)
        self._do(lambda: supervised.launch() if supervised.child is None else None)

    def start_second(self, name: str) -> str:
        """Start another instance of a service beside the first, as ``<name>-2``, which is its name as a part.

        It is supervised like any part until :meth:`stop_service`, with the configuration of the first.
        """
        second = f"{name}-2"

        def job() -> None:
            if second not in self._supervised:
                part = self._part(name).part
                if not isinstance(part, Service):
                    raise StackError(f"there is only one {name}")
                self._supervised[second] = Supervised(part.twin(second), self._note)
            if self._supervised[second].child is None:
                self._supervised[second].launch()

        self._do(job)
        return second

    def pid(self, name: str) -> int:
        """The process ID of a part that runs."""
        if (pid := self._status(name).pid) is None:
            raise StackError(f"{name} is not running")
        return pid

    def wait_ready(self, name: str, timeout: float = 60.0) -> None:
        """Wait until a part is ready.

        Raises:
            ChildFailed: not within ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._status(name).state == "ready", timeout):
                status = self._status(name)
                why = f" ({status.waits_for})" if status.waits_for else ""
                raise ChildFailed(f"{name} was not ready within {timeout:g} s: it is {status.state}{why}")

    def wait_changed(self, known: tuple[PartStatus, ...], timeout: float) -> tuple[PartStatus, ...]:
        """Wait until statuses differ from those known, or for ``timeout`` seconds; returns the current ones."""
        with self._changed:
            self._changed.wait_for(lambda: self._statuses != known, timeout)
            return self._statuses

    def _part(self, name: str) -> Supervised:
        if name not in self._supervised:
            raise StackError(f"this stack has no part {name!r}: it has {', '.join(self._supervised)}")
        return self._supervised[name]

    def _status(self, name: str) -> PartStatus:
        self._part(name)
        return next(status for status in self._statuses if status.name == name)

    # What follows runs in the stack's own thread.

    def _do(self, job: Callable[[], Any]) -> None:
        if self._thread is None:
            raise StackError("the stack has not been started")
        done: Future[Any] = Future()
        self._jobs.put((job, done))
        done.result()

    def _run(self) -> None:
        while True:
            try:
                job, done = self._jobs.get(timeout=TICK_S)
            except queue.Empty:
                self._tick()
                continue
            try:
                result = job()
            except BaseException as error:
                self._publish()
                done.set_exception(error)
            else:
                self._publish()
                done.set_result(result)
            if job == self._stop:
                return

    def _tick(self) -> None:
        if self._supervising:
            for supervised in self._supervised.values():
                supervised.tick()
            self._publish()

    def _publish(self) -> None:
        statuses = tuple(supervised.status() for supervised in self._supervised.values())
        if statuses == self._statuses or self._state is None:
            return
        pids = {status.name: status.pid for status in statuses if status.pid is not None}
        if pids != self._state.pids:
            self._state = stack_json.State(**{**vars(self._state), "pids": pids})
            try:
                stack_json.write(self._state)
            except OSError as error:
                self._note(f"stack.json cannot be written: {error}")
        with self._changed:
            self._statuses = statuses
            self._changed.notify_all()

    def _start(self, jars: Path) -> None:
        assert self._lock is not None
        home = Home(self.data, self._lock.children_fd)
        if self._options.secure:
            make_secrets(self.data)
        parts = assemble(home, jars, self._options, self._ports)
        servers, kafka, self._state = parts.servers, parts.kafka, parts.state
        self._admin_bootstrap = kafka.admin_address
        assume(kafka.address, stack_json.environment(self._state))
        every = (*servers.values(), kafka, *parts.services)
        self._supervised = {part.name: Supervised(part, self._note) for part in every}
        server_names = [server.name for server in servers.values()]
        self._prepare({Clusters(home, self._options.databases): server_names, kafka: [kafka.name]})
        self._await_ready(server_names)
        # Kafka needs seconds to start: the schemas are migrated meanwhile.
        for name, server in servers.items():
            self._raise_if_stopping()
            server.create_database()
            migrate(name, server.dsn)
        self._await_ready([kafka.name])
        provide(kafka, self._options, self.data)
        for group in self._groups():
            for name in group:
                self._supervised[name].launch()
            self._await_ready(group)
        self._supervising = True

    def _prepare(self, group: Mapping[Preparation, Sequence[str]]) -> None:
        """Run several preparations in parallel, and launch each one's parts as soon as it is done."""
        preparing: dict[Preparation, Child | None] = {}
        try:
            for preparation in group:
                preparing[preparation] = preparation.prepare()
            deadline = time.monotonic() + PREPARE_TIMEOUT_S
            while preparing:
                self._raise_if_stopping()
                for preparation, child in list(preparing.items()):
                    if _has_prepared(child):
                        preparation.prepared()
                        for name in group[preparation]:
                            self._supervised[name].launch()
                        del preparing[preparation]
                if time.monotonic() > deadline:
                    names = " and ".join(preparation.name for preparation in preparing)
                    raise ChildFailed(f"{names} could not be prepared within {PREPARE_TIMEOUT_S:g} s")
                self._publish()
                time.sleep(START_POLL_S)
        finally:
            for child in preparing.values():
                if child is not None:
                    child.signal(signal.SIGKILL)
                    child.wait(HURRY_WAIT_S)

    def _await_ready(self, names: Sequence[str]) -> None:
        started = time.monotonic()
        waiting = [self._supervised[name] for name in names]
        while waiting:
            self._raise_if_stopping()
            for supervised in self._supervised.values():
                supervised.check()
            waiting = [supervised for supervised in waiting if supervised.status().state != "ready"]
            self._publish()
            for supervised in waiting:
                if time.monotonic() - started > (limit_s := supervised.part.start_timeout_s):
                    log = supervised.child.log if supervised.child else "its log"
                    why = supervised.status().waits_for or "it has not been asked"
                    raise ChildFailed(
                        f"{supervised.part.name} was not ready within {limit_s:g} s: {why} (see {log})"
                    )
            if waiting:
                time.sleep(START_POLL_S)

    def _raise_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise _Interrupted("the stack was stopped while it started")

    def _groups(self) -> list[list[str]]:
        """The services in the groups that start one after the other."""
        first = [name for name in self._services if name in FIRST]
        rest = [name for name in self._services if name not in FIRST]
        return [group for group in (first, rest) if group]

    def _stop(self) -> None:
        self._supervising = False
        seconds = [f"{name}-2" for name in self._services]
        for group in [seconds, *reversed(self._groups()), ["kafka"], SERVERS.values()]:
            self._end([self._supervised[name] for name in group if name in self._supervised])

    def _end(self, group: Sequence[Supervised]) -> None:
        """Stop some parts at once, wait for them, kill what does not end."""
        hurried = self._hurried
        for supervised in group:
            supervised.request_stop(hurry=hurried)
        self._publish()
        started = time.monotonic()
        waiting = [supervised for supervised in group if not supervised.gone()]
        while waiting:
            if self._hurried and not hurried:
                hurried, started = True, time.monotonic()
                for supervised in waiting:
                    supervised.request_stop(hurry=True)
            for supervised in waiting:
                limit_s = HURRY_WAIT_S if hurried else supervised.part.stop_timeout_s
                if time.monotonic() - started > limit_s:
                    supervised.force(f"did not stop within {limit_s:g} s")
            waiting = [supervised for supervised in waiting if not supervised.gone()]
            self._publish()
            if waiting:
                time.sleep(START_POLL_S)


def _has_prepared(child: Child | None) -> bool:
    if child is None or child.exit_code() == 0:
        return True
    if child.exit_code() is not None:
        raise ChildFailed(f"{child.name} failed: {child.last_log_line()} (see {child.log})")
    return False
