"""Groups of dead letters: each has as many as the filter that opens it finds."""

from datetime import UTC, datetime

import pytest

from broker.records import Record
from operations.dead_letters.letters import Letter, Refusal, Wanted
from operations.dead_letters.pages import ALL, GROUPS_MAX, groups, matching

AT = datetime(2026, 11, 30, tzinfo=UTC)


def letter(offset: int, *reasons: str, topic: str = "account.events", error: str | None = None) -> Letter:
    record = Record(topic, 0, offset, b"acc-1", b"{}", [])
    return Letter(record.place, record, [Refusal("saga", reason, error, AT) for reason in reasons])


LETTERS = [
    letter(1, "no amount"),
    letter(2, "no amount", "too late"),
    letter(3, "No Amount at all"),
    letter(4, "it broke", error="no amount"),
    letter(5, "no amount", topic="payment.events"),
    letter(6, "x" * 400),
    letter(7, "x" * 400 + "y"),
]


@pytest.mark.parametrize("length_max", [300, 1_000])
def test_a_group_has_as_many_as_the_filter_that_opens_it_finds(length_max):
    found = groups(LETTERS, length_max)
    assert found == sorted(found, key=lambda one: -one.letters)
    for group in found:
        opened = matching(LETTERS, Wanted(topic=group.topic, reason=group.reason), ALL)
        assert len(opened) == group.letters, group


def test_groups_are_of_reason_and_topic_and_every_letter_is_in_one():
    found = {(one.topic, one.reason): one.letters for one in groups(LETTERS, 300)}
    assert found["account.events", "no amount"] == 4
    assert found["payment.events", "no amount"] == 1
    assert found["account.events", "too late"] == 1
    assert found["account.events", "x" * 300] == 2
    assert len(found) == 6


def test_the_most_frequent_reasons_are_the_groups_where_there_are_too_many():
    many = [letter(n, f"reason {n:03}") for n in range(GROUPS_MAX + 10)] + [
        letter(500 + n, "often") for n in range(3)
    ]
    found = groups(many, 300)
    assert len(found) == GROUPS_MAX
    assert found[0][1:] == ("often", 3)
