"""Two revisions are compared round by round, each by its own code."""

import pytest

from lab.benchmarks import against
from lab.benchmarks.against import BenchmarkError, figures_of, measure, ratios, unpack

RESULT = {
    "withdrawals_per_second": 4_000,
    "cpu_us_per_withdrawal": {"kafka": 30.0, "saga": 70.5},
    "latency_ms": {"p50": 40.0, "p95": 60.0, "p99": 80.0},
}
FAKE = """
import json, sys
import contracts
out = sys.argv[sys.argv.index("--json") + 1]
result = {"withdrawals_per_second": contracts.RATE, "cpu_us_per_withdrawal": {"all": 1.0},
    "latency_ms": {"p50": 1.0, "p99": 2.0}}
open(out, "w").write(json.dumps(result))
"""


def test_what_is_compared_of_a_result():
    assert figures_of(RESULT) == {"per second": 4_000, "CPU µs": 100.5, "p50 ms": 40.0, "p99 ms": 80.0}


def test_ratios_are_of_the_same_round():
    here, there = [{"CPU µs": cost} for cost in (100, 300, 150)], [{"CPU µs": cost} for cost in (200, 300, 100)]
    assert ratios(here, there) == {"CPU µs": {"median": 1.0, "min": 0.5, "max": 1.5}}


@pytest.mark.parametrize("package", ["lab.benchmarks", "benchmarks"])
def test_each_revision_runs_its_own_code(tmp_path, package):
    for name, text in (("contracts/__init__.py", "RATE = 77"), (f"{package}.pipeline".replace(".", "/"), FAKE)):
        file = (tmp_path / name).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for folder in (tmp_path / "lab", (tmp_path / package.replace(".", "/"))):
        if folder.exists():
            (folder / "__init__.py").write_text("")
    assert measure(tmp_path, [])["per second"] == 77


def test_a_benchmark_that_fails_or_is_not_there_is_named(tmp_path):
    with pytest.raises(BenchmarkError, match="none of lab"):
        measure(tmp_path, [])
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "pipeline.py").write_text("raise SystemExit('no Kafka')")
    with pytest.raises(BenchmarkError, match="no Kafka"):
        measure(tmp_path, [])


def test_a_revision_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(BenchmarkError, match="no-such-revision"):
        unpack("no-such-revision", tmp_path)


def test_a_revision_is_unpacked(tmp_path, monkeypatch):
    against.subprocess.run(["git", "init", "-q", tmp_path / "other"], check=True)
    (tmp_path / "other" / "file").write_text("then")
    git = ["git", "-C", tmp_path / "other", "-c", "user.name=t", "-c", "user.email=t@localhost"]
    against.subprocess.run([*git, "add", "file"], check=True)
    against.subprocess.run([*git, "commit", "-qm", "one"], check=True)
    (tmp_path / "other" / "file").write_text("now")
    monkeypatch.setattr(against, "TREE", tmp_path / "other")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    unpack("HEAD", unpacked)
    assert (unpacked / "file").read_text() == "then"
