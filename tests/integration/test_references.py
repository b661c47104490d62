"""What the benchmark compares with is measured, and leaves nothing behind."""

import tempfile

import psutil

from broker.clients import admin
from lab.benchmarks.chain import chain_ms
from lab.benchmarks.monolith import monolith_per_second
from tests.conftest import Settle, wait_until


def test_the_monolith_runs_on_a_server_of_its_own_that_is_gone_afterwards(tmp_path, monkeypatch):
    tmp_path.parent.chmod(0o755)
    tmp_path.parent.parent.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert monolith_per_second(1) > 0
    assert list(tmp_path.iterdir()) == []
    ours = [
        process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info["cmdline"])
    ]
    assert ours == []


def test_the_bare_chain_leaves_no_table_and_no_topic(settle: Settle):
    dsn, topics = settle.dsns["saga"], admin(settle.bootstrap)
    before = set(topics.list_topics(timeout=10).topics)
    assert 0.5 < chain_ms(dsn, settle.bootstrap, rounds=10) < 60_000
    # The broker hears of what the controller has deleted a moment later.
    wait_until(lambda: set(topics.list_topics(timeout=10).topics) == before, "its topic is gone")
    assert settle.query("saga", "SELECT to_regclass('bench_chain')") == [(None,)]
