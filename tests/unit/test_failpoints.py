"""A process dies at the failpoint that is armed, and nowhere else."""

import os
import re
import subprocess
import sys
import timeit
from pathlib import Path

import pytest

from contracts import failpoints
from contracts.failpoints import EXIT_CODE, FAILPOINTS, FailpointError, arm, hit
from contracts.services import READ_BY
from lab.approaches.two_phase_commit import PARTICIPANTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def disarmed():
    yield
    arm(None)


def comes_by(text, times):
    code = f"for n in range({times}):\n print(n, flush=True); failpoints.hit('relay.confirmed')"
    code = "from contracts import failpoints; failpoints.arm_from_environment()\n" + code
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {failpoints.VARIABLE: text},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def test_the_process_dies_at_the_place_the_time_it_was_told_to():
    found = comes_by("relay.confirmed:3", 5)
    assert (found.returncode, found.stdout.split()) == (EXIT_CODE, ["0", "1", "2"])
    assert found.stderr == "failpoint relay.confirmed reached, the process dies here\n"


def test_another_place_does_not_end_it():
    assert comes_by("relay.acknowledged", 3).returncode == 0


@pytest.mark.parametrize("text", ["account.lunch", "relay.confirmed:0", "relay.confirmed:x", "relay.confirmed:-1"])
def test_what_names_no_failpoint_is_refused(text):
    with pytest.raises(FailpointError, match=re.escape(f"SETTLE_FAILPOINT={text}: ")):
        arm(text)


def test_a_service_refuses_a_failpoint_that_does_not_exist():
    for module in (["cli", "run", "account"], ["outbox_relay"]):
        found = subprocess.run(
            [sys.executable, "-m", *module],
            env=os.environ | {failpoints.VARIABLE: "account.lunch"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 2
        assert len(found.stderr.splitlines()) == 1, found.stderr
        assert "account.lunch: no such failpoint" in found.stderr


def test_every_place_in_the_code_is_declared_and_every_declared_one_is_in_the_code():
    found = set()
    for path in ROOT.glob("*/**/*.py"):
        if path.relative_to(ROOT).parts[0] in (".venv", "tests", "build", "failpoints"):
            continue
        found |= set(re.findall(r'failpoints\.hit\(f?"([^"]+)"\)', path.read_text()))
    for place in [place for place in found if "{participant}" in place]:
        found.remove(place)
        found |= {place.replace("{participant}", participant) for participant in PARTICIPANTS}
    anyone = {place.partition("}.")[2] for place in found if place.startswith("{")}
    expected = {place for place in found if not place.startswith("{")}
    expected |= {f"{service}.{place}" for service in READ_BY for place in anyone}
    assert set(FAILPOINTS) == expected


def test_a_place_that_is_not_armed_costs_next_to_nothing():
    each_s = min(timeit.repeat(lambda: hit("account.committed"), number=10_000, repeat=5)) / 10_000
    assert each_s < 2e-6  # some 0.1 µs; a batch, which comes by it once, takes milliseconds
