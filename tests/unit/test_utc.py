"""Every time is in UTC, whether it comes with a zone or without."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from processors.runtime import utc

LAST = datetime.max.replace(tzinfo=UTC)
FIRST = datetime.min.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-28T10:00:00Z", datetime(2026, 11, 28, 10, tzinfo=UTC)),
        ("2026-11-28T10:00:00+14:00", datetime(2026, 11, 27, 20, tzinfo=UTC)),
        ("2026-11-28T10:00:00+20:00", datetime(2026, 11, 27, 14, tzinfo=UTC)),
        ("2026-11-28 10:00:00.123456789z", datetime(2026, 11, 28, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-11-28T10:00:00", datetime(2026, 11, 28, 10, tzinfo=UTC)),
        ("9999-12-31T23:59:59-01:00", LAST),
        ("0001-01-01T00:00:00+01:00", FIRST),
        ("infinity", None),
        ("", None),
        (None, None),
        ("[/x]", None),
    ],
)
def test_a_time_of_a_message_is_a_moment_or_none(text, at):
    assert utc.parse(text) == at


def test_a_time_that_has_a_zone_is_moved_and_one_that_has_none_is_utc_already():
    east = datetime(2026, 11, 28, 10, tzinfo=timezone(timedelta(hours=14)))
    assert f"{utc.in_utc(east):%F %T}" == "2026-11-27 20:00:00"
    assert f"{utc.in_utc(datetime(2026, 11, 28)):%F %T %Z}" == "2026-11-28 00:00:00 UTC"
