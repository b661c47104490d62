"""A minute of everything: processes killed and frozen, broker and database too, and no promise broken."""

import json
import os
import subprocess
import sys

from chaos.plan import FREEZE, PARTS

SEED = 7
RUN_S_MAX = 300.0


def test_a_minute_of_chaos_breaks_no_promise(tmp_path):
    report_file = tmp_path / "report.json"
    arguments = f"chaos --minutes 1 --seed {SEED} --pause --duplicates --json {report_file}"
    run = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments.split()],
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
    # It was no quiet minute: every part suffered, some were frozen, and the load was what was asked for.
    suffered = {done["fault"]["part"] for done in report["faults"]}
    assert suffered >= set(PARTS)
    assert FREEZE in {done["fault"]["kind"] for done in report["faults"]}
    assert report["deaths"] >= 4
    assert report["sent"] >= 5_900
    assert sum(report["audit"]["outcomes"].values()) == report["audit"]["withdrawals"]
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert f"seed {SEED}: the promises hold" in run.stdout
    assert os.listdir(tmp_path) == ["report.json"]
