"""Do spans ever hold anybody up? Not with a collector that is away, slow, or refuses."""

import threading
import time

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind
from prometheus_client import REGISTRY

import tracing
from tracing import delivery
from tracing.setup import TracingSettings

SPANS = delivery.QUEUE_MAX + 2_000


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
    monkeypatch.setattr(tracing.setup, "_provider", None)
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
    assert time.perf_counter() - stop_started < 2
    assert given_up + dropped(delivery.NOT_TAKEN) - before[1] == SPANS


def test_spans_that_a_collector_refuses_are_counted(configured):
    before = dropped(delivery.NOT_TAKEN)
    configured(Refusing())
    for _ in range(10):
        tracing.start_span("span", SpanKind.INTERNAL).end()
    tracing.shutdown()
    assert dropped(delivery.NOT_TAKEN) - before == 10
