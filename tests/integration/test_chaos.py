"""A minute of everything, and one of what people do to a running system: no promise is broken."""

import json
import os
import subprocess
import sys

from lab.chaos.plan import FREEZE, OPERATORS, PARTS
from tests.conftest import SECURE

SEED = 7
OPERATORS_SEED = 29
RUN_S_MAX = 300.0
SECURELY = " --secure" if SECURE else ""


def run(tmp_path, arguments):
    """What ``settle chaos`` printed, and its report, whose every check holds."""
    report_file = tmp_path / "report.json"
    run = subprocess.run(
        [sys.executable, "-m", "cli", *f"chaos {arguments}{SECURELY} --json {report_file}".split()],
        env={**os.environ, "COLUMNS": "80", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(report_file.read_text())
    assert report["ok"]
    assert all(check["ok"] for check in report["checks"] + report["audit"]["checks"])
    checked = {check["name"] for check in report["checks"]}
    assert checked == {"audit", "outcomes", "money", "dead letters", "recovery", "traces"}
    assert sum(report["audit"]["outcomes"].values()) == report["audit"]["withdrawals"]
    assert os.listdir(tmp_path) == ["report.json"]
    return run.stdout, report


def test_a_minute_of_chaos_breaks_no_promise(tmp_path):
    printed, report = run(tmp_path, f"--minutes 1 --seed {SEED} --pause --duplicates --rate 40")

    # It was no quiet minute: every part suffered, some were frozen, and the load was what was asked for.
    suffered = {done["fault"]["part"].partition("-")[0] for done in report["faults"]}
    assert suffered >= set(PARTS)  # of postgres-account and the others, one
    assert FREEZE in {done["fault"]["kind"] for done in report["faults"]}
    assert report["deaths"] >= 4
    assert report["sent"] >= 2_350
    assert max(map(len, printed.splitlines())) <= 80
    assert f"seed {SEED}: the promises hold" in printed


def test_a_minute_of_operators_breaks_no_promise(tmp_path):
    arguments = f"--minutes 1 --seed {OPERATORS_SEED} --operators --kill relay --rate 40"

    _, report = run(tmp_path, arguments)

    assert {done["fault"]["kind"] for done in report["faults"]} >= set(OPERATORS)
    assert report["sent"] >= 2_350
    planted = next(check for check in report["checks"] if check["name"] == "dead letters")
    assert "planted" in planted["detail"]
