"""The audit's reading: what five databases know of a withdrawal becomes one story, and nothing is left out."""

from contextlib import nullcontext
from types import SimpleNamespace
from uuid import UUID

import pytest

from operations.audit import sides
from operations.audit.story import AccountSide, NotificationSide, PaymentSide, ProviderSide, SagaSide, Story

FIRST, SECOND, THIRD = (UUID(int=number) for number in range(3))
QUERIES = dict(sides._SOURCES)


class Cursor(list):
    """Rows that come where the service's own query is asked for, a bounded number at a time."""

    def __init__(self, service, rows, ids):
        super().__init__(rows)
        self._service, self._ids = service, ids

    def execute(self, query, values):
        which = sides._SOME if self._ids is not None else ""
        assert query.decode() == QUERIES[self._service].replace("{which}", which)
        assert values == {"ids": self._ids}
        assert self.itersize == sides.FETCH_ROWS


@pytest.fixture
def stories(monkeypatch):
    """The stories that databases with these rows tell; the order in which they were asked."""

    def stories(ids=None, **rows):
        asked = []

        def session(service):
            asked.append(service)
            return nullcontext(SimpleNamespace(cursor=lambda _: Cursor(service, rows.get(service, ()), ids)))

        monkeypatch.setattr(sides, "session", session)
        return list(sides.stories({service: service for service in QUERIES}, ids)), asked

    return stories


def test_what_every_database_says_of_a_withdrawal_is_one_story(stories):
    found, _ = stories(
        account=[(FIRST, "a", 1, "USD", "deducted", 1, 2, -3, "z")],
        payment=[(FIRST, "b", 2, "EUR", "paid")],
        provider=[(FIRST, "c", 3, "GBP", "declined", 4)],
        saga=[(FIRST, "d", 4, "JPY", "completed", ["MoneyDeducted"], [SECOND])],
        notification=[(FIRST, 5, 6)],
    )
    assert found == [
        Story(
            FIRST,
            AccountSide(("a", 1, "USD"), "deducted", 1, 2, -3, "z"),
            PaymentSide(("b", 2, "EUR"), "paid"),
            ProviderSide(("c", 3, "GBP"), "declined", 4),
            SagaSide(("d", 4, "JPY"), "completed", ["MoneyDeducted"], [SECOND]),
            NotificationSide(5, 6),
        )
    ]


def test_a_withdrawal_that_only_some_databases_know_has_its_story_in_the_order_of_ids(stories):
    found, _ = stories(
        account=[(FIRST, "a", 1, "USD", "deducted", 1, 0, -1), (THIRD, "a", 1, "USD", "rejected", 0, 0, 0)],
        notification=[(SECOND, 1, 0), (THIRD, 1, 0)],
    )
    assert found == [
        Story(FIRST, account=AccountSide(("a", 1, "USD"), "deducted", 1, 0, -1)),
        Story(SECOND, notification=NotificationSide(1, 0)),
        Story(THIRD, AccountSide(("a", 1, "USD"), "rejected", 0, 0, 0), notification=NotificationSide(1, 0)),
    ]


def test_bookings_and_events_without_a_standing_have_no_contents(stories):
    ((found,), _) = stories(
        account=[(FIRST, None, None, None, None, 1, 0, -1)], saga=[(FIRST, None, None, None, None, ["New"], [])]
    )
    assert found == Story(FIRST, AccountSide(None, None, 1, 0, -1), saga=SagaSide(None, None, ["New"], []))


def test_later_services_are_read_before_those_that_must_know_as_much(stories):
    assert stories() == ([], ["saga", "notification", "provider", "payment", "account"])


def test_where_only_some_are_wanted_each_table_is_asked_for_those(stories):
    found, _ = stories([FIRST], notification=[(FIRST, 1, 0)])
    assert found == [Story(FIRST, notification=NotificationSide(1, 0))]
    tables = {"saga": 2, "account": 2}
    for service, query in QUERIES.items():
        assert query.count("{which}") == tables.get(service, 1)
