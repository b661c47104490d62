"""A collector reads from our bytes what it would read from OpenTelemetry's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from tracing.collector import SpanCollector
from tracing.otlp import FastExporter, Unwritable, encode

RESOURCE = Resource({"service.name": "settle-account", "process.pid": 4_000_000})
OTHER = Resource({"service.name": "settle-saga"})

values = st.one_of(
    st.text(max_size=200),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.just(1.0),
)
attributes = st.dictionaries(st.text(min_size=1, max_size=40), values, max_size=8)
times = st.integers(0, 2**64 - 1)
contexts = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.just(TraceFlags(1)),
    st.sampled_from([TraceState(), TraceState([("vendor", "a"), ("other", "b")])]),
)
spans = st.builds(
    ReadableSpan,
    name=st.text(max_size=200),
    context=contexts,
    parent=st.none() | contexts,
    resource=st.sampled_from([RESOURCE, OTHER]),
    attributes=attributes,
    events=st.lists(st.builds(Event, st.text(max_size=20), attributes, times), max_size=3),
    links=st.lists(st.builds(Link, contexts, attributes), max_size=3),
    kind=st.sampled_from(SpanKind),
    instrumentation_scope=st.sampled_from([InstrumentationScope("settle"), InstrumentationScope("x", "1.2")]),
    status=st.sampled_from([Status(), Status(StatusCode.OK), Status(StatusCode.ERROR, "ünknown account")]),
    start_time=times,
    end_time=times,
)


def read(request):
    """What a request says of each span, with its resource and scope, in any order."""
    return sorted(
        (
            sorted(str(attribute) for attribute in resource.resource.attributes),
            str(scope.scope),
            str(span).splitlines(),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    )


@given(st.lists(spans, min_size=1, max_size=5))
def test_the_same_is_read_as_from_opentelemetrys_encoder(some):
    assert read(ExportTraceServiceRequest.FromString(encode(some))) == read(encode_spans(some))


def one(**about):
    context = SpanContext(1, 2, False, TraceFlags(1))
    return ReadableSpan("span", context, resource=RESOURCE, start_time=1, end_time=2, attributes=about)


def test_what_cannot_be_written_is_left_to_opentelemetrys_encoder():
    with pytest.raises(Unwritable, match="list is a tuple"):
        encode([one(list=("a", "b"))])
    with SpanCollector() as collector:
        exporter = FastExporter(endpoint=f"{collector.endpoint}/v1/traces")
        exporter.export([one(list=["a", "b"])])
        exporter.export([one(text="a")])
        assert [span.name for span in collector.wait_for(f"{1:032x}", 2, timeout_s=10)] == ["span", "span"]
        exporter.shutdown()


def test_the_exporter_is_built_as_the_quick_way_needs_it(monkeypatch):
    exporter = FastExporter(endpoint="http://127.0.0.1:9/v1/traces")
    sent = []
    monkeypatch.setattr(
        exporter._client, "export", lambda body: sent.append(body) or type("", (), {"success": True})
    )
    exporter.export([one(text="a")])
    assert sent == [encode([one(text="a")])]
