"""The lab's own arithmetic: lines of code, verdicts, latencies, plans, documents."""

from pathlib import Path

import pytest

from contracts.failpoints import FAILPOINTS
from lab.comparison.books import Verdict
from lab.comparison.facts import _code_lines
from lab.comparison.load import latency, plan
from lab.comparison.markdown import BEGIN, END, write
from lab.comparison.specs import SPECS

SOURCE = '''"""What is it?

More of it.
"""

import os  # used below

# A comment.


class One:
    """A docstring."""

    text = """two
lines"""

    def act(self):
        """Another."""
        return os
'''


def test_only_lines_with_code_count():
    assert _code_lines(SOURCE) == 6


@pytest.mark.parametrize(
    ("asked", "taken", "paid", "lost", "unfunded", "doubled"),
    [
        (100, 100, 100, 0, 0, 0),
        (100, 100, 0, 100, 0, 0),
        (100, 0, 100, 0, 100, 0),
        (100, 200, 200, 0, 0, 100),
        (200, 400, 300, 100, 0, 100),
        (0, 0, 0, 0, 0, 0),
    ],
)
def test_a_verdict_names_what_is_off(asked, taken, paid, lost, unfunded, doubled):
    verdict = Verdict(asked, taken, paid)
    assert (verdict.lost_minor, verdict.unfunded_minor, verdict.doubled_minor) == (lost, unfunded, doubled)
    assert verdict.right == (lost == unfunded == doubled == 0)


def test_latency_is_median_and_ninety_ninth_percentile():
    found = latency([number / 1000 for number in range(1, 201)])
    assert (found.p50_ms, found.p99_ms) == (100, 198)
    assert latency([0.005]).p99_ms == 5


@pytest.mark.parametrize(("share", "hot"), [(0.0, 2), (0.5, 12), (1.0, 20)])
def test_the_hot_account_has_its_share(share, hot):
    names = [f"acc-{number}" for number in range(10)]
    found = [request.account_id for request in plan(names, 20, share)]
    assert len(found) == 20
    assert found.count("acc-0") in (hot - 1, hot)


def test_a_document_keeps_what_is_around_its_figures(tmp_path: Path):
    file = tmp_path / "a.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(file, "new\n")
    assert file.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    other = tmp_path / "b.md"
    write(other, "new\n")
    assert other.read_text() == "new\n"


def test_every_failpoint_of_a_page_is_one_that_a_client_or_a_worker_is_killed_at():
    pages = {name.partition(".")[0] for spec in SPECS.values() for name in spec.failpoints}
    assert pages == {"monolith", "two-phase-commit", "event-sourcing", "outbox", "naive"}
    for spec in SPECS.values():
        assert set(spec.failpoints) <= set(FAILPOINTS)
        assert not spec.failpoints or spec.halfway in spec.failpoints
