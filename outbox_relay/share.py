"""A share of an outbox's rows: those of some keys, where one outbox is split over several slots.

The server says which share a row belongs to: by a filter of the share's publication and, where the table is read,
by the same condition. The hash is PostgreSQL's own, so no other place has to come to the same result. Rows of one
key are all in one share, rows without a key in the first one.

Source: PostgreSQL documentation, "Row Filters": of immutable built-in functions and built-in types.
"""

import re
from dataclasses import dataclass

from psycopg import sql

from outbox_relay.quoting import quoted

SHARES_MAX = 64
SUFFIX_LENGTH_MAX = len(f"_{SHARES_MAX}of{SHARES_MAX}")
SUFFIX_PATTERN = "_[0-9]+of[0-9]+"
"""How the names of a share's slot and publication end, as a regular expression."""

# By the type of the key; other types are extensions' or users', which a row filter may not have.
_HASHES = {
    "text": "hashtext",
    "varchar": "hashtext",
    "bpchar": "hashbpchar",
    "name": "hashname",
    "uuid": "uuid_hash",
    "int2": "hashint2",
    "int4": "hashint4",
    "int8": "hashint8",
    "numeric": "hash_numeric",
}
KINDS = "text, varchar, char, name, uuid, a type of integers or numeric"
# The sign is taken off, as a remainder would have it.
_FILTER = "mod(coalesce({hash}({key}) & 2147483647, 0), {of}) = {index}"
# How the server writes an expression differs from version to version in these only.
_NO_MATTER = re.compile(r"[\s()]|::text")


@dataclass(frozen=True)
class Share:
    """One of the shares of an outbox.

    Attributes:
        number: which, from 1 on.
        of: how many there are.
    """

    number: int
    of: int

    @property
    def name(self) -> str:
        """What it is called, as ``2of4``."""
        return f"{self.number}of{self.of}"


def condition(share: Share, key: str, kind: str) -> sql.Composable | None:
    """SQL for whether a row belongs to a share; None where the key's type cannot be in a row filter.

    Args:
        share: which.
        key: the name of the column that the rows are split by.
        kind: its type, as ``pg_type`` calls it; nothing where it is not known, and may be text.
    """
    function = _HASHES.get(kind or "text")
    if function is None:
        return None
    return sql.SQL(_FILTER).format(
        hash=sql.SQL(function),
        key=sql.SQL(quoted(key)),
        of=sql.SQL(str(share.of)),
        index=sql.SQL(str(share.number - 1)),
    )


def same(one: str, other: str) -> bool:
    """Whether two filters are the same, one as it was written and one as the server has it."""
    return _NO_MATTER.sub("", one).lower() == _NO_MATTER.sub("", other).lower()
