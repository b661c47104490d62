import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from contracts.secret_files import write_secret
from stack import lock, ports
from stack import state as stack_json
from stack.errors import AlreadyRunning, ChildFailed, NotRunning
from stack.jars import _cached
from stack.kafka import Kafka, _cluster_id, _escaped, training
from stack.lock import FolderLock
from stack.process import Child, Home
from stack.state import State
from stack.supervised import HEALTHY_AFTER_S, PAUSE_MAX_S, Supervised, pause_s
from stack.supervisor import Stack


class FakeChild(Child):
    def __init__(self, ends_on: frozenset[signal.Signals]):
        self.name, self.pid, self.log = "fake", 4711, Path("fake.log")
        self.code: int | None = None
        self.signals: list[signal.Signals] = []
        self._ends_on = ends_on

    def exit_code(self) -> int | None:
        return self.code

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)
        if number in self._ends_on:
            self.code = -number

    def wait(self, timeout_s: float) -> bool:
        return self.code is not None

    def last_log_line(self) -> str:
        return "no such broker"


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            "2026 ERROR Kafka$: Exiting\norg.apache.kafka.common.config.ConfigException: PKIX path failed\n"
            + 200 * "\tat org.apache.kafka.common.Utils.lambda$x(Utils.java:1) ~[kafka.jar:?]\n"
            + "\t... 9 more\nWARNING: A method in sun.misc.Unsafe has been called\n\n",
            "org.apache.kafka.common.config.ConfigException: PKIX path failed",
        ),
        (
            '2026 UTC [7]  LOG:  could not bind IPv4 address "127.0.0.1": Address already in use\n'
            "2026 UTC [7]  HINT:  Is another postmaster already running on port 15001?\n"
            '2026 UTC [7]  WARNING:  could not create listen socket for "127.0.0.1"\n'
            "2026 UTC [7]  FATAL:  could not create any TCP/IP sockets\n"
            "2026 UTC [7]  LOG:  database system is shut down\n",
            '2026 UTC [7]  LOG:  could not bind IPv4 address "127.0.0.1": Address already in use',
        ),
        (
            "2026 UTC [7]  FATAL:  could not create shared memory segment: No space left on device\n"
            "2026 UTC [7]  LOG:  database system is shut down\n",
            "2026 UTC [7]  FATAL:  could not create shared memory segment: No space left on device",
        ),
        (
            '2026 UTC [7]  FATAL:  private key file "../secrets/postgres.key" has group or world access\n'
            "2026 UTC [7]  DETAIL:  File must have permissions u=rw (0600) or less if owned by the user.\n"
            "2026 UTC [7]  LOG:  database system is shut down\n",
            '2026 UTC [7]  FATAL:  private key file "../secrets/postgres.key" has group or world access',
        ),
        ("WARNING: Unknown module\n", "WARNING: Unknown module"),
        ("first\nat the end\n\n", "at the end"),
        ("", "it logged nothing"),
    ],
)
def test_the_line_that_says_why_a_child_ended_is_found_among_those_that_follow(tmp_path, log, said):
    file = tmp_path / "kafka.log"
    file.write_text(f"of the start before\n{log}")
    with subprocess.Popen(["true"]) as process:
        assert Child("kafka", process, file, len("of the start before\n")).last_log_line() == said


class FakePart:
    name = "fake"
    address = "127.0.0.1:1"
    start_timeout_s = stop_timeout_s = 1.0
    stop_signal = signal.SIGTERM
    hurry_signal = signal.SIGKILL

    def __init__(self) -> None:
        self.children: list[FakeChild] = []
        self.healthy = True
        self.ends_on = frozenset({signal.SIGTERM, signal.SIGKILL})

    def launch(self) -> FakeChild:
        self.children.append(FakeChild(self.ends_on))
        return self.children[-1]

    def waits_for(self) -> str | None:
        return None if self.healthy else "the broker is away"


