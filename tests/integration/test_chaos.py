"""A minute of everything, one of what people do, and half a one through the API: no promise is broken."""

import json
import os
import subprocess
import sys

from lab.chaos.plan import API_PARTS, FREEZE, OPERATORS, PARTS
from tests.conftest import SECURE

SEED = 7
OPERATORS_SEED = 29
THROUGH_API_SEED = 4
RUN_S_MAX = 300.0
SECURELY = " --secure" if SECURE else ""


CHECKS = {"audit", "outcomes", "money", "dead letters", "recovery", "traces"}


def run(tmp_path, arguments, checks=CHECKS):
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
    assert checked == checks
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


def test_less_than_half_a_minute_through_the_api_breaks_no_promise_of_it(tmp_path):
    arguments = (
        f"--minutes 0.4 --seed {THROUGH_API_SEED} --through-api --kill relay --pause --duplicates --rate 40"
    )

    _, report = run(tmp_path, arguments, CHECKS | {"answers", "stream"})

    assert {done["fault"]["part"] for done in report["faults"]} >= set(API_PARTS)
    assert "api.committed:1" in {done["fault"]["failpoint"] for done in report["faults"]}
    assert report["deaths"] >= 3
    assert report["sent"] >= 940
