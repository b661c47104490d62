"""A clock that is off: for the module that is run, by as much as was said, and only until it is set again."""

import json
import subprocess
import sys
import time

import pytest

from lab.chaos.arming import Arming

SHOW = """
import datetime, json, sys, time
assert __name__ == "__main__"
print(json.dumps([time.time(), datetime.datetime.now(datetime.UTC).timestamp(), time.monotonic(), sys.argv[1:]]))
"""


@pytest.mark.parametrize("off_s", [600.0, -600.0])
def test_a_service_is_started_with_its_clock_off(tmp_path, off_s):
    (tmp_path / "show.py").write_text(SHOW)
    arming = Arming(lambda service: [sys.executable, "-m", "show", "run", service])
    arming.set_clock("account", off_s)
    before, before_s = time.time(), time.monotonic()

    shown = subprocess.run(
        arming("account"), capture_output=True, text=True, check=True, env={"PYTHONPATH": f"{tmp_path}:."}
    )

    now, today, monotonic, arguments = json.loads(shown.stdout)
    assert before <= now - off_s <= time.time()
    assert before <= today - off_s <= time.time()
    assert before_s <= monotonic <= time.monotonic()
    assert arguments == ["run", "account"]


def test_only_that_service_and_only_until_its_clock_is_set_again():
    arming = Arming(lambda service: ["python", "-m", "cli", "run", service])
    arming.set_clock("account", 600.0)
    arming.arm("account", "account.committed")

    assert arming("payment") == ["python", "-m", "cli", "run", "payment"]
    armed = arming("account")
    assert armed[:1] == ["env"]
    assert armed[2:] == ["python", "-m", "lab.chaos.clock", "600", "cli", "run", "account"]
    assert arming("account") == armed[2:]
    arming.set_clock("account", 0.0)
    assert arming("account") == ["python", "-m", "cli", "run", "account"]
