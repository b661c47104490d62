"""Parsing of times into UTC, whatever form a database, its session or a message gives them.

PostgreSQL knows times that Python does not (``infinity``, the year 10000, years before Christ), renders them in
the time zone and style of its session, and refuses some that a message may hold. Nothing here fails on any of
them: an out-of-range time becomes the nearest one that Python knows.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format

_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class _TimestamptzLoader(Loader):
    """In binary a time is microseconds since 2000 in UTC, and depends on no setting."""

    format = Format.BINARY

    def load(self, data: Buffer) -> datetime:
        microseconds = int.from_bytes(data, "big", signed=True)
        try:
            return _POSTGRES_EPOCH + timedelta(microseconds=microseconds)
        except OverflowError:
            return _LAST if microseconds > 0 else _FIRST


def cursor(connection: psycopg.Connection[Any]) -> psycopg.Cursor[Any]:
    """A cursor whose ``timestamptz`` columns are times in UTC, in whatever time zone and style the session is."""
    found = connection.cursor(binary=True)
    found.adapters.register_loader("timestamptz", _TimestamptzLoader)
    return found


def in_utc(at: datetime) -> datetime:
    """The same instant in UTC; a time without a zone is taken as UTC."""
    if at.tzinfo is None:
        return at.replace(tzinfo=UTC)
    try:
        return at.astimezone(UTC)
    except OverflowError:
        return _LAST if at.year > 1 else _FIRST


def parse(text: str | None) -> datetime | None:
    """A time as messages write it (ISO 8601); None where it is invalid."""
    try:
        return in_utc(datetime.fromisoformat(text.upper())) if text else None
    except ValueError:
        return None
