"""What is wrong with an outbox, in words, the worst first."""

from dataclasses import replace

import pytest

from api.console.outbox_words import wrong
from api.headline import BAD, OK, UNKNOWN, WARN
from outbox_relay.status import OutboxStatus

WELL = OutboxStatus(
    "account", "settle_outbox_account", True, "reserved", "0/1", 0, 56, 3, 8_192, 0, None, missing_topics=()
)


def test_one_that_is_as_it_should_be_says_so():
    assert [one.tone for one in wrong(WELL, 0.2)] == [OK]


@pytest.mark.parametrize(
    ("changed", "oldest_s", "tone", "words"),
    [
        ({"active": False}, 0.1, BAD, "no relay reads it, and 3 rows wait: start the relay"),
        ({"active": False, "rows": 0}, None, BAD, "no relay reads it: start the relay"),
        ({"gap": "there is no publication: do this"}, None, BAD, "there is no publication: do this"),
        ({"missing_topics": ("x",)}, None, BAD, "waits for topic x, which does not exist"),
        ({"missing_topics": ("x", "y")}, None, BAD, "waits for topic x, y, which do not exist"),
        ({"wal_status": "unreserved"}, None, BAD, "about to remove log"),
        (
            {"paused": "paused since 1 by a: b"},
            90.0,
            WARN,
            "paused since 1 by a: b, and 3 rows wait: `outbox-relay",
        ),
        ({"dead_rows": 1}, None, WARN, "1 dead row needs a person"),
        ({"dead_rows": 1_200}, None, WARN, "1,200 dead rows need a person"),
        ({}, 12.0, WARN, "its oldest row is 12 s old"),
        ({"missing_topics": None}, None, UNKNOWN, "Kafka does not say"),
    ],
)
def test_what_is_wrong_is_said(changed, oldest_s, tone, words):
    first = wrong(replace(WELL, **changed), oldest_s)[0]
    assert first.tone == tone
    assert words in first.text


def test_an_unread_slot_says_what_it_keeps_after_what_is_worse():
    said = wrong(replace(WELL, active=False, retained_bytes=1_200_000_000, dead_rows=1), None)
    assert [one.tone for one in said] == [BAD, WARN, WARN]
    assert "1.2 GB" in said[2].text
    assert not any("keep" in one.text for one in wrong(replace(WELL, active=False, slot=None), None))


def test_a_paused_one_is_not_said_to_have_no_relay():
    said = wrong(replace(WELL, active=False, paused="paused since 1 by a: b", retained_bytes=1_200_000_000), 90.0)
    assert [one.tone for one in said] == [WARN, WARN]
    assert not any("no relay" in one.text or "oldest" in one.text for one in said)
