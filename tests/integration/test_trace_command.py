"""``settle trace`` shows a trace, and its check notices what is missing (real Jaeger: tests/compose)."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from cli.main import app
from operations.trace_check import HOPS
from tests.conftest import Settle, wait_until


def as_jaeger(span):
    tags = [{"key": key, "value": value} for key, value in span.attributes.items()]
    parent = [{"refType": "CHILD_OF", "traceID": span.trace_id, "spanID": span.parent_id}]
    return {
        "traceID": span.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "processID": span.service,
        "references": parent if span.parent_id else [],
        "startTime": span.start_ns // 1_000,
        "duration": (span.end_ns - span.start_ns) // 1_000,
        "tags": tags,
        "logs": [],
    }


@pytest.fixture
def jaeger(settle: Settle):
    """The collector's spans, as Jaeger would tell of them; without those of which ``lost`` is true."""

    def newest(service, operation, limit):
        roots = [
            span
            for trace_id in settle.collector.trace_ids()
            for span in settle.collector.trace(trace_id)
            if (span.service, span.name) == (service, operation)
        ]
        roots.sort(key=lambda span: span.start_ns)
        return [span.trace_id for span in roots[-int(limit) :]]

    class Api(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = parse_qsl(urlsplit(self.path).query)
            ids = [value for name, value in asked if name == "traceID"] or newest(**dict(asked))
            data = []
            for trace_id in ids:
                spans = [span for span in settle.collector.trace(trace_id) if not server.lost(span)]
                processes = {span.service: {"serviceName": span.service} for span in spans}
                if spans:
                    data.append(
                        {"traceID": trace_id, "processes": processes, "spans": [as_jaeger(s) for s in spans]}
                    )
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": data}).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.lost = lambda _span: False
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run(settle: Settle, jaeger, monkeypatch):
    monkeypatch.setenv("SETTLE_SAGA_DSN", settle.dsns["saga"])
    monkeypatch.setenv("SETTLE_JAEGER_URL", jaeger.url)
    monkeypatch.setenv("SETTLE_JAEGER_LINK", "https://jaeger.example")
    return lambda *arguments: CliRunner().invoke(app, ["trace", *arguments])


def test_trace_draws_the_tree_and_links_to_it(settle: Settle, run):
    receipt = settle.client.request(settle.open_account(), "100.00")
    settle.finished(receipt.payment_id)

    result = run(str(receipt.payment_id))

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

    result = run("check", "--last", "3")
    assert result.exit_code == 0, result.output
    assert "3 of 3 traces are whole (100.0%)" in " ".join(result.output.split())

    result = run("check", "--last", "3", "--sampled")
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
