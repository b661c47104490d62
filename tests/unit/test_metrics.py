"""The numbers say what happened: decisions once they are committed, exemplars that lead to a recorded trace."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from prometheus_client import REGISTRY

from contracts import health
from contracts.events import MoneyDeducted, WithdrawalRequested, follow
from processors.runtime import pipeline
from processors.runtime.messages import Emitted
from processors.runtime.pipeline import Pipeline
from processors.saga.decide import Standing
from processors.saga.processor import _observe
from tests.unit.test_pipeline import records
from tracing import TraceContext

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
TRACE_ID = "ab" * 16
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def value(name, **labels):
    return REGISTRY.get_sample_value(name, labels) or 0.0


def finished(took_s, *, sampled):
    standing = Standing(
        None, "acc-1", 100, "USD", "completed", 0, None, TRACE_ID, NOW + timedelta(seconds=took_s), "x", NOW
    )
    _observe(standing, TraceContext(f"00-{TRACE_ID}-{'cd' * 8}-0{int(sampled)}"))


def buckets_with_examples(text):
    return [
        line for line in text.splitlines() if line.startswith("settle_withdrawal_seconds_bucket") and "# {" in line
    ]


@pytest.mark.usefixtures("spans")
def test_a_traced_withdrawal_is_an_example_for_those_who_ask_for_openmetrics():
    finished(0.3, sampled=True)
    _, text, content_type, _ = health.metrics_page(REGISTRY, OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    (line,) = [one for one in buckets_with_examples(text.decode()) if 'le="0.5"' in one]
    assert f'# {{trace_id="{TRACE_ID}"}} 0.3 ' in line
    _, plain, content_type, _ = health.metrics_page(REGISTRY, "text/plain")
    assert content_type.startswith("text/plain")
    assert b"# {" not in plain
    assert b"_created" not in text


@pytest.mark.usefixtures("spans")
def test_a_withdrawal_that_nobody_traced_counts_but_is_no_example():
    before = value("settle_withdrawal_seconds_count", outcome="completed")
    finished(700, sampled=False)
    assert value("settle_withdrawal_seconds_count", outcome="completed") == before + 1
    assert not [
        one
        for one in buckets_with_examples(health.metrics_page(REGISTRY, OPENMETRICS).text.decode())
        if 'le="3600.0"' in one
    ]


def test_a_decision_counts_once_however_often_its_batch_is_tried(monkeypatch):
    monkeypatch.setattr(pipeline, "BATCH_RETRY_S", (0.0,))

    class Service:
        name = "test"
        handles = (WithdrawalRequested,)
        tries = 0

        async def process(self, batch):
            self.tries += 1
            for message in batch.messages:
                deducted = follow(MoneyDeducted, message.event, NOW, balance_minor=0)
                batch.emitted.append(Emitted(deducted, message.context))
            if self.tries < 3:
                raise psycopg.OperationalError("away")

    before = value("settle_decisions_total", outcome="MoneyDeducted")
    asyncio.run(Pipeline(Service(), None).run(records(5)))
    assert value("settle_decisions_total", outcome="MoneyDeducted") == before + 5