class Bench:
    """A supervised fake part and a clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.notes: list[str] = []
        self.part = FakePart()
        self.supervised = Supervised(self.part, self.notes.append, clock=lambda: self.now_s)

    def after(self, seconds: float) -> str:
        self.now_s += seconds
        self.supervised.tick()
        return self.supervised.status().state

    def until(self, state: str, limit_s: float) -> float:
        started_s = self.now_s
        while self.after(0.1) != state:
            assert self.now_s - started_s < limit_s
        return self.now_s - started_s


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_pauses_grow_and_stay_bounded() -> None:
    assert [pause_s(deaths) for deaths in (1, 2, 3, 4, 5, 6, 1_000)] == [0.5, 1, 2, 4, 8, 10, PAUSE_MAX_S]


def test_a_dead_part_is_started_again_after_its_pause(bench: Bench) -> None:
    bench.supervised.launch()
    assert bench.after(0.1) == "ready"
    bench.part.children[-1].code = 1
    assert bench.after(0.1) == "restarting"
    assert bench.supervised.status().pid is None
    assert bench.until("ready", limit_s=2) == pytest.approx(0.6, abs=0.2)
    assert bench.supervised.status().restarts == 1
    assert bench.notes == ["fake ended (exit code 1); it starts again in 0.5 s"]


def test_a_part_that_keeps_dying_waits_longer_until_it_was_healthy_a_while(bench: Bench) -> None:
    bench.supervised.launch()
    for pause in (0.5, 1, 2):
        bench.until("ready", limit_s=5)
        bench.part.children[-1].code = 1
        assert bench.after(0.1) == "restarting"
        assert bench.notes[-1].endswith(f"again in {pause:g} s")
    bench.until("ready", limit_s=5)
    bench.after(HEALTHY_AFTER_S + 1)
    bench.part.children[-1].code = 1
    bench.after(0.1)
    assert bench.notes[-1].endswith("again in 0.5 s")


def test_a_part_that_runs_but_does_not_work_is_shown_and_left_alone(bench: Bench) -> None:
    bench.supervised.launch()
    bench.until("ready", limit_s=1)
    bench.part.healthy = False
    bench.until("waiting", limit_s=5)
    assert bench.supervised.status().waits_for == "the broker is away"
    bench.part.healthy = True
    bench.until("ready", limit_s=5)
    assert len(bench.part.children) == 1


def test_a_part_that_cannot_be_asked_or_started_is_shown_and_tried_again(bench: Bench) -> None:
    """What asks and starts is a thread with which every part would end."""

    def fails() -> NoReturn:
        raise KeyError("a bug")

    bench.supervised.launch()
    bench.part.waits_for = fails  # type: ignore[method-assign]
    assert bench.after(0) == "starting"
    assert bench.supervised.status().waits_for == "it cannot be asked: KeyError('a bug')"
    del bench.part.waits_for  # type: ignore[method-assign]
    assert bench.after(2) == "ready"
    bench.part.children[0].code = 1
    bench.after(0)
    launch, bench.part.launch = bench.part.launch, fails  # type: ignore[method-assign]
    assert bench.after(0.5) == "restarting"
    assert bench.notes[-1] == "fake ended (KeyError('a bug')); it starts again in 1 s"
    bench.part.launch = launch  # type: ignore[method-assign]
    assert bench.after(1) == "starting"


def test_a_line_that_cannot_be_printed_ends_nothing(tmp_path: Path, bench: Bench) -> None:
    def full(line: str) -> NoReturn:
        raise OSError(errno.ENOSPC, f"no space left for {line}")

    stack = Stack(tmp_path, note=full)
    supervised = Supervised(bench.part, stack._note, clock=lambda: bench.now_s)
    supervised.launch()
    bench.part.children[0].code = 1
    supervised.tick()
    assert supervised.status().state == "restarting"
    bench.now_s += 1
    supervised.tick()
    assert len(bench.part.children) == 2
    supervised.force("did not stop")
    assert bench.part.children[1].signals == [signal.SIGKILL]


def test_what_nobody_thought_of_ends_no_thread(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> NoReturn:
        raise KeyError("a bug")

    bench.supervised.launch()
    monkeypatch.setattr(bench.part.children[0], "ending", fails)
    bench.part.children[0].code = -1
    bench.after(0)
    assert bench.supervised.status().waits_for == "it cannot be supervised: KeyError('a bug')"


def test_how_a_child_ended_is_said_also_of_a_signal_without_a_name(tmp_path: Path) -> None:
    endings = {"exit 3": "exit code 3", "kill -9 $$": "SIGKILL", "kill -40 $$": "signal 40"}
    for script, said in endings.items():
        with subprocess.Popen(["/bin/sh", "-c", script]) as process:
            process.wait()
            assert Child("sh", process, tmp_path, 0).ending() == said


def test_a_stopped_part_stays_stopped(bench: Bench) -> None:
    bench.supervised.launch()
    bench.until("ready", limit_s=1)
    bench.supervised.request_stop()
    assert bench.supervised.gone()
    assert bench.after(100) == "stopped"
    assert len(bench.part.children) == 1


def test_a_part_that_ignores_its_stop_signal_is_killed_with_a_note(bench: Bench) -> None:
    bench.part.ends_on = frozenset({signal.SIGKILL})
    bench.supervised.launch()
    bench.supervised.request_stop()
    assert not bench.supervised.gone()
    bench.supervised.force("did not stop within 1 s")
    assert bench.supervised.gone()
    assert bench.part.children[-1].signals == [signal.SIGTERM, signal.SIGKILL]
    assert bench.notes == ["fake did not stop within 1 s and was killed"]


def test_a_part_that_ends_at_its_start_says_why_in_one_line(bench: Bench) -> None:
    bench.supervised.launch()
    bench.part.children[-1].code = 3
    with pytest.raises(ChildFailed, match=r"fake ended at its start \(exit code 3\): no such broker"):
        bench.supervised.check()


def test_a_port_in_use_is_not_chosen(tmp_path: Path) -> None:
    import socket

    with socket.create_server((ports.HOST, 0)) as server:
        busy = server.getsockname()[1]
        assert not ports.is_free(busy)
        assert ports.choose(busy) != busy
    assert ports.choose(ports.choose()) in ports.PORTS


def test_no_two_parts_get_one_port() -> None:
    taken: set[int] = set()
    first = ports.choose(taken=taken)
    assert ports.choose(first, taken=taken) != first


@pytest.mark.skipif(sys.platform != "linux", reason="there are no abstract addresses")
def test_a_port_chosen_by_another_process_is_not_chosen_though_nobody_listens_yet() -> None:
    program = """
