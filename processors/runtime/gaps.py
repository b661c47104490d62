"""Gaps: offsets that Kafka deleted before a service read them, recorded until an operator acknowledges them.

Retention that is shorter than an outage, or a deletion by hand, removes messages that are then never read.
The consumer group shows it only briefly: once the service resumes, its committed offsets lie behind the gap.
So gaps are recorded first.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from psycopg import AsyncConnection

from contracts.postgres import session

# The same gap is found again if the offsets behind it were not committed, and may have grown meanwhile: what was
# acknowledged was a smaller one.
_WRITE = """
INSERT INTO gaps (topic, "partition", first, until) VALUES (%s, %s, %s, %s)
ON CONFLICT (topic, "partition", first) DO UPDATE SET until = excluded.until, acknowledged_at = NULL, note = NULL
WHERE gaps.until < excluded.until
"""

_READ = """
SELECT topic, "partition", first, until, noticed_at, acknowledged_at, note FROM gaps
ORDER BY noticed_at, topic, "partition", first
"""

_UNACKNOWLEDGED = "SELECT topic, count(*) FROM gaps WHERE acknowledged_at IS NULL GROUP BY topic"

_ACKNOWLEDGE = """
UPDATE gaps SET acknowledged_at = now(), note = %s
WHERE acknowledged_at IS NULL AND (topic, "partition", first, until) IN (
    SELECT * FROM unnest(%s::text[], %s::integer[], %s::bigint[], %s::bigint[]))
"""


class Gap(msgspec.Struct, frozen=True):
    """Offsets of a partition, from ``first`` to before ``until``, that were deleted unread."""

    topic: str
    partition: int
    first: int
    until: int


class NotedGap(msgspec.Struct, frozen=True):
    """A gap as a service recorded it, with the operator's acknowledgement and note; None until acknowledged."""

    service: str
    gap: Gap
    noticed_at: datetime
    acknowledged_at: datetime | None
    note: str | None


async def write(connection: AsyncConnection, gaps: Sequence[Gap]) -> None:
    """Record gaps; a known one is not recorded twice, but one that has grown is to be acknowledged again.

    Raises:
        psycopg.Error: they are not written.
    """
    for gap in gaps:
        await connection.execute(_WRITE, (gap.topic, gap.partition, gap.first, gap.until))


async def unacknowledged(connection: AsyncConnection) -> dict[str, int]:
    """How many gaps wait for an operator, by topic; topics without one are left out.

    Raises:
        psycopg.Error: the database does not say.
    """
    return {topic: count async for topic, count in await connection.execute(_UNACKNOWLEDGED)}


def noted_gaps(dsns: Mapping[str, str]) -> list[NotedGap]:
    """The gaps of all services, by service, the oldest first.

    Args:
        dsns: of the services' databases, by their names.

    Raises:
        psycopg.OperationalError: a database does not answer.
    """
    found = []
    for service, dsn in dsns.items():
        with session(dsn) as connection:
            for row in connection.execute(_READ):
                found.append(NotedGap(service, Gap(*row[:4]), *row[4:]))  # noqa: PERF401
    return found


def acknowledge(dsns: Mapping[str, str], gaps: Sequence[NotedGap], note: str) -> int:
    """Acknowledge gaps, so that the audit holds again: these and no others, as they were when read.

    Args:
        dsns: of the services' databases, by their names.
        gaps: as :func:`noted_gaps` found them.
        note: what was done about it.

    Returns:
        How many were acknowledged now.

    Raises:
        psycopg.OperationalError: a database does not answer.
    """
    count = 0
    for service, dsn in dsns.items():
        of_service = [noted.gap for noted in gaps if noted.service == service]
        columns = [[getattr(gap, name) for gap in of_service] for name in ("topic", "partition", "first", "until")]
        with session(dsn) as connection:
            count += connection.execute(_ACKNOWLEDGE, (note, *columns)).rowcount
    return count
