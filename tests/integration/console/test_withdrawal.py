"""The page of one withdrawal: where it stands and why, as the JSON says, whatever others have written."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from contracts.events import PaymentFailed, WithdrawalRequested, encode
from operations.events import events_of
from tests.conftest import wait_until
from tests.integration.api.front import WITHDRAWALS, Front, requested
from tests.integration.console.pages import SAME, Page, Pages, deducted, without

LIST = "/console/withdrawals"
EVIL = "<script>alert(1)</script>'\"&\u202eהבנק סירב"


def tab(viewer: Pages, payment_id: UUID, name: str) -> Page:
    return viewer.get(f"{LIST}/{payment_id}?tab={name}")


@pytest.fixture
def compensated(front: Front, shop) -> UUID:
    payment_id = requested(shop, front.open_account(), "1.05")
    front.finished(payment_id)
    # The customer is told at the same time: afterwards nothing more happens to it.
    told = "SELECT 1 FROM event_store WHERE payment_id = %s AND type = 'NotificationSent'"
    wait_until(lambda: front.query("saga", told, payment_id), "the customer is told")
    return payment_id


def test_it_says_what_the_json_says_and_why(front: Front, viewer: Pages, compensated):
    page, found = viewer.get(f"{LIST}/{compensated}"), viewer.json(f"{WITHDRAWALS}/{compensated}")
    assert found["state"] == "compensated"
    for text in (
        "1.05 USD",
        found["account_id"],
        str(compensated),
        "compensated",
        found["finished_by"],
        found["trace_id"],
    ):
        assert text in page.text
    assert "The provider declined: “declined”. The money is back on the account." in page.text
    assert {step["event"] for step in found["steps"]} <= set(page.text.split())
    (shown,) = [json.loads(text) for text in pre(tab(viewer, compensated, "json"))]
    assert shown == found


def pre(page: Page) -> list[str]:
    """The texts of its <pre> elements."""
    return [
        part.partition("</pre>")[0].partition("<bdi>")[2].partition("</bdi>")[0].replace("&#34;", '"')
        for part in page.html.split("<pre")[1:]
    ]


def test_the_journal_has_every_event_with_the_time_of_its_record_in_kafka(
    front: Front, viewer: Pages, compensated
):
    events: list[dict[str, str]] = []

    def page_with_times() -> Page | None:
        events[:] = viewer.json(f"{WITHDRAWALS}/{compensated}/events")["events"]  # its mail may come after its end
        page = viewer.get(f"{LIST}/{compensated}")
        bars = [about.get("class") for tag_, about in page.elements if tag_ == "rect"]
        # All but the last, which the saga service has stored before it was published; and the legend's own.
        return page if bars.count("waited") == len(events) - 1 + 1 else None

    page = wait_until(page_with_times, "Kafka has told the times")  # which the page does not wait for
    for event in events:
        assert event["type"] in page.text
    assert "not known any more" not in page.text


def test_where_kafka_has_a_record_no_more_the_page_says_so(front: Front, viewer: Pages):
    payment_id, account = uuid7(), front.open_account()
    at = datetime.now(UTC)
    request = WithdrawalRequested(
        payment_id=payment_id, account_id=account, amount_minor=100, currency="USD", occurred_at=at
    )
    front.send_request(request)
    front.finished(payment_id)
    moved = 'UPDATE event_store SET "offset" = "offset" + 7000000 WHERE payment_id = %s RETURNING 1'
    front.execute("saga", "ALTER TABLE event_store DISABLE TRIGGER USER")
    try:
        assert front.query("saga", moved, payment_id)
        wait_until(
            lambda: "not known any more" in viewer.get(f"{LIST}/{payment_id}").text,
            "Kafka has said that it is gone",
        )
        assert front.query("saga", moved.replace("+", "-"), payment_id)
    finally:
        front.execute("saga", "ALTER TABLE event_store ENABLE TRIGGER USER")


def test_events_have_their_payload_and_place(front: Front, viewer: Pages, compensated):
    page = tab(viewer, compensated, "events")
    events = front._on("saga", lambda connection: events_of(connection, compensated))
    for event, shown in zip(events, pre(page), strict=True):
        assert json.loads(shown) == json.loads(bytes(event.payload))
        if event.offset is not None:
            assert f"{event.topic}/{event.partition}@{event.offset}" in page.text
        assert str(event.event_id) in page.text


@pytest.mark.parametrize(
    ("amount", "bookings", "words"),
    [
        ("1.00", ["deduction −1.00 USD"], "taken once −1.00 USD"),
        ("1.05", ["deduction −1.05 USD", "refund +1.05 USD"], "given back 0.00 USD"),
        ("20000.00", [], "nothing was booked 0.00 USD"),
    ],
)
def test_the_ledger_sums_up_to_what_the_state_says(front: Front, shop, viewer: Pages, amount, bookings, words):
    payment_id = requested(shop, front.open_account(), amount)
    front.finished(payment_id)
    page = tab(viewer, payment_id, "ledger")
    assert words in page.text
    for booking in bookings:
        kind, _, value = booking.partition(" ")
        assert kind in page.text
        assert value in page.text


def test_what_is_retried_is_told_with_the_time_of_the_next_attempt(front: Front, shop, operator: Pages):
    payment_id = requested(shop, front.open_account(), "1.19")  # the provider does not answer
    wait_until(
        lambda: front.query(
            "payment", "SELECT 1 FROM payments WHERE payment_id = %s AND attempts = 1", payment_id
        ),
        "the first attempt has failed",
    )
    deducted(front, payment_id)
    # The payment service's database has two seconds to answer, each time.
    pending = wait_until(lambda: operator.json(f"{WITHDRAWALS}/{payment_id}/waiting")["pending"], "it says why")
    due = f"{datetime.fromisoformat(pending['next_attempt_at']):%Y-%m-%d %H:%M:%S}"
    # That of the journal is not waited for where Kafka takes its time.
    for name, said in (("attempts", (due, pending["reason"])), ("journal", (due,))):

        def has_it(name: str = name, said: tuple[str, ...] = said) -> bool:
            text = tab(operator, payment_id, name).text
            return all(one in text for one in said)

        wait_until(has_it, f"{name} has it")
    cancel = operator.client.post(f"{WITHDRAWALS}/{payment_id}/cancel", json={"reason": "asked to"}, headers=SAME)
    assert cancel.status_code == 202
    front.finished(payment_id)
    assert "It was cancelled." in operator.get(f"{LIST}/{payment_id}").text


def test_a_dead_letter_of_it_is_among_its_attempts(front: Front, shop, viewer: Pages, compensated):
    place = front.send(
        "account.events",
        json.dumps({"payment_id": str(compensated), "reason": EVIL}).encode(),
        "x",
        id=str(uuid7()),
        eventType="MoneyDeducted",
    )
    name = f"account.events/{place[0]}@{place[1]}"
    page = wait_until(
        lambda: name in (found := tab(viewer, compensated, "attempts")).text and found, "it is there"
    )
    (letter,) = viewer.json(f"/v1/dead-letters?payment_id={compensated}")["dead_letters"]
    assert letter["refusals"][0]["reason"] in page.text
    assert "None of its messages" not in page.text


def test_what_others_have_written_is_text_and_steers_nothing(front: Front, shop, viewer: Pages):
    account = front.open_account()
    with without(front, "payment"):
        payment_id = requested(shop, account)
        deducted(front, payment_id)
        failed = PaymentFailed(
            payment_id=payment_id,
            account_id=account,
            amount_minor=100,
            currency="USD",
            occurred_at=datetime.now(UTC),
            reason=EVIL,
        )
        front.send("payment.events", encode(failed), account, id=str(uuid7()), eventType="PaymentFailed")
        front.finished(payment_id)
        pages = [viewer.get(f"{LIST}?account_id={account}"), viewer.get(f"{LIST}/{payment_id}")]
        pages += [tab(viewer, payment_id, name) for name in ("events", "json")]
        for page in pages:
            assert [about for tag_, about in page.elements if tag_ == "script" and "src" not in about] == []
            assert "<script>alert" not in page.html
            assert "\u202e" not in page.html
            assert "הבנק סירב" in page.text


def test_it_is_live_from_the_request_to_the_end(front: Front, shop, viewer: Pages):
    account = front.open_account()
    with without(front, "payment") as start:
        payment_id = requested(shop, account)
        deducted(front, payment_id)
        page = viewer.get(f"{LIST}/{payment_id}")
        assert "off the account, not paid out" in page.text
        with viewer.stream(page.stream) as fragments:
            held_up = "payment service, which does not run"
            assert any(held_up in Page(text).text for name, text in fragments if name == "waits")
            start()
            last = {"standing": "", "journal": ""}  # either may be the first to say it
            while "data-finished" not in last["standing"] or "WithdrawalCompleted" not in last["journal"]:
                name, text = next(fragments)
                last[name] = text


def test_one_that_is_accepted_and_not_recorded_yet_has_its_page(front: Front, shop, viewer: Pages):
    with without(front, "relay"):
        payment_id = requested(shop, front.open_account())
        for name in ("journal", "events", "ledger", "attempts", "json"):
            assert "accepted" in tab(viewer, payment_id, name).text
    front.finished(payment_id)


def test_a_tab_that_there_is_not_is_an_error_in_words(viewer: Pages, compensated):
    viewer.get(f"{LIST}/{compensated}?tab=magic", 422)
