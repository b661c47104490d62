"""Child processes that do not outlive the supervisor: each has a parent-death signal and a session of its own.

On Linux every child is started through ``setpriv --pdeathsig``: should this process die, even by SIGKILL, the
kernel sends the child its stop signal. The signal fires when the *thread* that forked the child ends, so children
are started by one thread that lives as long as they may. Where there is no ``setpriv`` (macOS) children start
directly and survive a SIGKILL of their parent; the next ``settle up`` on the same data ends them before it begins
(see :mod:`stack.lock`).

PostgreSQL refuses to run as root. As root, it runs as the user ``nobody`` with one capability, ``dac_override``,
without which a virtual environment or data folder below ``/root`` (mode 0700) is not accessible.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError

LOG_BYTES_MAX = 20_000_000
"""A log larger than this is rotated to ``.1`` when its child starts."""

LOG_BYTES_SEARCHED = 64_000
"""How far from the end of a log the line is looked for that says why its child ended."""

# What Java and PostgreSQL write behind the line that says what is wrong.
_BESIDE = re.compile(
    r"at [\w$./<>@-]+\(|\.\.\. \d+ more|WARNING: |.* LOG:  database system is shut down$"
    r"|.* FATAL:  could not create any TCP/IP sockets$"
    r"|.* (WARNING:  could not create listen socket|HINT:  |DETAIL:  )"
)

UNPRIVILEGED_USER = "nobody"


@dataclass(frozen=True)
class Home:
    """The folder and lock that the children of one stack share.

    Attributes:
        data: the data folder; logs go to ``logs/`` in it.
        lock_fd: file descriptor that every child inherits and so keeps locked while it lives.
    """

    data: Path
    lock_fd: int

    def log(self, name: str) -> Path:
        """The log file of a child."""
        return self.data / "logs" / f"{name}.log"


class Child:
    """A started process."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path, log_start: int):
        self.name = name
        self.log = log
        self.pid = process.pid
        self._process = process
        self._log_start = log_start

    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; no effect if it has ended."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within the time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_log_line(self) -> str:
        """The last line of its log since its start, for an error message: the error where more follows it."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, self.log.stat().st_size - LOG_BYTES_SEARCHED))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
        said = [line for line in lines if line]
        return ([line for line in said if not _BESIDE.match(line)] or said or ["it logged nothing"])[-1][:300]

    def ending(self) -> str:
        """How it ended, in words: ``exit code 1`` or ``SIGKILL``."""
        code = self.exit_code()
        if code is None:
            return "still running"
        if code >= 0:
            return f"exit code {code}"
        # Not all signals have a name.
        return signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"


def start(
    home: Home,
    name: str,
    command: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGTERM,
    environment: Mapping[str, str] | None = None,
    unprivileged: bool = False,
) -> Child:
    """Start a child that logs to ``<data>/logs/<name>.log`` and is ended when this thread ends.

    Args:
        death_signal: the signal that it receives when this process dies.
        environment: added to that of this process.
        unprivileged: run it as the user nobody if this process is root.

    Raises:
        StackError: the program is missing or may not be run.
    """
    log = home.log(name)
    _set_aside(log)
    wrapped = [*_wrapper(death_signal, drop=unprivileged and is_root()), *command]
    with log.open("ab") as output:
        log_start = output.tell()
        try:
            process = subprocess.Popen(  # noqa: S603 commands of ours, and no shell
                wrapped,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for the supervisor, which then stops its children in order.
                start_new_session=True,
                env={**os.environ, **(environment or {})},
                pass_fds=(home.lock_fd,),
            )
        except OSError as error:
            raise StackError(f"{name} cannot be started: {error}") from None
    return Child(name, process, log, log_start)


def is_root() -> bool:
    """Whether this process runs as root."""
    return os.geteuid() == 0


def chown_to_unprivileged(folder: Path) -> None:
    """Make the user of unprivileged children the owner of a folder and of its contents."""
    if is_root():
        user = pwd.getpwnam(UNPRIVILEGED_USER)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)


def _wrapper(death_signal: signal.Signals, *, drop: bool) -> list[str]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if drop:
            raise StackError("PostgreSQL refuses to run as root: install setpriv (util-linux) or use another user")
        return []
    command = [setpriv, "--pdeathsig", death_signal.name.removeprefix("SIG")]
    if drop:
        user = pwd.getpwnam(UNPRIVILEGED_USER)
        command += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        command += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        # Otherwise access(2), by which initdb looks for its sibling programs, ignores the capability.
        command += ["--securebits=+no_setuid_fixup"]
    return [*command, "--"]


def _set_aside(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_suffix(".log.1"))
