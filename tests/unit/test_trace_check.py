"""A trace is called whole only if nothing is missing from it."""

import socket
import threading
from contextlib import contextmanager
from uuid import UUID

import pytest

from operations import traces as of_withdrawals
from operations.trace_check import HOPS, of_withdrawal, what_is_missing
from processors.saga.status import Status
from producers.spans import ROOT
from tests.integration.jaeger import FakeJaeger
from tracing import jaeger
from tracing.collector import CollectedSpan
from tracing.jaeger import JaegerError, _read, latest, traces


def span(number, service, name, event_type=None, parent=0):
    return CollectedSpan(
        trace_id="a" * 32,
        span_id=f"{number:016x}",
        parent_id=None if parent is None else f"{parent:016x}",
        service=f"settle-{service}",
        name=name,
        kind="INTERNAL",
        start_ns=number,
        end_ns=number + 1,
        attributes={"settle.event_type": event_type} if event_type else {},
        links=[],
        error=None,
        events=[],
    )


def spans_of(state, without=()):
    hops = [hop for hop in HOPS[state].elements() if hop not in without]
    hops.sort(key=lambda hop: hop[1] != ROOT)
    return [span(number, *hop, parent=0 if number else None) for number, hop in enumerate(hops)]


@pytest.mark.parametrize("state", HOPS)
def test_every_hop_counts(state):
    reason = "insufficient_funds" if state == "rejected" else None
    assert what_is_missing(spans_of(state), state, reason) is None
    for hop in HOPS[state]:
        fault = what_is_missing(spans_of(state, without=[hop]), state, reason)
        assert fault is not None
        assert hop[1] in fault or hop[1] == ROOT


def test_what_was_tried_again_is_no_fault():
    spans = spans_of("completed")
    again = span(99, "payment", "charge provider")
    assert what_is_missing([*spans, again], "completed") is None


def through_api(state="completed", parent=None):
    """The spans where the API was asked: it begins the trace, and the relay sends the request."""
    first, second, *others = spans_of(state)
    begun = [
        first._replace(service="settle-api", parent_id=parent),
        second._replace(service="settle-api", name="POST /v1/withdrawals", attributes={}),
    ]
    return [*begun, span(90, "relay", "send withdrawal.requests", "WithdrawalRequested"), *others]


def test_the_api_is_where_a_trace_may_begin():
    spans = through_api()
    assert what_is_missing(spans, "completed") is None
    for hop in ((1, "POST /v1/withdrawals"), (2, "send withdrawal.requests")):
        fault = what_is_missing([one for n, one in enumerate(spans) if n != hop[0]], "completed")
        assert fault is not None
        assert hop[1] in fault


def test_a_trace_may_go_on_above_the_withdrawal_where_others_have_begun_it():
    caller = span(98, "x", "checkout", parent=None)._replace(service="shop")
    spans = through_api(parent=caller.span_id)
    assert what_is_missing(spans, "completed") is None
    assert what_is_missing([caller, *spans], "completed") is None
    assert what_is_missing([caller, *spans, span(99, "saga", "late", parent=1234)], "completed") is not None
    two = [*spans, span(97, "api", ROOT)]
    assert what_is_missing(two, "completed") == "roots are withdraw-money, withdraw-money"


def shared(payment_id, first):
    """The spans of one of several withdrawals below one span of their caller's."""
    root, *others = spans_of("completed")
    root = root._replace(parent_id="c" * 16, attributes={"settle.payment_id": str(payment_id)})
    number = {one.span_id: f"{first + int(one.span_id, 16):016x}" for one in (root, *others)}
    return [
        one._replace(span_id=number[one.span_id], parent_id=number.get(one.parent_id, one.parent_id))
        for one in (root, *others)
    ]


