"""The picture of the flow: a box for each service, and what is away or late is marked."""

from datetime import UTC, datetime

import msgspec
import pytest

from api.console.diagram import BOX_WIDTH, CHAIN, WIDTH, diagram
from api.headline import BAD, OK, UNKNOWN, WARN, Headline
from api.looks import Endings, Flow, Outbox
from contracts.services import NAMES, READ_BY
from operations.lag import Progress
from operations.withdrawals import OpenOnes

FLOW = Flow(
    at=datetime(2026, 11, 30, tzinfo=UTC),
    headline=Headline(OK, "Money moves", []),
    steps=[Progress(name, topic.name, 3, 10.0, 10.0) for name, topics in READ_BY.items() for topic in topics],
    outboxes=[Outbox(name, 0, None, 0, True, 0) for name in NAMES],
    open=[OpenOnes("requested", 2, 0), OpenOnes("deducted", 5, 1), OpenOnes("compensating", 1, 0)],
    stuck_s=60.0,
    endings=Endings({"completed": 9.0, "compensated": 1.5}, 40.0),
    dead_letters=0,
    audit=None,
    away={},
    unasked={},
)


def with_outbox(name: str, **changed) -> Flow:
    outboxes = [msgspec.structs.replace(one, **changed) if one.service == name else one for one in FLOW.outboxes]
    return msgspec.structs.replace(FLOW, outboxes=outboxes)


def box(flow: Flow, name: str):
    return next(one for one in diagram(flow).boxes if one.name == name)


def test_boxes_and_arrows_are_in_the_order_of_a_withdrawals_way_and_within_the_picture():
    picture = diagram(FLOW)
    assert tuple(one.name for one in picture.boxes) == CHAIN
    assert [arrow.topic for arrow in picture.arrows] == [
        "withdrawal.requests",
        "account.events",
        "payment.events",
        "notification.events",
    ]
    for left, arrow, right in zip(picture.boxes, picture.arrows, picture.boxes[1:], strict=False):
        assert left.x + BOX_WIDTH < arrow.begin < arrow.end < right.x
    assert picture.boxes[-1].x + BOX_WIDTH == WIDTH
    assert picture.refunds == "1.5/s"
    assert {one.tone for one in (*picture.boxes, *picture.parts)} == {OK}
    assert picture.others == []


def test_a_box_says_lag_outbox_and_who_waits_for_it():
    assert [text for _, text in box(FLOW, "account").lines] == ["lag 6", "outbox empty", "3 wait for it"]
    assert [text for _, text in box(FLOW, "payment").lines] == ["lag 6", "outbox empty", "5 wait for it"]


@pytest.mark.parametrize(
    ("flow", "name", "tone", "said"),
    [
        (with_outbox("payment", rows=4, oldest_s=0.03), "payment", OK, "outbox 4"),
        (with_outbox("payment", rows=4, oldest_s=65.0), "payment", WARN, "outbox 4, 1 min 5 s"),
        (with_outbox("payment", dead_rows=2), "payment", WARN, "2 dead rows"),
        (with_outbox("payment", rows=4, active=False), "payment", BAD, "outbox 4, no relay"),
        (msgspec.structs.replace(FLOW, away={"saga": "does not run"}), "saga", BAD, "does not run"),
        (msgspec.structs.replace(FLOW, away={"the saga database": "x"}), "saga", BAD, "database is away"),
        (msgspec.structs.replace(FLOW, steps=None), "saga", UNKNOWN, "lag not known"),
        (msgspec.structs.replace(FLOW, outboxes=[]), "saga", OK, "outbox not known"),
        (
            msgspec.structs.replace(FLOW, steps=[Progress("payment", "account.events", 5_000, 10.0, 1.0)]),
            "payment",
            WARN,
            "lag 5,000",
        ),
    ],
)
def test_what_is_away_or_late_is_marked_and_said(flow, name, tone, said):
    found = box(flow, name)
    assert found.tone == tone
    assert said in [text for _, text in found.lines]


def test_the_relay_reads_every_outbox_only_if_one_reads_each_also_where_kafka_cannot_be_asked():
    def relay(flow: Flow) -> tuple[str, str]:
        return next((part.tone, part.why) for part in diagram(flow).parts if part.name == "the relay")

    assert relay(FLOW) == (OK, "reads every outbox")
    unread = with_outbox("payment", active=False)
    for flow in (unread, msgspec.structs.replace(unread, away={"Kafka": "x"}, steps=None)):
        assert relay(flow) == (BAD, "reads no outbox of payment")
    assert relay(msgspec.structs.replace(FLOW, outboxes=[])) == (UNKNOWN, "no outbox could be asked")


def test_parts_that_are_away_say_why_and_those_that_could_not_be_asked_as_well():
    flow = msgspec.structs.replace(
        FLOW,
        away={"Kafka": "does not answer", "payment": "does not run"},
        unasked={"the saga database": "no right"},
    )
    parts = {part.name: part for part in diagram(flow).parts}
    assert (parts["Kafka"].tone, parts["Kafka"].why) == (BAD, "does not answer")
    assert (parts["payment"].tone, parts["payment"].why) == (BAD, "does not run")
    assert (parts["the saga database"].tone, parts["the saga database"].why) == (UNKNOWN, "no right")
    assert parts["the account database"].tone == OK
