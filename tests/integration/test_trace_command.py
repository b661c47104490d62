"""``settle trace`` shows a trace, and its check notices what is missing (real Jaeger: tests/compose)."""

import re
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from cli.main import app
from operations.trace_check import HOPS
from tests.conftest import Settle, wait_until
from tests.integration.jaeger import FakeJaeger


@pytest.fixture
def jaeger(settle: Settle):
    with FakeJaeger(settle.collector) as jaeger:
        yield jaeger


@pytest.fixture
def run(settle: Settle, jaeger, monkeypatch):
    monkeypatch.setenv("SETTLE_SAGA_DSN", settle.dsns["saga"])
    monkeypatch.setenv("SETTLE_JAEGER_URL", jaeger.url)
    monkeypatch.setenv("SETTLE_JAEGER_LINK", "https://jaeger.example")
    return lambda *arguments: CliRunner().invoke(app, ["trace", *arguments])


def test_trace_draws_the_tree_and_links_to_it(settle: Settle, run):
    receipt = settle.client.request(settle.open_account(), "100.00")
    settle.finished(receipt.payment_id)

    result = run(str(receipt.payment_id), "--wait", "60")

    assert result.exit_code == 0, result.output
    drawn = re.search(r"(\d+) spans of 6 services", result.output)
    assert drawn, result.output
    # A machine that is slow for a moment may make a step be tried again; the tree then shows that, too.
    assert HOPS["completed"].total() <= int(drawn[1]) <= len(settle.collector.trace(receipt.trace_id))
    assert "whole: every hop" in result.output
    assert f"https://jaeger.example/trace/{receipt.trace_id}" in result.output


def test_check_finds_all_whole_and_one_lost_span(settle: Settle, jaeger, run):
    account = settle.open_account()
    # The newest, whatever their IDs: this one is older, though its ID is higher than any made from the time.
    old = settle.client.request(account, "10.00", payment_id=UUID(int=uuid4().int | 0xF << 124))
    settle.finished(old.payment_id)
    jaeger.lost = lambda span: span.trace_id == old.trace_id
    receipts = [settle.client.request(account, amount) for amount in ("10.00", "10.05", "999999.00")]
    for receipt in receipts:
        settle.finished(receipt.payment_id)

    result = run("check", "--last", "3", "--wait", "60")
    assert result.exit_code == 0, result.output
    assert "3 of 3 traces are whole (100.0%)" in " ".join(result.output.split())

    result = run("check", "--last", "3", "--sampled", "--wait", "60")
    assert result.exit_code == 0, result.output

    jaeger.lost = lambda span: span.name == "charge provider" and span.trace_id == receipts[1].trace_id
    result = run("check", "--last", "3", "--wait", "0")
    assert result.exit_code == 1
    assert "2 of 3 traces are whole" in result.output
    assert "payment charge provider missing" in " ".join(result.output.split())


def test_a_withdrawal_that_jaeger_does_not_know_is_said_so(settle: Settle, jaeger, run):
    receipt = settle.client.request(settle.open_account(), "10.00")
    wait_until(lambda: settle.status(receipt.payment_id), "the withdrawal known")
    jaeger.lost = lambda _span: True
    result = run("--wait", "0", str(receipt.payment_id))
    assert result.exit_code != 0
    result = run(str(receipt.payment_id), "--wait", "0")
    assert result.exit_code == 1
    assert f"knows no trace {receipt.trace_id}" in result.stderr
