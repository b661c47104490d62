"""The demo keeps its word: all end as planned, the audit holds, one is seen closely, and nothing is left."""

import os
import subprocess
import sys

import psutil

from operations.trace_check import HOPS
from tests.conftest import SECURE


def test_the_demo_shows_what_it_promises_and_leaves_nothing_behind(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "80"}
    command = [sys.executable, "-m", "cli", "demo", "--count", "100", *(["--secure"] if SECURE else [])]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    said = ended.stdout
    assert ended.returncode == 0, said + ended.stderr
    assert "the audit holds: 100 withdrawals (5 compensated, 90 completed, 5 rejected)" in " ".join(said.split())
    assert "completed: finished by WithdrawalCompleted" in said
    assert f"{HOPS['completed'].total()} spans of 6 services" in said
    assert max(len(line) for line in said.splitlines()) <= 80
    assert not list(tmp_path.iterdir())
    left = [one.info["cmdline"] for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"]]
    assert not [command for command in left if str(tmp_path) in " ".join(command)]
