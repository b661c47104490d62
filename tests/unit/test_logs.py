"""Every line of a service's log is JSON, and one about a withdrawal names it and its trace."""

import json
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from broker.records import Record
from contracts import headers
from processors.runtime import pipeline
from processors.runtime.logs import STACK_MAX, TEXT_MAX, fields_of_record
from tests.unit.test_pipeline import Service

TRACE_ID = "0a" * 16
PAYMENT_ID = "01a20aeb-4358-716a-b291-9134760df1f7"
PARENT = (headers.TRACEPARENT, f"00-{TRACE_ID}-{'0b' * 8}-01".encode())

LOGS = """
import logging, logging.config, threading
import structlog
from processors.runtime.logs import configure_logs, library_logs

configure_logs("account")
if {again}:
    logging.config.dictConfig(library_logs())
structlog.get_logger().warning("ours", payment_id="p")
thread = threading.Thread(target=structlog.get_logger().warning, args=["from a thread"])
thread.start()
thread.join()
logging.getLogger("aiohttp.access").warning("theirs %s", "said")
try:
    raise ValueError("a bug")
except ValueError:
    logging.getLogger("faust").exception("failed")
structlog.get_logger().error("dead letter", reason="x" * 1_000_000)
try:
    raise ValueError("y" * 1_000_000)
except ValueError:
    structlog.get_logger().exception("long")
logging.getLogger("faust").info("nothing of interest")
"""


@pytest.mark.parametrize("again", [False, True])
def test_every_line_is_json_also_of_libraries(again):
    done = subprocess.run(
        [sys.executable, "-c", LOGS.format(again=again)], capture_output=True, text=True, timeout=60
    )
    ours, threads, theirs, failed, quoting, long = (json.loads(line) for line in done.stderr.splitlines())
    assert (ours["event"], ours["service"], ours["level"], ours["payment_id"]) == (
        "ours",
        "account",
        "warning",
        "p",
    )
    assert (theirs["event"], theirs["service"], theirs["logger"]) == ("theirs said", "account", "aiohttp.access")
    assert (threads["event"], threads["service"]) == ("from a thread", "account")
    assert "ValueError: a bug" in failed["exception"]
    assert quoting["reason"] == "x" * TEXT_MAX + "…"
    assert long["exception"] == "…" + "y" * STACK_MAX
    assert ours["timestamp"]
    assert theirs["timestamp"]


@pytest.mark.parametrize(
    ("value", "fields", "found"),
    [
        (f'{{"payment_id": "{PAYMENT_ID}"}}'.encode(), [PARENT], {"payment_id": PAYMENT_ID, "trace_id": TRACE_ID}),
        (b'{"payment_id": "none"}', [PARENT], {"trace_id": TRACE_ID}),
        (b"{", [], {}),
        (None, [(headers.TRACEPARENT, b"\xff")], {}),
        (b"[" * 100_000, [PARENT], {"trace_id": TRACE_ID}),
    ],
    ids=["whole", "no UUID", "no JSON", "nothing", "nested"],
)
def test_a_record_names_its_withdrawal_as_far_as_it_can_be_read(value, fields, found):
    assert fields_of_record(Record("t", 0, 0, None, value, fields)) == found


def test_a_dead_letter_and_a_message_that_fails_alone_are_logged_with_their_withdrawal(monkeypatch):
    monkeypatch.setattr(pipeline, "BATCH_RETRY_S", (0.0,))
    with capture_logs() as lines:
        service = Service({0}).run(1)
    record = service.letters[0].record
    (letter,) = [line for line in lines if line["event"] == "dead letter"]
    assert letter["payment_id"] == fields_of_record(record)["payment_id"]
    (failing, *_) = [line for line in lines if line["event"] == "batch failed, trying again"]
    assert (failing["messages"], failing["payment_id"]) == (1, letter["payment_id"])
