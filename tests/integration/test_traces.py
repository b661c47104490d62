"""One trace per withdrawal, with a span for every hop, and every span's parent in it."""

from collections import Counter

import pytest
from uuid_utils.compat import uuid7

from operations.trace_check import HOPS, hops_of, what_is_missing
from tests.conftest import Settle, wait_until
from tracing.attributes import ATTEMPT, NOT_TRIED, RETRY

COMPLETED, REJECTED, COMPENSATED = HOPS["completed"], HOPS["rejected"], HOPS["compensated"]
KINDS = {"process": "CONSUMER", "send": "PRODUCER", "transaction": "CLIENT", "charge": "CLIENT"}


def spans_of(settle: Settle, trace_id: str, hops):
    """The spans of a trace, once every hop is among them; what is beside them says that a step was tried again.

    A machine that is slow for a moment puts a call off, and its outcome is then written in another transaction.
    """

    def all_hops():
        spans = settle.collector.trace(trace_id)
        return spans if not hops - hops_of(spans) else None

    spans = wait_until(all_hops, f"every hop of trace {trace_id}")
    if again := hops_of(spans) - hops:
        assert all(name.startswith(("transaction ", "charge ", "send mail")) for _, name, _ in again), again
        assert any(span.error or any(map(is_again, span.events)) for span in spans), again
    return spans


def is_again(event: str) -> bool:
    return event.startswith((RETRY, NOT_TRIED))


def calls_of(spans):
    """The calls of the provider that were made."""
    return [span for span in spans if span.name == "charge provider" and ATTEMPT in span.attributes]


def trace_of(settle: Settle, amount: str, hops):
    receipt = settle.client.request(settle.open_account(), amount)
    settle.finished(receipt.payment_id)
    return receipt, spans_of(settle, receipt.trace_id, hops)


@pytest.mark.parametrize(
    ("amount", "hops"), [("100.00", COMPLETED), ("20000.00", REJECTED), ("100.05", COMPENSATED)],
    ids=["completed", "rejected", "compensated"],
)  # fmt: skip
def test_the_whole_tree_is_there(settle: Settle, amount, hops):
    receipt, spans = trace_of(settle, amount, hops)
    status = settle.status(receipt.payment_id)
    assert what_is_missing(spans, status.state, status.reason) is None
    assert len({span.span_id for span in spans}) == len(spans)
    assert {span.attributes.get("settle.payment_id") for span in spans} == {str(receipt.payment_id), None}


def test_a_compensation_says_why_at_each_step(settle: Settle):
    _, spans = trace_of(settle, "100.07", COMPENSATED)
    (charge,) = calls_of(spans)
    assert charge.error == "the provider declined: account_closed"
    said = {(span.service, event) for span in spans for event in span.events if not is_again(event)}
    assert said == {
        ("settle-payment", "PaymentFailed: account_closed"),
        ("settle-account", "MoneyRefunded: account_closed"),
        ("settle-saga", "WithdrawalCompensated: account_closed"),
    }


def test_a_dead_letter_is_an_error_in_its_trace(settle: Settle):
    account = settle.open_account()
    payment_id = uuid7()
    settle.client.request(account, "10.00", payment_id=payment_id)
    settle.finished(payment_id)
    receipt = settle.client.request(account, "11.00", payment_id=payment_id)

    def dead():
        spans = settle.collector.trace(receipt.trace_id)
        sends = [span for span in spans if span.name == "send withdrawal.requests.dlq"]
        return [(send, span) for send in sends for span in spans if span.span_id == send.parent_id]

    ((send, process),) = wait_until(dead, "the sending of the dead letter, and what sent it")
    assert process.service == send.service == "settle-account"
    assert process.error == f"conflict: payment {payment_id} is known with other contents"
    assert process.attributes["error.type"] == "conflict"


