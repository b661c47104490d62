"""What would be republished: events that services lack, or the requests that only the API has; so many of them."""

from uuid import UUID

import pytest

from operations import lost, republish
from operations.lost import Lost, Preview

IDS = [UUID(int=number) for number in range(1, 6)]


@pytest.fixture
def looked(monkeypatch):
    """What is looked for, of which withdrawals; each has one event, and without names there is one of the last."""
    found = []

    def find(*_, payment_ids, limit, **__):
        found.append(payment_ids)
        of = payment_ids if payment_ids is not None else IDS[-1:]
        return [Lost(one, "WithdrawalRequested", one, "acc-1", "{}") for one in of[:limit]]

    monkeypatch.setattr(republish, "find", find)
    monkeypatch.setattr(republish, "lost_unless_behind", lambda *_: IDS[::-1])
    return found


def preview(**options) -> Preview:
    return republish.preview({}, "kafka", lost.lacking, **{"limit": 10, **options})


def ids_of(found: Preview) -> list[UUID]:
    return [one.payment_id for one in found.events]


def test_lost_requests_are_listed_up_to_the_limit_and_counted(looked):
    found = preview(limit=3)
    assert (ids_of(found), found.lost_requests, found.lost_requests_total) == (IDS[-1:], IDS[:3], 5)
    assert looked == [None]


def test_lost_requests_that_are_asked_for_are_found_up_to_the_limit_and_nothing_else(looked):
    found = preview(limit=3, only_lost_requests=True)
    assert (ids_of(found), found.lost_requests, found.lost_requests_total) == (IDS[:3], IDS[:3], 5)
    assert looked == [IDS[:3]]


def test_withdrawals_that_are_named_are_looked_for_alone(looked):
    found = preview(payment_ids=IDS[1:2])
    assert (ids_of(found), found.lost_requests, found.lost_requests_total) == (IDS[1:2], [], 0)


@pytest.mark.parametrize(("lost_requests", "total"), [([], 0), (None, None)])
def test_where_no_request_is_lost_or_nobody_can_tell_none_is_found(looked, monkeypatch, lost_requests, total):
    monkeypatch.setattr(republish, "lost_unless_behind", lambda *_: lost_requests)
    assert preview(only_lost_requests=True) == Preview([], lost_requests, total)
    assert looked == []
    assert ids_of(preview()) == IDS[-1:]
