"""The demo keeps its word: all end as planned, the audit holds, one is seen closely, and nothing is left."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil

from operations.trace_check import HOPS
from tests.conftest import SECURE


def demo(folder: Path, *options: str) -> str:
    """What it prints, with its data in a folder."""
    environment = {**os.environ, "TMPDIR": str(folder), "COLUMNS": "80"}
    command = [sys.executable, "-m", "cli", "demo", *options, *(["--secure"] if SECURE else [])]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_demo_shows_what_it_promises_and_leaves_nothing_behind(tmp_path):
    said = demo(tmp_path, "--count", "100")
    assert "the audit holds: 100 withdrawals (5 compensated, 90 completed, 5 rejected)" in " ".join(said.split())
    assert "completed: finished by WithdrawalCompleted" in said
    assert f"{HOPS['completed'].total()} spans of 6 services" in said
    assert max(len(line) for line in said.splitlines()) <= 80
    assert "settle demo --keep" in said
    assert not list(tmp_path.iterdir())
    left = [one.info["cmdline"] for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"]]
    assert not [command for command in left if str(tmp_path) in " ".join(command)]


def test_what_it_keeps_is_seen_in_the_console_as_it_says(tmp_path):
    said = demo(tmp_path, "--count", "20", "--keep")
    (line,) = [line for line in said.splitlines() if line.startswith("  settle up --data")]
    name, *arguments = shlex.split(line)
    assert name == "settle"
    command = [sys.executable, "-m", "cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
        try:
            assert up.stdout is not None
            link = next(found[1] for text in up.stdout if (found := re.match(r"the console: (\S+)", text)))
            ca = Path(arguments[-1], "secrets", "ca.crt")
            with httpx.Client(verify=str(ca) if SECURE else True, follow_redirects=True, timeout=30) as browser:
                page = browser.get(link, headers={"Sec-Fetch-Site": "none"})  # as a person opens it
                assert (page.status_code, page.url.path) == (200, "/console")
                found = browser.get(page.url.join("/v1/withdrawals?limit=500")).json()["withdrawals"]
                assert len(found) == 20
                for one in found:
                    assert (
                        browser.get(page.url.join(f"/console/withdrawals/{one['payment_id']}")).status_code == 200
                    )
                assert "acc-1" in browser.get(page.url.join("/console/accounts/acc-1")).text
        finally:
            up.send_signal(signal.SIGINT)
            up.communicate(timeout=120)
    assert up.returncode == 0