def test_each_hop_hangs_below_the_hop_that_sent_it(settle: Settle):
    _, spans = trace_of(settle, "100.00", COMPLETED)
    by_id = {span.span_id: span for span in spans}

    def parent_of(service, name, event_type=None):
        (span,) = [
            s
            for s in (calls_of(spans) if name == "charge provider" else spans)
            if (s.service, s.name) == (f"settle-{service}", name)
            and event_type in (None, s.attributes.get("settle.event_type"))
        ]
        parent = by_id[span.parent_id]
        return parent.service.removeprefix("settle-"), parent.name, parent.attributes.get("settle.event_type")

    sent = ("producer", "send withdrawal.requests", "WithdrawalRequested")
    deducted = ("relay", "send account.events", "MoneyDeducted")
    assert parent_of(*sent) == ("producer", "withdraw-money", None)
    assert parent_of("account", "process withdrawal.requests") == sent
    assert parent_of(*deducted) == ("account", "process withdrawal.requests", "WithdrawalRequested")
    assert parent_of("payment", "process account.events") == deducted
    assert parent_of("saga", "process account.events", "MoneyDeducted") == deducted
    assert parent_of("payment", "charge provider")[:2] == ("payment", "process account.events")


def test_spans_carry_the_attributes_of_the_conventions(settle: Settle):
    receipt, spans = trace_of(settle, "100.00", COMPLETED)
    for span in spans:
        operation = span.name.split()[0]
        if span.name == "send mail":
            assert span.kind == "CLIENT"
            continue
        assert span.kind == KINDS.get(operation, "INTERNAL")
        if operation in ("process", "send"):
            about = span.attributes
            assert about["messaging.system"] == "kafka"
            assert about["messaging.operation.type"] == operation
            assert about["messaging.destination.name"] == span.name.split()[1]
            assert about["messaging.destination.partition.id"].isdigit()
            assert about["messaging.kafka.offset"] >= 0
            assert about["messaging.message.id"]
        if operation == "transaction":
            assert span.attributes["db.system.name"] == "postgresql"
            assert span.attributes["db.namespace"] == span.name.split()[1]
        assert span.error is None
        assert span.start_ns <= span.end_ns
    (request,) = [
        span for span in spans if span.name == "process withdrawal.requests" and "account" in span.service
    ]
    assert request.attributes["messaging.kafka.offset"] == receipt.offset
    assert request.attributes["messaging.consumer.group.name"] == "settle-account"


def test_a_payment_tried_again_stays_in_its_trace(settle: Settle):
    hops = COMPLETED | Counter(
        {("payment", "charge provider", None): 2, ("payment", "transaction payment", None): 2}
    )
    _, spans = trace_of(settle, "100.13", hops)
    found = Counter(span.name for span in spans)
    first, second = calls_of(spans)
    assert first.error == "no answer: provider_unavailable; it is asked again, or voided"
    assert first.events == ["retry: provider_unavailable, provider_unavailable"]
    assert second.error is None
    assert (first.attributes["settle.attempt"], second.attributes["settle.attempt"]) == (1, 2)
    assert found["send payment.events"] == 1
    ids = {span.span_id for span in spans}
    assert all(span.parent_id in ids for span in spans if span.parent_id is not None)


def test_a_batch_of_traced_withdrawals_links_them_all_and_mixes_none(settle: Settle):
    account = settle.open_account()
    receipts = []
    from tests.integration.test_withdrawals import request

    for _ in range(50):
        settle.client.send(request(account), receipts.append)
    settle.client.flush()
    for receipt in receipts:
        settle.finished(receipt.payment_id)
        spans_of(settle, receipt.trace_id, COMPLETED)
    ours = {receipt.trace_id for receipt in receipts}

    def linking_ours():
        """A batch ends after the spans in it, and may be exported a second later."""
        return [
            span
            for trace_id in settle.collector.trace_ids()
            for span in settle.collector.trace(trace_id)
            if span.service == "settle-account"
            and span.name.startswith("process batch")
            and ours & {trace_id for trace_id, _ in span.links}
        ]

    batches = wait_until(linking_ours, "a batch of them")
    assert any(len(span.links) > 1 for span in batches)
