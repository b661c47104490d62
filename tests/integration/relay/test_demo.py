"""``outbox-relay demo``: what a newcomer sees first."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from stack import relay_demo
from stack.errors import StackError
from tests.integration.relay.outbox import ROOT, wait_until

COMMAND = [sys.executable, "-m", "outbox_relay", "demo"]
DEADLINE_S = 240
COLUMNS = 80


def test_it_kills_its_relay_and_every_row_is_on_the_topic_once():
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("    killed when ") == relay_demo.KILLS
    assert "has 20,000 records: each row once, each order in order." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= COLUMNS


@pytest.mark.parametrize("after", ["Starting", "killed when"])
def test_ctrl_c_leaves_nothing_behind(tmp_path, after):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert any(after in line for line in process.stdout)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, err) == (130, "")
        wait_until(lambda: not any(child.is_running() for child in children), "its processes are gone")
    assert list(tmp_path.iterdir()) == []


def test_killed_itself_it_leaves_nothing_that_runs(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert any("killed when" in line for line in process.stdout)
        demo = psutil.Process(process.pid)

        def its_relay():
            return any("outbox_relay" in " ".join(child.cmdline()) for child in demo.children())

        wait_until(its_relay, "the next relay runs")
        children = demo.children(recursive=True)
        process.kill()
        wait_until(lambda: not any(child.is_running() for child in children), "its processes are gone")


@pytest.mark.parametrize("numbers", [[1, 2, 3, 3], [1, 3], [2, 1, 3]], ids=["doubled", "lost", "out of order"])
def test_a_topic_that_is_not_as_promised_is_told(monkeypatch, numbers):
    monkeypatch.setattr(relay_demo, "ROWS", 3)
    records = [SimpleNamespace(key=lambda: b"order-1", value=lambda n=n: b'{"number" : %d}' % n) for n in numbers]
    with pytest.raises(StackError, match="not as promised"):
        relay_demo._verdict(records)
