"""A client's payment ID that a program which writes to Kafka has used too: each has its own withdrawal."""

from uuid import UUID

import httpx
from uuid_utils.compat import uuid7

from contracts.events import CancelRequested, decode
from producers.api import ApiClient
from tests.conftest import wait_until
from tests.integration.api.front import WITHDRAWALS, Front, any_authority, requested
from tests.integration.api.test_reads import STREAM
from tests.integration.api.test_streams import ended, followed, until

OTHERS_FIELDS = ("account_id", "amount", "state", "reason")


def about(found: dict[str, object]) -> tuple[object, ...]:
    return tuple(found[name] for name in OTHERS_FIELDS)


def test_who_asks_under_an_id_that_is_taken_is_rejected_and_told_nothing_of_the_other(
    front: Front, shop: httpx.Client, viewer: httpx.Client
):
    theirs, ours, payment_id = front.open_account(), front.open_account(), uuid7()
    with followed(shop) as lines:
        begin = next(lines).removeprefix("id: ")
    front.client.request(theirs, "500.00", payment_id=payment_id)
    front.finished(payment_id)
    path = f"{WITHDRAWALS}/{requested(shop, ours, payment_id=str(payment_id))}"
    rejected = (ours, "1.00", "rejected", "payment_id_taken")
    found = shop.get(path).json()
    assert (about(found), found["steps"], found["waiting_for"]) == (rejected, [], None)
    assert found["finished_by"] == "WithdrawalRequested"
    assert [about(one) for one in shop.get(WITHDRAWALS).json()["withdrawals"]] == [rejected]
    assert shop.get(f"{path}/events").json() == {"events": []}
    assert shop.get(f"{path}/events", headers=STREAM).status_code == 204
    refused = shop.post(f"{path}/cancel")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:settle:problem:finished")
    assert "payment_id_taken" in refused.json()["detail"]
    with ApiClient(str(shop.base_url), shop.headers["Authorization"].split()[1], verify=any_authority()) as api:
        assert api.wait(payment_id).reason == "payment_id_taken"
    (own,) = ended(front, shop, ours)
    with followed(shop, begin) as lines:
        assert str(payment_id) not in "\n".join(until(lines, own))
    # Who sees all sees the one that was carried out.
    assert viewer.get(path).json()["account_id"] == theirs
    assert viewer.get(f"{path}/events").json()["events"]
    assert front.balance(ours) == front.balance(theirs) + 499_00


def test_until_the_account_service_has_decided_each_client_has_its_own(front: Front, shop: httpx.Client):
    theirs, ours, payment_id = front.open_account(), front.open_account(), uuid7()
    front.stack.stop_service("account")
    try:
        front.client.request(theirs, "500.00", payment_id=payment_id)
        wait_until(lambda: front.status(payment_id), "the saga service knows the other")
        path = f"{WITHDRAWALS}/{requested(shop, ours, payment_id=str(payment_id))}"
        accepted = (ours, "1.00", "accepted", None)
        assert about(shop.get(path).json()) == accepted
        assert [about(one) for one in shop.get(WITHDRAWALS).json()["withdrawals"]] == [accepted]
        cancelled = shop.post(f"{path}/cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (202, "accepted")
        wish = front.find("payment.requests", lambda one: one.value() and str(payment_id).encode() in one.value())
        assert decode(CancelRequested.__name__, wish.value()).account_id == ours
    finally:
        front.stack.start_service("account")
    front.finished(payment_id)
    assert shop.get(path).json()["account_id"] == ours
    for event in shop.get(f"{path}/events").json()["events"]:
        assert event["payload"]["account_id"] == ours
    assert UUID(shop.get(path).json()["payment_id"]) == payment_id
