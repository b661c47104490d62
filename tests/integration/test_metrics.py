"""What Prometheus reads of a running stack: every service's page, parsed as strictly as Prometheus does."""

from urllib.request import Request, urlopen

import psycopg
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from contracts.services import READ_BY
from operations.trace_check import HOPS
from tests.conftest import WAIT_S, Settle, wait_until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def samples(settle: Settle, service: str):
    """The samples of a service's page, by name and labels."""
    address = f"http://127.0.0.1:{settle.stack.state.http[service]}/metrics"
    with urlopen(Request(address, headers={"Accept": OPENMETRICS}), timeout=WAIT_S) as page:
        assert page.headers["Content-Type"].startswith(OPENMETRICS)
        families = text_string_to_metric_families(page.read().decode())
        return {(s.name, *sorted(s.labels.values())): s for family in families for s in family.samples}


def examples(settle: Settle, trace_id: str):
    """How long the withdrawal of a trace took, as the saga service tells it."""
    found = (s.exemplar for s in samples(settle, "saga").values() if s.name == "settle_withdrawal_seconds_bucket")
    return [one for one in found if one is not None and one.labels["trace_id"] == trace_id]


@pytest.mark.parametrize("service", READ_BY)
def test_a_service_tells_of_its_work_its_lag_and_its_connections(settle: Settle, service):
    settle.finished(settle.client.request(settle.open_account(), "10.00").payment_id)

    def told():
        found = samples(settle, service)
        lags = [("settle_consumer_lag", topic.name) for topic in READ_BY[service]]
        exported = found["settle_spans_exported_total",].value > 0
        ready = found["settle_ready",].value == 1
        return found if ready and exported and all(lag in found for lag in lags) else None

    found = wait_until(told, "that it is ready, its lag, and spans that the collector took")
    assert found["settle_batch_seconds_count",].value > 0
    assert found["settle_batch_messages_sum",].value > 0
    assert found["settle_database_connections", service].value == 1
    assert found["settle_database_connects_total", service].value >= 1
    assert found["settle_database_transaction_seconds_count", service].value > 0
    for topic in READ_BY[service]:
        for name in ("settle_dead_letters_total", "settle_missed_offsets_total", "settle_gaps_unacknowledged"):
            assert (name, topic.name) in found
    assert found["process_resident_memory_bytes",].value > 0


def test_how_long_a_withdrawal_took_leads_to_its_trace(settle: Settle):
    receipt = settle.client.request(settle.open_account(), "10.00")
    settle.finished(receipt.payment_id)

    (example,) = wait_until(lambda: examples(settle, receipt.trace_id), "its example")
    found = samples(settle, "saga")
    assert 0 < example.value < 60
    assert found["settle_open_withdrawals", "requested"].value >= 0
    assert found["settle_stuck_withdrawals", "requested"].value == 0
    assert found["settle_decisions_total", "WithdrawalCompleted"].value >= 1


def test_a_collector_that_hangs_holds_up_no_withdrawal_and_its_spans_wait(settle: Settle):
    account = settle.open_account()
    with settle.collector.hanging():
        receipts = [settle.client.request(account, "1.00") for _ in range(50)]
        for receipt in receipts:
            settle.finished(receipt.payment_id)

        def spans_wait():
            # Those on their way are not in the queue any more; what comes after them is.
            receipts.append(settle.client.request(account, "1.00"))
            settle.finished(receipts[-1].payment_id)
            return samples(settle, "account")["settle_spans_queued",].value > 0

        wait_until(spans_wait, "spans wait")
    whole = sum(HOPS["completed"].values())
    for receipt in receipts:
        # More where a batch came twice, which it may.
        assert len(settle.collector.wait_for(receipt.trace_id, whole, timeout_s=WAIT_S)) >= whole
    wait_until(lambda: samples(settle, "account")["settle_spans_queued",].value == 0, "no span waits")


def test_a_withdrawal_whose_request_came_in_an_earlier_batch_is_timed_from_its_request(settle: Settle):
    account = settle.open_account()
    settle.stack.stop_service("payment")
    receipt = settle.client.request(account, "10.00")
    wait_until(lambda: (s := settle.status(receipt.payment_id)) and s.state == "deducted", "deducted")
    settle.stack.start_service("payment")
    settle.finished(receipt.payment_id)
    ((took_s,),) = settle.query(
        "saga",
        "SELECT extract(epoch FROM w.finished_at - (e.payload->>'occurred_at')::timestamptz) FROM withdrawals w"
        " JOIN event_store e USING (payment_id)"
        f" WHERE payment_id = '{receipt.payment_id}' AND e.type = 'WithdrawalRequested'"
        " AND w.requested_at = (e.payload->>'occurred_at')::timestamptz",
    )
    (example,) = wait_until(lambda: examples(settle, receipt.trace_id), "its example")
    assert example.value == pytest.approx(float(took_s), abs=0.001)


def test_lag_grows_while_a_batch_waits_and_is_gone_afterwards(settle: Settle):
    account = settle.open_account()

    def lag():
        found = samples(settle, "payment").get(("settle_consumer_lag", "account.events"))
        return found.value if found is not None else None  # measured every few seconds

    with psycopg.connect(settle.dsns["payment"]) as connection:
        connection.execute("LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
        first = settle.client.request(account, "1.00")
        wait_until(lambda: (s := settle.status(first.payment_id)) and s.state == "deducted", "deducted")
        wait_until(lambda: (lag() or 0) > 0, "the batch that waits is not done")
        receipts = [settle.client.request(account, "1.00") for _ in range(20)]
        # Two events of each withdrawal stand on the topic that the payment service does not get to read.
        wait_until(lambda: (lag() or 0) >= 2 * len(receipts), "what came since is seen")
    for receipt in (first, *receipts):
        settle.finished(receipt.payment_id)
    wait_until(lambda: lag() == 0, "nothing is left")
