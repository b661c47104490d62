from uuid import uuid4

import pytest

from contracts.events import encode
from processors.runtime.messages import DeadLetter, Message, Record, Unhandled, read
from tests.unit.messages import request
from tracing import TraceContext

HANDLED = frozenset({"WithdrawalRequested"})
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record(value=b"", **headers):
    return Record("withdrawal.requests", 1, 2, b"acc-1", value, list(headers.items()))


def good(**other):
    headers = {"id": str(uuid4()).encode(), "eventType": b"WithdrawalRequested", **other}
    return {name: value for name, value in headers.items() if value is not None}


def test_a_good_record_is_an_event_with_its_context():
    one = request()
    found = read(record(encode(one), **good(traceparent=PARENT.encode(), tracestate=b"a=b")), HANDLED)
    assert isinstance(found, Message)
    assert found.event == one
    assert found.context == TraceContext(PARENT, "a=b")
    assert found.context.trace_id == PARENT[3:35]


def test_a_record_without_trace_context_is_an_event_all_the_same():
    found = read(record(encode(request()), **good()), HANDLED)
    assert isinstance(found, Message)
    assert found.context == TraceContext()


@pytest.mark.parametrize(
    ("value", "headers", "words"),
    [
        (b"junk", good(), "not JSON"),
        (b"\xff\xfe", good(), "not JSON"),
        (b"{}", good(), "payment_id"),
        (b"[]", good(), "object"),
        (None, good(), "body is missing"),
        (encode(request()), good(id=None), "header id is missing"),
        (encode(request()), good(id=b"4711"), "not a UUID"),
        (encode(request()), good(id=b'x"y'), "not a UUID"),
        (encode(request()), good(eventType=None), "header eventType is missing"),
        (encode(request()), good(traceparent=b"\xff"), "not text"),
        (encode(request()), good(tracestate=b"a=\0"), "not text"),
        (encode(request())[:-1] + b',"memo":"\xff"}', good(), "not JSON"),
        (encode(request()).replace(b"10000", b"0"), good(), "amount_minor"),
        (encode(request()).replace(b"10000", b'"10000"'), good(), "amount_minor"),
        (encode(request()).replace(b"10000", b"100.5"), good(), "amount_minor"),
    ],
)
def test_what_cannot_be_read_says_why(value, headers, words):
    found = read(record(value, **headers), HANDLED)
    assert isinstance(found, DeadLetter)
    assert words in found.reason


def test_types_of_no_interest_are_passed_over_and_unknown_ones_are_told_apart():
    assert read(record(eventType=b"MoneyDeducted"), HANDLED) == Unhandled("MoneyDeducted", known=True)
    assert read(record(eventType=b"Nonsense"), HANDLED) == Unhandled("Nonsense", known=False)
