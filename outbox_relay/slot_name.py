"""The name of a database's replication slot: ``settle_outbox_<database>``, and never that of another database."""

import re
from hashlib import sha256
from typing import Any

import psycopg
from psycopg import sql

SLOT_PREFIX = "settle_outbox_"
NAME_LENGTH_MAX = 63
DIGEST_LENGTH = 8

_DATABASE = "SELECT current_database()::text"
_OWNERS = "SELECT slot_name::text, database::text FROM pg_replication_slots WHERE slot_name IN ({}, {})"


def slot_name(connection: psycopg.Connection[Any]) -> str:
    """The name of the slot of the database that is connected to, whether it exists or has yet to be made.

    Slot names are unique in a server and know only a-z, 0-9 and ``_``, so databases may come to the same plain
    name (``pay-1``, ``pay_1``). Whose name had to be altered, or is taken, has a digest of it at its end. A slot
    with the plain name that is this database's own stays its slot: earlier versions knew no other names.
    Works on a replication connection too.
    """
    (database,) = connection.execute(_DATABASE).fetchone() or ("",)
    plain, distinct = slot_names(database)
    query = sql.SQL(_OWNERS).format(sql.Literal(plain), sql.Literal(distinct))
    owners = dict(connection.execute(query).fetchall())
    if owners.get(plain) == database:
        return plain
    as_it_is = plain == SLOT_PREFIX + database
    return plain if as_it_is and plain not in owners and distinct not in owners else distinct


def slot_names(database: str) -> tuple[str, str]:
    """The names that a database's slot may have: the plain one, and one that only this database comes to."""
    plain = SLOT_PREFIX + re.sub(r"[^a-z0-9_]", "_", database.lower())
    digest = sha256(database.encode()).hexdigest()[:DIGEST_LENGTH]
    return plain[:NAME_LENGTH_MAX], f"{plain[: NAME_LENGTH_MAX - DIGEST_LENGTH - 1]}_{digest}"