from stack import ports
taken = set()
print(ports.choose(taken=taken), flush=True)
input()
ports.give_back(taken)
print(flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        port = int(other.stdout.readline())
        assert ports.is_free(port)
        assert ports.choose(port) != port
        print(file=other.stdin, flush=True)
        assert other.stdout.readline() == "\n"
        assert ports.choose(port) == port  # given back
        other.communicate("\n")


def test_a_stack_is_joined_by_variables(tmp_path: Path) -> None:
    state = State(
        data=str(tmp_path),
        pid=1,
        kafka_bootstrap="127.0.0.1:1",
        dsns={"account": "postgresql://settle@127.0.0.1:2/account"},
    )
    stack_json.write(state)
    assert stack_json.read_state(tmp_path) == state
    assert stack_json.environment(state) == {
        "SETTLE_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "SETTLE_ACCOUNT_DSN": "postgresql://settle@127.0.0.1:2/account",
        "SETTLE_TREASURER_DSN": "",
        "SETTLE_TREASURER_DSN_FILE": "",
        "SETTLE_DATA": str(tmp_path),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"pid": 1}', '{"surprise": 1}'])
def test_an_unreadable_stack_json_is_no_stack(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "stack.json").write_text(content)
    assert stack_json.read_state(tmp_path) is None
    with pytest.raises(NotRunning, match="no stack is running"):
        stack_json.running(tmp_path)


def test_a_data_folder_has_one_supervisor(tmp_path: Path) -> None:
    notes: list[str] = []
    note: Callable[[str], None] = notes.append
    held = FolderLock(tmp_path, note)
    with pytest.raises(AlreadyRunning, match=r"already running on .* \(process \d+\)"):
        FolderLock(tmp_path, note)
    held.close()
    FolderLock(tmp_path, note).close()
    assert notes == []


def test_who_looks_whether_a_stack_runs_keeps_none_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FolderLock(tmp_path, print).close()
    looks = lock._open(tmp_path / "supervisor.lock")
    assert lock._try_lock(looks)
    monkeypatch.setattr("stack.lock.time.sleep", lambda _: os.close(looks))
    FolderLock(tmp_path, print).close()


def test_a_data_folder_is_given_back_when_the_last_process_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stack.lock.ORPHANS_WAIT_S", 0.1)
    held = FolderLock(tmp_path, lambda _: None)
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    orphan = subprocess.Popen(sleep, pass_fds=(held.children_fd,))
    try:
        held.close()
        assert orphan.wait(60) == -signal.SIGKILL
    finally:
        orphan.kill()


def test_nothing_says_that_it_is_complete_before_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETTLE_CACHE", str(tmp_path))
    secret, fetched, formatted = tmp_path / "password", tmp_path / "kafka-0", tmp_path / "kafka" / "formatted"
    synced: set[int] = set()

    def spy(descriptor: int) -> None:
        synced.update({os.fstat(descriptor).st_ino} if due and not due[0].exists() else ())

    def fetch(_maven: object, folder: Path) -> None:
        (folder / "lib").mkdir()
        (folder / "lib" / "a.jar").write_text("a")
        (folder / "link").symlink_to("nowhere")

    monkeypatch.setattr(os, "fsync", spy)
    due = [secret]
    write_secret(secret, b"it")
    due = [fetched]
    _cached("kafka-0", "Kafka", fetch, lambda _: None)
    meta = formatted.parent / "meta.properties"
    meta.parent.mkdir()
    meta.write_text("formatted")
    due = [formatted]
    Kafka(Home(tmp_path, 0), tmp_path, 1, 2).prepared()
    assert formatted.exists()
    assert {path.stat().st_ino for path in (secret, fetched / "lib", fetched / "lib" / "a.jar", meta)} <= synced


def test_the_data_folder_is_found_by_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETTLE_DATA", str(tmp_path))
    assert stack_json.default_data_folder() == tmp_path


def test_a_folder_of_any_name_reaches_java() -> None:
    assert _escaped("/data/my folder") == "/data/my folder"
    assert _escaped("/é\\💶") == "/\\u00e9\\\\\\ud83d\\udcb6"


def test_a_cluster_id_is_never_taken_for_an_option() -> None:
    ids = {_cluster_id() for _ in range(2_000)}
    assert len(ids) == 2_000
    assert not [one for one in ids if one.startswith("-")]


def test_java_starts_from_what_it_learnt_and_without_it_as_well(tmp_path: Path) -> None:
    jars = tmp_path / "kafka"
    kafka = Kafka(Home(tmp_path, 0), jars, 1, 2)
    assert not [word for word in kafka._java() if "AOT" in word]
    training(jars).write_text("from another Java, or damaged")
    command = kafka._java("-version")
    assert f"-XX:AOTCache={training(jars)}" in command
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
