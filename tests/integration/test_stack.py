"""Real Kafka, real PostgreSQL, real signals. Services are stand-ins, the supervisor's work is the same."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from contracts.services import DATABASES, all_topic_names
from outbox_relay.settings import RelaySettings
from stack import state as stack_json
from stack.errors import AlreadyRunning, ChildFailed
from stack.lock import holders
from stack.names import SERVERS
from stack.state import State
from stack.supervisor import Stack

WAIT_S = 60.0
TOPIC = "withdrawal.requests"

# What a shell may hold for another stack.
EXPORTED = {
    "SETTLE_RELAY_SOURCES": "postgresql://elsewhere/account",
    "SETTLE_ACCOUNT_DSN": "postgresql://elsewhere/account",
    "SETTLE_PROVIDER_DSN": "postgresql://elsewhere/provider",
    "SETTLE_TREASURER_DSN": "postgresql://elsewhere/account",
    "SETTLE_KAFKA_BOOTSTRAP": "elsewhere:9092",
    "SETTLE_DATA": "/elsewhere",
    "SETTLE_HTTP_HOST": "elsewhere",
    "SETTLE_HTTP_PORT": "1",
}

SERVICE = """
    import os, signal, sys
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    signal.signal(signal.SIGTERM, lambda *arguments: sys.exit(0))
    HTTPServer(("127.0.0.1", int(os.environ["SETTLE_HTTP_PORT"])), Ready).serve_forever()
"""

SUPERVISOR = """
    import sys, threading
    from pathlib import Path
    from stack.supervisor import Stack

    data, service = sys.argv[1:]
    with Stack(Path(data), services=("relay", "account"), command=lambda name: [sys.executable, "-c", service]):
        print("ready", flush=True)
        threading.Event().wait()
"""


def run_stand_in(name: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(SERVICE)]


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="settle stäck ") as folder:
        yield Path(folder).resolve()


@pytest.fixture(scope="module")
def killed(data: Path) -> State:
    """What a stack said of itself that took in a row and a message before its supervisor was killed."""
    supervisor = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SUPERVISOR), str(data), textwrap.dedent(SERVICE)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "ready\n"
        state = stack_json.running(data)
        assert state.pid == supervisor.pid
        with pytest.raises(AlreadyRunning, match=f"already running on {data} .process {supervisor.pid}."):
            Stack(data).start()
        with psycopg.connect(state.dsns["account"]) as connection:
            connection.execute("CREATE TABLE kept (value int)")
            connection.execute("INSERT INTO kept VALUES (42)")
        producer = Producer({"bootstrap.servers": state.kafka_bootstrap})
        producer.produce(TOPIC, b"kept")
        assert producer.flush(WAIT_S) == 0
    finally:
        supervisor.kill()
        supervisor.communicate(timeout=WAIT_S)
    return state


@pytest.fixture(scope="module")
def stack(data: Path, killed: State) -> Iterator[Stack]:
    """The next stack on the same data; started at once, while the killed one's children are still ending."""
    with (
        pytest.MonkeyPatch.context() as shell,
        Stack(data, services=("relay", "account"), command=run_stand_in, note=lambda line: None) as stack,
    ):
        for name, value in EXPORTED.items():
            shell.setenv(name, value)
        stack.kill("relay")  # started again with what is exported now
        yield stack
        pids = list(stack.state.pids.values())
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert stack_json.read_state(data).pids == {}  # type: ignore[union-attr]


def test_no_child_outlives_a_killed_supervisor(killed: State) -> None:
    assert set(killed.pids) == {*SERVERS.values(), "kafka", "relay", "account"}
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in killed.pids.values()), "all children gone")
    lock = Path(killed.data) / "children.lock"
    eventually(lambda: not holders(lock), "their children gone")


