"""Offsets that Kafka deleted before a service had read them, kept in its database until a person has seen to it.

Retention that is shorter than an outage, or a deletion by hand, takes messages away that nobody will ever read.
The consumer group shows it for a moment only: when the service goes on, its confirmed offsets lie behind the hole.
So what was missed is written down first.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from psycopg import AsyncConnection

from contracts.postgres import session

# The same gap is found again where the offsets behind it were not confirmed, and may have grown meanwhile.
_WRITE = """
INSERT INTO gaps (topic, "partition", first, until) VALUES (%s, %s, %s, %s)
ON CONFLICT (topic, "partition", first) DO UPDATE SET until = excluded.until WHERE gaps.until < excluded.until
"""

_READ = """
SELECT topic, "partition", first, until, noticed_at, acknowledged_at, note FROM gaps
ORDER BY noticed_at, topic, "partition", first
"""

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
    """A gap as a service wrote it down, and what a person said of it; None where nobody has yet."""

    service: str
    gap: Gap
    noticed_at: datetime
    acknowledged_at: datetime | None
    note: str | None


async def write(connection: AsyncConnection, gaps: Sequence[Gap]) -> None:
    """Write gaps down; one that is known is not written twice.

    Raises:
        psycopg.Error: they are not written.
    """
    for gap in gaps:
        await connection.execute(_WRITE, (gap.topic, gap.partition, gap.first, gap.until))


def noted_gaps(dsns: Mapping[str, str]) -> list[NotedGap]:
    """What the services have missed, by service, the oldest first.

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
    """Say what became of gaps, for the audit to hold again: of these and no others, as they were when looked at.

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
