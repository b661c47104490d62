"""Rows by where they lie: their partition and the place within it, which is unique within its partition only.

Statements name no partitions, as those who may write to the table need no rights on them.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from outbox_relay.outbox import Outbox

PLACE = (sql.SQL("tableoid::int8"), sql.SQL("ctid::text"))

Places = Iterable[tuple[int, str]]
"""The partition's OID, and the place within it."""


def in_each_partition(
    connection: psycopg.Connection[Any], outbox: Outbox, statement: LiteralString, places: Places
) -> int:
    """Run a statement on rows by their places, partition by partition; returns how many were affected."""
    done = 0
    by_partition = defaultdict(list)
    for partition, place in places:
        by_partition[partition].append(place)
    query = outbox.sql(statement)
    for partition, there in by_partition.items():
        done += connection.execute(query, (partition, there)).rowcount
    return done
