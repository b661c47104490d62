"""A quick comparison of everything on the shared stack shows what each approach really does."""

import io
import json
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from cli.compare import run_on, show, write
from lab.comparison.compare import QUICK
from lab.comparison.facts import facts
from lab.comparison.load import AMOUNT_MINOR, run_load
from lab.comparison.results import Comparison, Result
from lab.comparison.sites import site
from lab.comparison.specs import SPECS
from tests.conftest import Settle

# Long enough that a process may stand still for a moment, and that the worker that polls each second polls amid
# those that are watched.
PLAN = QUICK._replace(
    withdrawals=60, watched=30, watched_per_second=20.0, faults=QUICK.faults._replace(halfway_s=5.0)
)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def found(settle: Settle) -> Comparison:
    comparison = run_on(settle.stack, PLAN, list(SPECS), Console(file=io.StringIO()))
    for status in settle.stack.statuses():
        settle.stack.wait_ready(status.name)
    return comparison


@pytest.fixture(scope="module")
def by_name(found: Comparison) -> dict[str, Result]:
    return {one.name: one for one in found.results}


def test_every_approach_is_compared(found: Comparison):
    assert [one.name for one in found.results] == list(SPECS)


def test_only_the_naive_way_loses_or_doubles_money(by_name: dict[str, Result]):
    for name, one in by_name.items():
        for fault, what in one.faults.items():
            if what is not None and not (fault == "refused" and name.startswith("outbox")):
                assert what.right or name == "naive", (name, fault)
        assert one.load.right or name == "naive"
    naive = by_name["naive"].faults
    assert naive["killed"].lost_minor == naive["killed"].doubled_minor == AMOUNT_MINOR
    assert naive["worker"].unfunded_minor == AMOUNT_MINOR
    assert naive["repeated"].doubled_minor + naive["repeated"].unfunded_minor == 4 * AMOUNT_MINOR


def test_two_phase_commit_blocks_others_until_somebody_recovers(by_name: dict[str, Result]):
    held = by_name["two_phase_commit"].faults["halfway"]
    assert held.waited == held.asked == 4
    assert held.locks_max == 4
    assert held.waited_s_max > 0.8 * PLAN.faults.halfway_s
    assert held.healed_by == "2pc recover"
    for name in ("monolith", "saga", "outbox_polling", "outbox_wal"):
        assert by_name[name].faults["halfway"].waited_s_max < held.waited_s_max, name


def test_whoever_needs_all_at_once_accepts_nothing_while_one_is_away(by_name: dict[str, Result]):
    accepted = {name: one.faults["outage"].accepted for name, one in by_name.items()}
    assert accepted["monolith"] == accepted["two_phase_commit"] == 0
    for name in ("saga", "event_sourcing", "outbox_polling", "outbox_wal"):
        assert accepted[name] == PLAN.faults.asked
        assert by_name[name].faults["outage"].recovery_s is not None


def test_an_outbox_alone_leaves_refused_payments_to_a_person(by_name: dict[str, Result]):
    for name in ("outbox_polling", "outbox_wal"):
        assert by_name[name].faults["refused"].for_a_person == 1
    # The textbook's worker repeats what it had not marked; the relay finds it on the topic.
    assert by_name["outbox_polling"].faults["worker"].published == 2
    assert by_name["outbox_wal"].faults["worker"].published == 1
    assert by_name["saga"].faults["refused"].right
    assert by_name["saga"].faults["refused"].note == "given back by a compensation"


def test_the_reader_sees_a_window_where_there_is_one(by_name: dict[str, Result]):
    seen = {name: one.consistency for name, one in by_name.items()}
    assert seen["monolith"].seen == 0
    # Those just before a poll may be paid before the next look.
    assert seen["outbox_polling"].seen > PLAN.watched / 2
    for name in ("saga", "outbox_wal"):
        # Some are shorter than a look; all are where a busy machine takes 5 ms and more for one.
        assert seen[name].seen > 0 or seen[name].resolution_ms > 5
    assert seen["outbox_polling"].median_ms > seen["outbox_wal"].median_ms
    assert seen["outbox_polling"].longest_ms > 500  # it polls each second


def test_the_advice_follows_from_the_figures(found: Comparison, by_name: dict[str, Result]):
    """Where a machine is so slow that callers waited, that follows from them too: nothing is advised."""
    fitting = {
        "one database holds everything": "monolith",
        "services with databases of their own": "saga",
        "an audit trail, the balance of any day": "event_sourcing",
        "others must hear of it through a queue": min(
            ("outbox_polling", "outbox_wal"), key=lambda name: by_name[name].load.finished.p50_ms
        ),
    }
    advised = {one.need: one.name for one in found.advice}
    assert advised.items() <= fitting.items()
    assert len(advised) >= 3


def test_it_is_readable_at_80_columns_and_written_as_json_markdown_and_png(found: Comparison, tmp_path: Path):
    out = io.StringIO()
    show(found, Console(file=out, width=80, highlight=False))
    assert max(len(line.rstrip()) for line in out.getvalue().splitlines()) <= 80
    for one in found.results:
        assert one.title in out.getvalue()
    document = tmp_path / "choosing.md"
    document.write_text("# Mine\n\n<!-- figures -->\nstale figures\n<!-- end of figures -->\n\nmine too\n")
    write(found, tmp_path / "f.json", document, tmp_path / "c.png")
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["results"][0]["load"]["withdrawals"] == PLAN.withdrawals
    text = document.read_text()
    assert text.startswith("# Mine\n") and text.endswith("mine too\n") and "stale" not in text
    assert "](c.png)" in text and found.machine in text and found.at in text
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)


def test_fsyncs_and_round_trips_are_what_the_protocol_says(settle: Settle):
    """A monolith commits once. Two phases are a prepare and a commit at each of three, a decision, and its end."""
    with site("monolith", settle.stack) as one, site("two_phase_commit", settle.stack) as two:
        single, double = facts(one), facts(two)
    assert single.fsyncs == pytest.approx(1, abs=0.35)
    assert double.fsyncs == pytest.approx(8, abs=0.8)
    assert single.round_trips == 8
    assert double.round_trips == 17


def test_a_hot_account_gets_its_share_and_loses_nothing(settle: Settle):
    with site("event_sourcing", settle.stack) as place:
        load = run_load(place, 40, 4, 10, hot_account=0.5)
        assert load.right
        with closing(psycopg.connect(place.addresses["account"])) as db:
            hot = db.execute(
                "SELECT count(*) FROM withdrawals WHERE account_id = 'load-event_sourcing-1'"
            ).fetchone()
    assert hot[0] >= 20