def test_of_a_trace_with_several_withdrawals_each_is_judged_by_its_own_spans():
    caller = span(98, "x", "checkout", parent=None)._replace(service="shop", span_id="c" * 16)
    whole, holed = shared(UUID(int=1), 1_000), shared(UUID(int=2), 2_000)
    lost = holed.pop(next(n for n, one in enumerate(holed) if one.name == "charge provider"))
    trace = [caller, *whole, *holed]
    assert of_withdrawal(trace, UUID(int=1)) == whole
    assert what_is_missing(of_withdrawal(trace, UUID(int=1)), "completed") is None
    assert what_is_missing(of_withdrawal(trace, UUID(int=2)), "completed") == "payment charge provider missing"
    assert of_withdrawal([*trace, lost], UUID(int=3)) == []
    assert of_withdrawal(holed, UUID(int=1)) == []
    assert of_withdrawal([caller, *whole], UUID(int=1)) == [caller, *whole]
    in_a_circle = [one._replace(parent_id=whole[-1].span_id) if one is whole[0] else one for one in trace]
    assert of_withdrawal(in_a_circle, UUID(int=1))[1:] == whole[1:]


def test_an_orphan_is_a_fault():
    spans = spans_of("completed")
    orphan = span(99, "payment", "charge provider", parent=1234)
    assert what_is_missing([*spans, orphan], "completed") == "the parent of payment charge provider is missing"


def test_a_second_root_is_a_fault():
    spans = [*spans_of("completed"), span(99, "saga", "transaction saga", parent=None)]
    assert what_is_missing(spans, "completed") == "roots are withdraw-money, transaction saga"


def test_a_mail_that_could_not_be_delivered_is_a_whole_story():
    spans = [
        s._replace(attributes={"settle.event_type": "NotificationFailed"})
        if s.attributes.get("settle.event_type") == "NotificationSent"
        else s
        for s in spans_of("completed")
    ]
    assert what_is_missing(spans, "completed") is None


def test_a_payment_that_was_voided_need_not_have_been_charged():
    spans = spans_of("compensated", without=[("payment", "charge provider", None)])
    assert what_is_missing(spans, "compensated", "cancelled") is not None
    assert what_is_missing([*spans, span(99, "payment", "void provider")], "compensated", "cancelled") is None


def test_an_unknown_account_has_no_balance_to_check():
    without = [hop for hop in HOPS["rejected"] if hop[2] == "BalanceChecked"]
    spans = spans_of("rejected", without)
    assert what_is_missing(spans, "rejected", "unknown_account") is None
    assert what_is_missing(spans, "rejected", "insufficient_funds") is not None


def test_a_span_is_read_as_jaeger_tells_it():
    answer = {
        "data": [
            {
                "traceID": "2a",
                "processes": {"p1": {"serviceName": "settle-account"}},
                "spans": [
                    {
                        "traceID": "2a",
                        "spanID": "00000000000000b2",
                        "operationName": "process withdrawal.requests",
                        "processID": "p1",
                        "references": [
                            {"refType": "CHILD_OF", "traceID": "2a", "spanID": "00000000000000b1"},
                            {"refType": "FOLLOWS_FROM", "traceID": "2b", "spanID": "00000000000000c1"},
                        ],
                        "startTime": 1_000_000,
                        "duration": 250,
                        "tags": [
                            {"key": "span.kind", "type": "string", "value": "consumer"},
                            {"key": "error", "type": "bool", "value": True},
                            {"key": "otel.status_description", "type": "string", "value": "conflict"},
                            {"key": "settle.event_type", "type": "string", "value": "WithdrawalRequested"},
                        ],
                        "logs": [{"timestamp": 1, "fields": [{"key": "event", "value": "retry after Error"}]}],
                    }
                ],
            }
        ]
    }
    (one,) = _read(answer)["2a".zfill(32)]
    assert (one.service, one.kind, one.error) == ("settle-account", "CONSUMER", "conflict")
    assert (one.parent_id, one.links) == ("00000000000000b1", [("2b".zfill(32), "00000000000000c1")])
    assert (one.start_ns, one.end_ns) == (1_000_000_000, 1_000_250_000)
    assert one.events == ["retry after Error"]


def test_a_jaeger_that_is_away_is_named():
    with pytest.raises(JaegerError, match=r"Jaeger at http://127\.0\.0\.1:9 does not answer"):
        traces("http://127.0.0.1:9", ["a" * 32])
    with pytest.raises(JaegerError, match="is not the address of a Jaeger"):
        traces("file:///etc", ["a" * 32])