def test_a_killed_stack_comes_up_where_it_was_with_everything_it_had(killed: State, stack: Stack) -> None:
    assert stack.state.kafka_bootstrap == killed.kafka_bootstrap
    assert stack.state.dsns == killed.dsns
    assert stack.state.http == killed.http
    with psycopg.connect(stack.state.dsns["account"]) as connection:
        assert connection.execute("SELECT value FROM kept").fetchall() == [(42,)]
    consumer = Consumer(
        {"bootstrap.servers": stack.state.kafka_bootstrap, "group.id": "test", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([TOPIC])
    message = consumer.poll(WAIT_S)
    assert message is not None
    assert message.value() == b"kept"
    consumer.close()


def test_what_a_shell_exports_leads_no_service_away_from_its_stack(stack: Stack) -> None:
    stack.wait_ready("relay", timeout=WAIT_S)
    found = psutil.Process(stack.pid("relay")).environ()
    expected = stack.environment()
    assert expected["SETTLE_KAFKA_BOOTSTRAP"] == found["SETTLE_KAFKA_BOOTSTRAP"]
    for name in DATABASES:  # by another way than others, to the same database
        with (
            psycopg.connect(expected[f"SETTLE_{name.upper()}_DSN"]) as one,
            psycopg.connect(found[f"SETTLE_{name.upper()}_DSN"]) as other,
        ):
            where = "SELECT current_setting('data_directory'), current_database()"
            assert one.execute(where).fetchone() == other.execute(where).fetchone()
    assert not [name for name, value in EXPORTED.items() if found[name] == value]
    relay = RelaySettings(relay_sources=found["SETTLE_RELAY_SOURCES"], account_dsn="dbname=own")
    assert relay.sources == ["dbname=own"]


def test_topics_and_schemas_are_there(stack: Stack) -> None:
    topics = AdminClient({"bootstrap.servers": stack.state.kafka_bootstrap}).list_topics(timeout=WAIT_S).topics
    assert set(all_topic_names()) <= set(topics)
    assert len(topics[TOPIC].partitions) == 4
    assert set(stack.state.dsns) == set(DATABASES)
    for dsn in stack.state.dsns.values():
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


def test_it_keeps_money_as_production_would(stack: Stack) -> None:
    expected = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "wal_level": "logical"}
    if sys.platform == "linux":  # where a busy disk does not keep a server that was killed from coming back
        expected["recovery_init_sync_method"] = "syncfs"
    with psycopg.connect(stack.state.dsns["account"]) as connection:
        for setting, value in expected.items():
            assert connection.execute("SELECT current_setting(%s)", (setting,)).fetchone() == (value,)


def test_it_listens_on_this_machine_only(stack: Stack) -> None:
    for pid in stack.state.pids.values():
        for connection in psutil.Process(pid).net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip.removeprefix("::ffff:") == "127.0.0.1"


def test_stack_json_says_what_runs(data: Path, stack: Stack) -> None:
    written = json.loads((data / "stack.json").read_text())
    assert written["pid"] == os.getpid()
    assert written["pids"] == {name: stack.pid(name) for name in (*SERVERS.values(), "kafka", "relay", "account")}


@pytest.mark.parametrize("name", ["account", "postgres-account", "kafka"])
def test_a_killed_child_is_restarted_where_it_was(stack: Stack, name: str) -> None:
    pid, state = stack.pid(name), stack.state
    stack.kill(name)
    assert not psutil.pid_exists(pid)
    stack.wait_ready(name, timeout=WAIT_S)
    assert stack.pid(name) != pid
    assert (stack.state.kafka_bootstrap, stack.state.dsns, stack.state.http) == (
        state.kafka_bootstrap,
        state.dsns,
        state.http,
    )


def test_a_service_is_stopped_and_started_on_demand(stack: Stack) -> None:
    stack.stop_service("account")
    assert {status.name: status.state for status in stack.statuses()}["account"] == "stopped"
    stack.start_service("account")
    stack.wait_ready("account", timeout=WAIT_S)


@pytest.mark.parametrize("left", ["{pid}\n", ""], ids=["somebody else's number by now", "nothing"])
def test_what_a_killed_server_left_in_its_lock_file_keeps_no_server_from_starting(stack: Stack, left: str) -> None:
    stack.stop_service("postgres-account")
    lock = stack.data / "postgres-account" / "postmaster.pid"
    assert not lock.exists()
    lock.write_text(left.format(pid=stack.pid("postgres-payment")))
    stack.start_service("postgres-account")
    stack.wait_ready("postgres-account", timeout=WAIT_S)


def test_a_service_that_cannot_start_is_named_and_nothing_is_left() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(
            Path(folder),
            services=("account",),
            command=lambda name: [sys.executable, "-c", "raise SystemExit('SETTLE_ACCOUNT_DSN makes no sense')"],
        )
        with pytest.raises(
            ChildFailed, match=r"account ended at its start .exit code 1.: SETTLE_ACCOUNT_DSN makes no sense"
        ):
            stack.start()
        assert not holders(Path(folder).resolve() / "children.lock")


@contextmanager
def settle_up(folder: str) -> Iterator[subprocess.Popen[str]]:
    """``settle up`` of broker and database alone, as a terminal starts it."""
    script = "import typer, cli.up; app = typer.Typer(); app.command()(cli.up.up); app()"
    patch = "import cli.up, functools; cli.up.Stack = functools.partial(cli.up.Stack, services=()); "
    process = subprocess.Popen(
        [sys.executable, "-c", patch + script, "--data", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
        assert not holders(Path(folder).resolve() / "children.lock")
    finally:
        process.kill()
        process.communicate(timeout=WAIT_S)


def test_settle_up_stops_in_order_when_told_to() -> None:
    with tempfile.TemporaryDirectory() as folder, settle_up(folder) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("ready"):
                process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0, lines
        assert lines[-1] == "everything is stopped\n"
        assert max(map(len, lines)) <= 81


def test_settle_up_goes_on_when_nobody_reads_what_it_prints() -> None:
    with tempfile.TemporaryDirectory() as folder, settle_up(folder) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("ready"):
            assert process.poll() is None
        process.stdout.close()
        first = stack_json.running(Path(folder)).pids["postgres-account"]
        os.kill(first, signal.SIGKILL)

        def started_again() -> bool:
            pid = stack_json.running(Path(folder)).pids.get("postgres-account", first)
            return pid != first and psutil.pid_exists(pid)

        eventually(started_again, "the server is started again")
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_S)
        assert stack_json.read_state(Path(folder)).pids == {}  # type: ignore[union-attr]


def test_settle_up_ends_however_often_ctrl_c_is_pressed_while_it_starts() -> None:
    with tempfile.TemporaryDirectory() as folder, settle_up(folder) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        while not line.startswith("postgres-account "):  # it starts, or is ready already
            line = process.stdout.readline()
            assert line
        deadline = time.monotonic() + WAIT_S
        while process.poll() is None:
            assert time.monotonic() < deadline, "it hangs"
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)  # as fast as a hand can be
        assert "Traceback" not in process.stdout.read()
