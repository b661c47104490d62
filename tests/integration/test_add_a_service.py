"""A service is added by its folder and one line: the README's steps, on a copy of the tree."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from broker.scan import scan
from tests.conftest import wait_until

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(
    name for name in os.listdir(ROOT) if (ROOT / name / "__init__.py").exists() and name not in ("lab", "tests")
)
TOY = Path(__file__).parent / "fraud"
LINE = '    Service("fraud", reads=(ACCOUNT_EVENTS,), emits=(Topic("fraud.events"),)),\n'
STACK = """
import sys
from pathlib import Path
from stack.supervisor import Stack
with Stack(Path(sys.argv[1]), environment={"SETTLE_FAILPOINT": "fraud.committed"}):
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory):
    """A copy of the tree that has the service."""
    copy = tmp_path_factory.mktemp("tree")
    wanted = (
        "api",
        "broker",
        "cli",
        "contracts",
        "operations",
        "outbox_relay",
        "processors",
        "producers",
        "stack",
        "tracing",
    )
    for folder in wanted:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(TOY, copy / "processors" / "fraud", ignore=shutil.ignore_patterns("__pycache__"))
    registry = copy / "contracts" / "services.py"
    before = registry.read_text()
    beginning, services, end = re.split(r"(?ms)^(SERVICES = \(.*?^)(?=\))", before)
    registry.write_text(f"{beginning}{services}{LINE}{end}")
    assert len(registry.read_text().splitlines()) == len(before.splitlines()) + 1
    return copy


class Copy:
    """The copy of the tree, on a stack of its own."""

    def __init__(self, tree: Path, data: Path) -> None:
        self._tree, self.data = tree, data
        self._environment = {**os.environ, "PYTHONPATH": str(tree), "SETTLE_DATA": str(data), "COLUMNS": "120"}

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", STACK, str(self.data)]
        return subprocess.Popen(
            command,
            cwd=self._tree,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def settle(self, arguments: str) -> str:
        command = [sys.executable, "-m", "cli", *arguments.split()]
        done = subprocess.run(command, cwd=self._tree, env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def copy(tree: Path, tmp_path_factory: pytest.TempPathFactory):
    copy = Copy(tree, tmp_path_factory.mktemp("data"))
    stack = copy.start()
    try:
        assert stack.stdout.readline() == "up\n"
        yield copy
    finally:
        stack.communicate(timeout=120)


def test_a_service_is_added_by_its_folder_and_one_line(copy: Copy):
    copy.settle("accounts open acc-1 --balance 1000.00")
    asked = json.loads(copy.settle("request --account acc-1 --amount 100.00 --wait --timeout 60 --json"))
    state = json.loads((copy.data / "stack.json").read_text())

    def checked():
        return [m for m in scan(state["kafka_bootstrap"], ["fraud.events"]) if m.key() == b"acc-1"]

    (event,) = wait_until(checked, "its event is on its topic")
    body = json.loads(event.value())
    assert (body["payment_id"], body["suspicious"]) == (asked["payment_id"], False)
    with psycopg.connect(state["dsns"]["fraud"]) as connection:
        assert connection.execute("SELECT * FROM checks").fetchall() == [(UUID(asked["payment_id"]), False)]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
    assert "fraud.committed reached" in (copy.data / "logs" / "fraud.log").read_text()
    page = f"http://127.0.0.1:{state['http']['fraud']}/metrics"

    def counted():
        try:
            text = urllib.request.urlopen(page).read().decode()
        except OSError:  # it has died at the failpoint, and starts again
            return False
        return 'settle_messages_total{event_type="MoneyDeducted"}' in text

    wait_until(counted, "its metrics are there")
    assert "fraud.dead-letters-sent" in copy.settle("failpoints")
    assert "SETTLE_FRAUD_DSN" in copy.settle("env")
    assert "fraud" in copy.settle("outbox status")
    report = json.loads(copy.settle("audit --wait 60 --json"))
    assert report["ok"]
    assert report["withdrawals"] == 1