ANSWERS = {
    b"HTTP/1.1 500 Internal Server Error\r\n\r\n": "refuses: 500 Internal Server Error",
    b"HTTP/1.1 418\r\n\r\n": "refuses: 418",
    b"": "does not answer: Server disconnected without sending a response.",
    b"220 mail.example\r\n\r\n": "does not answer: ",
    b"HTTP/1.1 200 OK\r\n\r\n<html>": "is no Jaeger: JSONDecodeError: ",
    b"HTTP/1.1 200 OK\r\n\r\n\xff": "is no Jaeger: UnicodeDecodeError: ",
    b"HTTP/1.1 200 OK\r\n\r\n[]": "is no Jaeger: AttributeError: ",
    b'HTTP/1.1 200 OK\r\n\r\n{"data": [{}]}': "is no Jaeger: KeyError: ",
}


@contextmanager
def answering(answer):
    """An address where whoever asks gets these bytes; None: no answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with server.accept()[0] as client:
                client.recv(65_536)
                if answer is None:
                    client.recv(1)  # until it has enough of it
                else:
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(("answer", "said"), ANSWERS.items())
def test_what_is_no_jaeger_or_a_sick_one_is_told_in_one_line(answer, said):
    with answering(answer) as url, pytest.raises(JaegerError) as refused:
        traces(url, ["a" * 32])
    assert str(refused.value).partition(f"at {url} ")[2].startswith(said)
    assert "\n" not in str(refused.value)


def test_a_jaeger_that_is_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(jaeger, "TIMEOUT_S", 0.2)
    with answering(None) as url, pytest.raises(JaegerError, match="does not answer: timed out"):
        latest(url, "producer", "request", 1)


class Kept:
    """Some traces, as a collector has them."""

    def __init__(self, **sizes):
        self._sizes = {name * 32: size for name, size in sizes.items()}
        self.asked = []

    def trace(self, trace_id):
        self.asked.append(trace_id)
        return [span(number, "saga", "x")._replace(trace_id=trace_id) for number in range(self._sizes[trace_id])]


def test_a_trace_that_is_too_large_is_not_read_and_keeps_no_other_from_being_read(monkeypatch):
    monkeypatch.setattr(jaeger, "ANSWER_BYTES_MAX", 10_000)
    trace_ids = ["a" * 32, "b" * 32, "c" * 32, "a" * 32]
    with FakeJaeger(Kept(a=3, b=1_000, c=2)) as server:
        found = traces(server.url, trace_ids)
        assert {name[0]: spans and len(spans) for name, spans in found.items()} == {"a": 3, "b": None, "c": 2}
        status = Status(UUID(int=1), "paid", False, None, [], None, "b" * 32, "acc-1", 1, "USD", None, None, 0)
        with pytest.raises(JaegerError, match=f"more spans than can be read here.*{server.url}/trace/{'b' * 32}"):
            of_withdrawals.trace_of(server.url, status)


def test_a_trace_of_many_withdrawals_is_asked_for_once():
    kept = Kept(a=3)
    with FakeJaeger(kept) as server:
        assert len(traces(server.url, ["a" * 32] * 30)["a" * 32]) == 3
    assert kept.asked == ["a" * 32]


def test_traces_that_jaeger_does_not_know_are_none():
    with answering(b"HTTP/1.1 404 Not Found\r\n\r\n{}") as url:
        assert traces(url, ["a" * 32]) == {}


@pytest.mark.parametrize(("state", "hops"), [("completed", 25), ("rejected", 18), ("compensated", 30)])
def test_a_whole_trace_has_so_many_hops(state, hops):
    assert sum(HOPS[state].values()) == hops


def test_a_trace_without_a_span_is_not_whole():
    assert what_is_missing([], "completed") == "there is no span"


def test_a_rejection_without_a_look_at_the_balance_has_one_saga_transaction_less_and_no_fewer():
    spans = spans_of("rejected", [hop for hop in HOPS["rejected"] if hop[2] == "BalanceChecked"])
    saga = [one for one in spans if one.name == "transaction saga"]
    less = [one for one in spans if one not in saga[:1]]
    assert what_is_missing(less, "rejected", "unknown_account") is None
    least = [one for one in spans if one not in saga[:2]]
    assert what_is_missing(least, "rejected", "unknown_account") == "saga transaction saga missing"
