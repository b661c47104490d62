from uuid import uuid4

import pytest

from broker.records import Record
from contracts.events import EVENT_TYPES, WithdrawalRequested, encode
from processors.runtime.messages import DeadLetter, Message, Unhandled, read_record
from tests.unit.messages import after, request
from tracing import TraceContext

HANDLED = {"WithdrawalRequested": "withdrawal.requests"}
ALL = {name: event_type.topic for name, event_type in EVENT_TYPES.items()}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record(value=b"", **headers):
    return Record("withdrawal.requests", 1, 2, b"acc-1", value, list(headers.items()))


def good(**other):
    headers = {"id": str(uuid4()).encode(), "eventType": b"WithdrawalRequested", **other}
    return {name: value for name, value in headers.items() if value is not None}


def test_a_good_record_is_an_event_with_its_context():
    one = request()
    found = read_record(record(encode(one), **good(traceparent=PARENT.encode(), tracestate=b"a=b")), HANDLED)
    assert isinstance(found, Message)
    assert found.event == one
    assert found.context == TraceContext(PARENT, "a=b")
    assert found.context.trace_id == PARENT[3:35]


@pytest.mark.parametrize("topic", sorted({event_type.topic for event_type in EVENT_TYPES.values()}))
@pytest.mark.parametrize("name", EVENT_TYPES)
def test_a_type_is_believed_on_its_own_topic_alone(name, topic):
    """Who may write requests could have a payment refunded that is then paid, or paid that was never deducted."""
    event_type = EVENT_TYPES[name]
    one = request() if event_type is WithdrawalRequested else after(request(), event_type)
    fields = good(eventType=name.encode())
    found = read_record(Record(topic, 1, 2, b"acc-1", encode(one), list(fields.items())), ALL)
    if topic == EVENT_TYPES[name].topic:
        assert isinstance(found, Message)
        assert found.event == one
    else:
        assert isinstance(found, DeadLetter)
        assert found.reason == f"{name} does not belong on {topic}"


def test_a_record_without_trace_context_is_an_event_all_the_same():
    found = read_record(record(encode(request()), **good()), HANDLED)
    assert isinstance(found, Message)
    assert found.context == TraceContext()


TRACE_ID, SPAN_ID = PARENT[3:35], PARENT[36:52]


@pytest.mark.parametrize(
    "parent",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        PARENT.upper().encode(),
        PARENT[:-1].encode(),
        f"{PARENT}\n".encode(),
        f"{PARENT}-more".encode(),
        f"{PARENT}\0".encode(),
        PARENT.replace("00-", "ff-", 1).encode(),
        f"01{PARENT[2:]}more".encode(),
        PARENT.replace(TRACE_ID, "0" * 32).encode(),
        PARENT.replace(SPAN_ID, "0" * 16).encode(),
        PARENT.replace("a", "ａ").encode(),
        b"0" * 100_000,
    ],
)
def test_a_traceparent_that_is_none_costs_the_context_and_never_the_message(parent):
    found = read_record(record(encode(request()), **good(traceparent=parent, tracestate=b"a=b")), HANDLED)
    assert isinstance(found, Message)
    assert found.context == TraceContext()
    assert found.record.trace_id is None


@pytest.mark.parametrize(
    "state",
    [
        b"",
        "v=café".encode(),
        b"\xff",
        b"a=\0",
        b"a=b\n",
        b"no member",
        b"A=b",
        b"a=b=c",
        b"a=" + b"b" * 255 + b",c=" + b"d" * 253,
        b"a=" + b"b" * 9000,
        b",".join(b"k%d=v" % number for number in range(33)),
    ],
)
def test_a_tracestate_that_is_none_or_too_long_costs_only_itself(state):
    found = read_record(record(encode(request()), **good(traceparent=PARENT.encode(), tracestate=state)), HANDLED)
    assert found.context == TraceContext(PARENT)


@pytest.mark.parametrize(
    "state",
    [
        b"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
        b"tenant@vendor=a b , k*/-_1=~!",
        b"a=1,,b=2",
        b",".join(b"k%d=v" % number for number in range(32)),
        b"a=" + b"b" * 250 + b",c=" + b"d" * 251,
    ],
)
def test_a_tracestate_is_handed_on_as_it_came(state):
    found = read_record(record(encode(request()), **good(traceparent=PARENT.encode(), tracestate=state)), HANDLED)
    assert found.context == TraceContext(PARENT, state.decode())


@pytest.mark.parametrize("parent", [f"cc{PARENT[2:]}", f"cc{PARENT[2:]}-what-the-future-will-be-like"])
def test_a_later_version_of_the_trace_context_is_handed_on_as_this_one(parent):
    found = read_record(record(encode(request()), **good(traceparent=parent.encode())), HANDLED)
    assert found.context == TraceContext(PARENT)


def test_of_headers_with_the_same_name_the_last_one_counts():
    one, known = request(), uuid4()
    twice = [("id", b"4711"), ("eventType", b"Nonsense"), ("traceparent", b"garbage"), *good().items()]
    twice += [("id", str(known).upper().encode()), ("traceparent", PARENT.encode())]
    found = read_record(Record("withdrawal.requests", 1, 2, b"acc-1", encode(one), twice), HANDLED)
    assert (found.event, found.id, found.context) == (one, known, TraceContext(PARENT))


def test_of_a_record_that_cannot_be_read_the_payment_is_still_named():
    one = request()
    wrong = encode(one).replace(b"10000", b"0")
    assert record(wrong).payment_id == str(one.payment_id)
    assert record(b'{"payment_id": "x"}').payment_id == "x"
    for value in (None, b"junk", b"[]", b'{"payment_id": 1}', b"[" * 100_000):
        assert record(value).payment_id is None


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
        (encode(request()), good(id=b"\xff"), "header id is not a UUID"),
        (encode(request()), good(eventType=b"\xff"), "header eventType is not text"),
        (encode(request())[:-1] + b',"memo":"\xff"}', good(), "not JSON"),
        (encode(request()).replace(b"10000", b"0"), good(), "amount_minor"),
        (encode(request()).replace(b"10000", b'"10000"'), good(), "amount_minor"),
        (encode(request()).replace(b"10000", b"100.5"), good(), "amount_minor"),
    ],
)
def test_what_cannot_be_read_says_why(value, headers, words):
    found = read_record(record(value, **headers), HANDLED)
    assert isinstance(found, DeadLetter)
    assert words in found.reason


def test_types_of_no_interest_are_passed_over_and_unknown_ones_are_told_apart():
    assert read_record(record(eventType=b"MoneyDeducted"), HANDLED) == Unhandled("MoneyDeducted")
    assert read_record(record(eventType=b"Nonsense"), HANDLED) == Unhandled("Nonsense")
