"""Traces over HTTP, also those that a caller shares among several withdrawals."""

from uuid import UUID

from uuid_utils.compat import uuid7

from tests.conftest import wait_until
from tests.integration.api.front import WITHDRAWALS, Front, ask


def test_withdrawals_that_share_a_callers_trace_are_each_whole(front: Front, viewer):
    trace_id = uuid7().hex
    with front.http(front.key()) as client:
        client.headers["traceparent"] = f"00-{trace_id}-00f067aa0ba902b7-01"
        payment_ids = [UUID(ask(client, front.open_account()).json()["payment_id"]) for _ in range(3)]
    for payment_id in payment_ids:
        front.finished(payment_id)
    seen = set()
    for payment_id in payment_ids:

        def whole(path=f"{WITHDRAWALS}/{payment_id}/trace"):
            found = viewer.get(path).json()
            return found if found["missing"] is None else None

        found = wait_until(whole, "the trace is whole")
        (root,) = [span for span in found["spans"] if span["name"] == "withdraw-money"]
        assert root["attributes"]["settle.payment_id"] == str(payment_id)
        spans = {span["span_id"] for span in found["spans"]}
        assert not spans & seen
        seen |= spans
    checked = viewer.get("/v1/traces", params={"trace_id": trace_id}).json()["withdrawals"]
    assert {one["payment_id"]: one["missing"] for one in checked} == dict.fromkeys(map(str, payment_ids))
    front.jaeger.lost = lambda span: span.name == "charge provider" and span.span_id in spans
    try:
        checked = viewer.get("/v1/traces", params={"trace_id": trace_id}).json()["withdrawals"]
    finally:
        front.jaeger.lost = lambda span: False
    assert [one["payment_id"] for one in checked if one["missing"] is not None] == [str(payment_ids[-1])]
