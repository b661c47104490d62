"""The name of an outbox's replication slot: ``settle_outbox_<database>``, and never that of another outbox."""

import re
from dataclasses import replace
from hashlib import sha256
from typing import Any

import psycopg
from psycopg import sql

from outbox_relay.outbox import OUTBOX, Outbox
from outbox_relay.share import SUFFIX_LENGTH_MAX, SUFFIX_PATTERN

SLOT_PREFIX = "settle_outbox_"
NAME_LENGTH_MAX = 63
DIGEST_LENGTH = 8

_DATABASE = "SELECT current_database()::text"
_OTHERS = """
    SELECT slot_name::text FROM pg_replication_slots
    WHERE database = current_database() AND NOT temporary AND NOT active
        AND (slot_name = {} OR slot_name ~ {})
    ORDER BY slot_name
"""
_OWNERS = "SELECT slot_name::text, database::text FROM pg_replication_slots WHERE slot_name IN ({}, {})"


def slot_name(connection: psycopg.Connection[Any], outbox: Outbox = OUTBOX) -> str:
    """The name of the slot of an outbox of the database that is connected to, be it there or yet to be made.

    Slot names are unique in a server and know only a-z, 0-9 and ``_``, so databases may come to the same plain
    name (``pay-1``, ``pay_1``). Whose name had to be altered, or is taken, has a digest of it at its end. A slot
    with the plain name that is this database's own stays its slot: earlier versions knew no other names. That of
    another table than ``public.outbox`` always has a digest, and so has that of a share of an outbox, at whose end
    is which. Works on a replication connection too.
    """
    if outbox.share is not None:
        return f"{_of_shares(connection, outbox)}_{outbox.share.name}"
    if outbox.slot is not None:
        return outbox.slot
    (database,) = connection.execute(_DATABASE).fetchone() or ("",)
    if not outbox.is_standard:
        return _name(f"{database}_{outbox.table}", f"{database}/{outbox.identity}")
    plain, distinct = slot_names(database)
    query = sql.SQL(_OWNERS).format(sql.Literal(plain), sql.Literal(distinct))
    owners = dict(connection.execute(query).fetchall())
    if owners.get(plain) == database:
        return plain
    as_it_is = plain == SLOT_PREFIX + database
    return plain if as_it_is and plain not in owners and distinct not in owners else distinct


def _of_shares(connection: psycopg.Connection[Any], outbox: Outbox) -> str:
    """What the names of the slots of an outbox's shares begin with, however many there are."""
    if outbox.slot is not None:
        return outbox.slot[: NAME_LENGTH_MAX - SUFFIX_LENGTH_MAX]
    (database,) = connection.execute(_DATABASE).fetchone() or ("",)
    text = database if outbox.is_standard else f"{database}_{outbox.table}"
    return _name(text, f"{database}/{outbox.identity}", NAME_LENGTH_MAX - SUFFIX_LENGTH_MAX)


def other_slots(connection: psycopg.Connection[Any], outbox: Outbox) -> list[str]:
    """The slots of the same outbox that are left of when it was split otherwise, or not at all.

    Works on a replication connection too.
    """
    whole = slot_name(connection, replace(outbox, share=None))
    pattern = f"^{_of_shares(connection, outbox)}{SUFFIX_PATTERN}$"
    found = connection.execute(sql.SQL(_OTHERS).format(sql.Literal(whole), sql.Literal(pattern))).fetchall()
    of = f"of{outbox.share.of}" if outbox.share is not None else None
    own = slot_name(connection, outbox)
    return [name for (name,) in found if name != own and (of is None or name == whole or not name.endswith(of))]


def how_to_drop(name: str, outbox: Outbox) -> str:
    """What an operator runs to drop the slot of an outbox."""
    if outbox.is_standard and outbox.share is None:
        return "settle outbox slot drop"
    return f"SELECT pg_drop_replication_slot({sql.Literal(name).as_string()})"


def slot_names(database: str) -> tuple[str, str]:
    """The names that a database's slot may have: the plain one, and one that only this database comes to."""
    return _plain(database)[:NAME_LENGTH_MAX], _name(database, database)


def _plain(text: str) -> str:
    return SLOT_PREFIX + re.sub(r"[^a-z0-9_]", "_", text.lower())


def _name(text: str, whole: str, length: int = NAME_LENGTH_MAX) -> str:
    digest = sha256(whole.encode()).hexdigest()[:DIGEST_LENGTH]
    return f"{_plain(text)[: length - DIGEST_LENGTH - 1]}_{digest}"
