"""The lock on a data folder: one ``settle up`` at a time, and only once no child of an earlier one runs.

Two ``flock`` files. The supervisor holds ``supervisor.lock`` alone. ``children.lock`` is inherited by every child,
so the kernel keeps it locked until the last one has ended, however its supervisor ended.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from stack.errors import AlreadyRunning, StackError

LEFTOVERS_WAIT_S = 30.0
"""How long children of a killed supervisor may take to end by themselves."""
LEFTOVERS_KILL_WAIT_S = 5.0
ORPHANS_WAIT_S = 5.0
"""How long a child's own children may take to end after it."""
POLL_S = 0.05
LOOK_WAIT_S = 1.0
"""Who only looks whether a stack runs has the lock for a moment."""


class FolderLock:
    """An exclusive lock on a data folder; ``close`` releases it.

    Raises (on creation):
        AlreadyRunning: another supervisor holds it.
        StackError: the folder cannot be used, or children of an earlier stack do not end.
    """

    def __init__(self, data: Path, note: Callable[[str], None]):
        try:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)  # mails, messages and logs are in it
            self._supervisor_fd = _open(data / "supervisor.lock")
        except OSError as error:
            raise StackError(f"data folder {data} cannot be used: {error.strerror}") from None
        if not _lock_within(self._supervisor_fd, LOOK_WAIT_S):
            holder = os.pread(self._supervisor_fd, 20, 0).decode().strip() or "unknown"
            os.close(self._supervisor_fd)
            raise AlreadyRunning(f"a stack is already running on {data} (process {holder})")
        os.ftruncate(self._supervisor_fd, 0)
        os.pwrite(self._supervisor_fd, f"{os.getpid()}\n".encode(), 0)
        self._children = data / "children.lock"
        self.children_fd = _open(self._children)
        try:
            _wait_for_leftovers(self._children, self.children_fd, note)
        except BaseException:
            os.close(self.children_fd)
            os.close(self._supervisor_fd)
            raise

    def close(self) -> None:
        """Release the lock once every process has ended: a killed child may have children that are still ending.

        Raises:
            StackError: some do not end, even after SIGKILL.
        """
        os.close(self.children_fd)
        try:
            # The folder may be gone.
            with contextlib.suppress(FileNotFoundError), open(self._children) as children:
                _end_leftovers(self._children, children.fileno(), ORPHANS_WAIT_S)
        finally:
            os.close(self._supervisor_fd)


def is_held(data: Path) -> bool:
    """Whether a supervisor runs a stack in a data folder."""
    try:
        descriptor = os.open(data / "supervisor.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)  # who looks is in nobody's way who looks, too
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _wait_for_leftovers(path: Path, descriptor: int, note: Callable[[str], None]) -> None:
    if _try_lock(descriptor):
        return
    note("waiting for what an earlier, killed `settle up` left running to end")
    # Without a parent-death signal they have not received a signal yet.
    for process in holders(path):
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _end_leftovers(path, descriptor, LEFTOVERS_WAIT_S)


def _end_leftovers(path: Path, descriptor: int, wait_s: float) -> None:
    if _lock_within(descriptor, wait_s):
        return
    for process in holders(path):
        with contextlib.suppress(psutil.Error):
            process.kill()
    if not _lock_within(descriptor, LEFTOVERS_KILL_WAIT_S):
        pids = ", ".join(str(process.pid) for process in holders(path)) or "unknown"
        raise StackError(f"processes of a stack on {path.parent} do not end: {pids}; end them and try again")


def _lock_within(descriptor: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def holders(path: Path) -> list[psutil.Process]:
    """The processes, other than this one, that have a file open."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(file.path == str(path) for file in process.open_files()):
                found.append(process)
    return found
