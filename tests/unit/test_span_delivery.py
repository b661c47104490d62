"""Spans never hold anybody up, not even with a collector that is away, slow, or refuses."""

import socket
import threading
import time

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind
from prometheus_client import REGISTRY

import tracing
from tests.conftest import WAIT_S, wait_until
from tracing import delivery
from tracing.otlp import FastExporter
from tracing.setup import TracingSettings

SPANS = delivery.QUEUE_MAX + 2_000
TIMEOUT_S = 1


def dropped(reason):
    return REGISTRY.get_sample_value("settle_spans_dropped_total", {"reason": reason})


class Stuck(SpanExporter):
    """A collector that takes a batch and never answers, until it is told to stop."""

    def __init__(self):
        self.stopped = threading.Event()

    def export(self, spans):
        self.stopped.wait(60)
        return SpanExportResult.FAILURE

    def shutdown(self):
        self.stopped.set()


class Refusing(SpanExporter):
    def export(self, spans):
        return SpanExportResult.FAILURE


@pytest.fixture
def configured(monkeypatch):
    monkeypatch.setattr(tracing.setup, "_recorder", None)
    monkeypatch.setattr(tracing.setup, "_ratio", 0.0)
    monkeypatch.setattr(delivery, "STOP_S", 0.3)

    def configure(exporter):
        tracing.configure("test", settings=TracingSettings(traces_sampler_arg=1), exporter=exporter)

    yield configure
    tracing.shutdown()


def test_a_collector_that_hangs_costs_spans_and_no_time(configured):
    before = dropped(delivery.QUEUE_FULL), dropped(delivery.NOT_TAKEN)
    configured(Stuck())
    started = time.perf_counter()
    for _ in range(SPANS):
        tracing.start_span("span", SpanKind.INTERNAL).end()
    took_s = time.perf_counter() - started

    given_up = dropped(delivery.QUEUE_FULL) - before[0]
    assert SPANS - delivery.QUEUE_MAX - delivery.BATCH_MAX <= given_up <= SPANS - delivery.QUEUE_MAX
    assert took_s / SPANS < 0.001

    stop_started = time.perf_counter()
    tracing.shutdown()
    assert time.perf_counter() - stop_started < 30  # it hangs for a minute
    wait_until(lambda: given_up + dropped(delivery.NOT_TAKEN) - before[1] == SPANS, "every span is accounted for")


@pytest.fixture
def nobody():
    """The address of a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}/v1/traces"


@pytest.fixture
def silent():
    """The address of a server that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1/traces"


@pytest.mark.parametrize("collector", ["nobody", "silent"])
def test_a_collector_that_is_down_or_hangs_costs_spans_and_no_time(configured, request, caplog, collector):
    before = dropped(delivery.QUEUE_FULL) + dropped(delivery.NOT_TAKEN)
    configured(FastExporter(endpoint=request.getfixturevalue(collector), timeout=TIMEOUT_S))
    started = time.perf_counter()
    for _ in range(SPANS):
        tracing.start_span("span", SpanKind.INTERNAL).end()
    took_s = time.perf_counter() - started
    assert took_s / SPANS < 0.001
    assert dropped(delivery.QUEUE_FULL) > 0
    assert 0 < REGISTRY.get_sample_value("settle_spans_queued") <= delivery.QUEUE_MAX

    stop_started = time.perf_counter()
    tracing.shutdown()
    assert time.perf_counter() - stop_started < 10  # each of its twenty batches may take a second
    # A call that hangs is left to its own time limit; by then every span is accounted for.
    until = time.monotonic() + WAIT_S
    while (lost := dropped(delivery.QUEUE_FULL) + dropped(delivery.NOT_TAKEN) - before) < SPANS:
        assert time.monotonic() < until, lost
        time.sleep(0.05)
    assert lost == SPANS
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the collector at its own address does not take spans: they are given up"]


def test_spans_that_a_collector_refuses_are_counted(configured):
    before = dropped(delivery.NOT_TAKEN)
    configured(Refusing())
    for _ in range(10):
        tracing.start_span("span", SpanKind.INTERNAL).end()
    tracing.shutdown()
    assert dropped(delivery.NOT_TAKEN) - before == 10
