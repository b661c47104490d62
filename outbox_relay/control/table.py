"""The table of what is asked of an outbox's relay: an append-only log of acts, and of what came of each.

It stands beside the outbox, so that what is asked holds across restarts, for whichever relay reads the outbox. An
act is a row; what came of it is another one, which names the act (``about``). Nothing is ever changed or deleted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import class_row

from outbox_relay.errors import SetupError
from outbox_relay.outbox import Outbox
from outbox_relay.position import format_lsn, parse_lsn
from outbox_relay.quoting import quoted

PAUSE: Final = "pause"
RESUME: Final = "resume"
REWIND: Final = "rewind"
SKIP: Final = "skip"
RETRY: Final = "retry"
DISCARD: Final = "discard"
DROP_SLOT: Final = "drop-slot"
DONE: Final = "done"
REFUSED: Final = "refused"

CREATE_TABLE: LiteralString = """
    CREATE TABLE IF NOT EXISTS {control} (
        number   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        act      text NOT NULL,
        about    bigint,
        who      text NOT NULL,
        why      text,
        role     text NOT NULL DEFAULT session_user,
        row_id   text,
        since    timestamptz,
        position pg_lsn NOT NULL DEFAULT pg_current_wal_insert_lsn(),
        outcome  text
    )
"""
"""``about``: of an outcome (``done``, ``refused``), the number of the act; ``position``: where the log ended then,
or where the row that was skipped, or taken out of the dead rows, had been committed."""

_IS_THERE = "SELECT to_regclass({control_name}) IS NOT NULL"
_MAY = "SELECT has_table_privilege({control_name}, 'SELECT'), has_table_privilege({control_name}, 'INSERT')"
# Read backwards by the primary key: whoever asks twice a second finds it at the end.
_NEWEST = """
    SELECT number FROM {control} WHERE act IN ('pause', 'resume', 'rewind', 'skip') ORDER BY number DESC LIMIT 1
"""
TIME_MIN, TIME_MAX = datetime(1970, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)
"""Of an act. PostgreSQL has times beyond, which Python cannot read."""
# Whoever may write to the table can write any time; the nearest that can be read is taken for it.
_READABLE = f"CASE WHEN {{0}} IS NOT NULL THEN least(greatest({{0}}, '{TIME_MIN}'), '{TIME_MAX}') END"
_ACTS = f"""
    SELECT a.number, {_READABLE.format("a.at")} AS at, a.act, a.who, a.why, a.role, a.row_id,
        {_READABLE.format("a.since")} AS since, a.position::text AS lsn,
        o.act AS ended, o.outcome, {_READABLE.format("o.at")} AS ended_at
    FROM {{control}} AS a LEFT JOIN LATERAL (
        SELECT act, outcome, at FROM {{control}} WHERE about = a.number ORDER BY number LIMIT 1
    ) AS o ON true
    WHERE a.about IS NULL AND {{condition}} ORDER BY a.number DESC LIMIT {{limit}}
"""  # noqa: S608 made of constants
_SWITCHES: LiteralString = "a.act IN ('pause', 'resume')"
_PENDING: LiteralString = "a.act IN ('skip', 'rewind') AND o.act IS NULL"
_GONE = """
    SELECT o.position::text, a.row_id FROM {control} AS a JOIN {control} AS o ON o.about = a.number
    WHERE a.act IN ('skip', 'retry', 'discard') AND o.act = 'done' AND o.position >= {lsn}::pg_lsn
"""
_INSERT = """
    INSERT INTO {control} (act, about, who, why, row_id, since, position, outcome)
    VALUES (%(act)s, %(about)s, %(who)s, %(why)s, %(row_id)s, %(since)s,
        coalesce(%(lsn)s::pg_lsn, pg_current_wal_insert_lsn()), %(outcome)s) RETURNING number
"""
# Those before it have had no effect, and never will.
_ANSWER_SWITCHES = """
    INSERT INTO {control} (act, about, who, outcome)
    SELECT CASE WHEN a.number = %(number)s THEN 'done' ELSE 'refused' END, a.number, %(who)s,
        CASE WHEN a.number = %(number)s THEN %(outcome)s ELSE 'asked otherwise before the relay noticed' END
    FROM {control} AS a
    WHERE a.act IN ('pause', 'resume') AND a.number <= %(number)s
        AND NOT EXISTS (SELECT FROM {control} AS o WHERE o.about = a.number)
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('settle-relay control ' || {control_name}, 0))"

PENDING_MAX = 10_000
"""Acts that wait for their effect at a time, and are read."""


@dataclass(frozen=True)
class Act:
    """Something that was asked of a relay.

    Attributes:
        number: of its row.
        at: when.
        act: ``pause``, ``resume``, ``rewind``, ``skip``, ``retry``, ``discard`` or ``drop-slot``.
        who: says that, and the ``role`` that it had in the database.
        why: the reason.
        row_id: which row, where it is about one.
        since: a time, for ``rewind``.
        lsn: where the log ended when it was asked.
        ended: ``done`` or ``refused``; None while it has not taken effect.
        outcome: what came of it, in one line, and ``ended_at`` when.
    """

    number: int
    at: datetime
    act: str
    who: str
    why: str | None
    role: str
    row_id: str | None
    since: datetime | None
    lsn: str
    ended: str | None
    outcome: str | None
    ended_at: datetime | None

    @property
    def position(self) -> int:
        """The same position as a number."""
        return parse_lsn(self.lsn)

    @property
    def as_pause(self) -> str:
        """What a pause says of the source, for people."""
        return f"paused since {self.at.astimezone(UTC):%F %T} UTC by {self.by}"

    @property
    def by(self) -> str:
        """Who asked, and why, for people."""
        return self.who if self.why is None else f"{self.who}: {self.why}"


@dataclass(frozen=True)
class Orders:
    """What is asked of a source now.

    Attributes:
        newest: number of the newest act that a relay has to look at; 0 without any.
        pause: the one in force.
        resumed: the act that ended the last pause, while nobody has said that it took effect.
        skips: rows that are to be skipped, by their IDs as the readers have them.
        rewind: the oldest that is to be done.
    """

    newest: int = 0
    pause: Act | None = None
    resumed: Act | None = None
    skips: dict[bytes, Act] = field(default_factory=dict)
    rewind: Act | None = None


NOTHING = Orders()
"""What is asked where nothing is."""


class LenientLoader(Loader):
    """Text of a database with encoding SQL_ASCII, which need not be UTF-8."""

    def load(self, data: Buffer) -> str:
        """What of it is UTF-8, and the rest as escapes."""
        return bytes(data).decode(errors="backslashreplace")


def create_table(outbox: Outbox) -> str:
    """The statement that creates the table."""
    return outbox.text(CREATE_TABLE)


def has_table(connection: psycopg.Connection[Any], outbox: Outbox) -> bool:
    """Whether the table is there."""
    return bool(_one(connection, outbox.sql(_IS_THERE))[0])


def rights(connection: psycopg.Connection[Any], outbox: Outbox) -> tuple[bool, bool]:
    """Whether the role may read the table, and write to it."""
    may_select, may_insert = _one(connection, outbox.sql(_MAY))
    return may_select, may_insert


def how_to_grant(connection: psycopg.Connection[Any], outbox: Outbox) -> str:
    """What the table's owner runs for the role that is connected."""
    return f"GRANT SELECT, INSERT ON {outbox.control_label} TO {quoted(connection.info.user)}"


def ensure(connection: psycopg.Connection[Any], outbox: Outbox) -> None:
    """Create the table if it is missing.

    Raises:
        SetupError: the role may not; the text says what the owner of the outbox is to run.
    """
    if has_table(connection, outbox):
        return
    try:
        connection.execute(create_table(outbox).encode())
    except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject):
        pass  # somebody else was faster: with its rows in the catalog, the table, or the type of its rows
    except psycopg.errors.InsufficientPrivilege:
        raise SetupError(
            f"there is no table {outbox.control_label}, where it is kept what is asked of the relay. Let the "
            f"outbox's owner run: {create_table(outbox)}; {how_to_grant(connection, outbox)}"
        ) from None


def newest(connection: psycopg.Connection[Any], outbox: Outbox) -> int:
    """The number of the newest act that a relay has to look at; 0 without any, or without the table.

    Raises:
        SetupError: the role may not read the table.
    """
    try:
        if not has_table(connection, outbox):
            return 0
        row = connection.execute(outbox.sql(_NEWEST)).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        raise SetupError(
            f"what is asked of the relay cannot be read: {how_to_grant(connection, outbox)}"
        ) from None
    return row[0] if row else 0


def orders(connection: psycopg.Connection[Any], outbox: Outbox) -> Orders:
    """What is asked of the outbox's relay now.

    Raises:
        SetupError: the role may not read the table.
    """
    with connection.transaction():
        number = newest(connection, outbox)
        if not number:
            return NOTHING
        switch = next(iter(_acts(connection, outbox, _SWITCHES, 1)), None)
        pending = _acts(connection, outbox, _PENDING, PENDING_MAX)
    is_paused = switch is not None and switch.act == PAUSE
    return Orders(
        number,
        switch if is_paused else None,
        switch if switch is not None and not is_paused and switch.ended is None else None,
        {(one.row_id or "").encode(): one for one in pending if one.act == SKIP},
        next((one for one in reversed(pending) if one.act == REWIND), None),
    )


def acts(connection: psycopg.Connection[Any], outbox: Outbox, limit: int) -> list[Act]:
    """The newest acts, the newest first; none without the table."""
    return _acts(connection, outbox, "true", limit) if has_table(connection, outbox) else []


def find(connection: psycopg.Connection[Any], outbox: Outbox, number: int) -> Act | None:
    """An act by its number."""
    found = _acts(connection, outbox, "a.number = {number}", 1, number=sql.Literal(number))
    return found[0] if found else None


def gone(connection: psycopg.Connection[Any], outbox: Outbox, lsn: int) -> set[tuple[int, bytes]]:
    """The rows that were skipped, or taken out of the dead rows, among those committed at ``lsn`` or later.

    Returns:
        Where each was committed, and its ID.
    """
    with connection.cursor() as cursor:
        if not has_table(connection, outbox):
            return set()
        cursor.adapters.register_loader("text", LenientLoader)
        found = cursor.execute(outbox.sql(_GONE, lsn=sql.Literal(format_lsn(lsn)))).fetchall()
    return {(parse_lsn(position), row_id.encode()) for position, row_id in found}


def take_turn(connection: psycopg.Connection[Any], outbox: Outbox) -> None:
    """Wait until nobody else writes an act of this outbox; to be called in a transaction, for its length."""
    connection.execute(outbox.sql(_LOCK))


def write(
    connection: psycopg.Connection[Any],
    outbox: Outbox,
    act: str,
    who: str,
    why: str | None = None,
    *,
    row_id: str | None = None,
    since: datetime | None = None,
) -> int:
    """Write an act down; returns its number.

    Raises:
        SetupError: the role may not.
    """
    return _insert(connection, outbox, act=act, who=who, why=why, row_id=row_id, since=since)


def answer(
    connection: psycopg.Connection[Any],
    outbox: Outbox,
    number: int,
    ended: str,
    outcome: str,
    *,
    who: str = "relay",
    lsn: int | None = None,
) -> None:
    """Write down what came of an act.

    Args:
        connection: to the outbox's database.
        outbox: whose relay was asked.
        number: of the act.
        ended: ``done`` or ``refused``.
        outcome: in one line.
        who: says so.
        lsn: where the row that was skipped, or taken out of the dead rows, had been committed.

    Raises:
        SetupError: the role may not.
    """
    position = format_lsn(lsn) if lsn is not None else None
    _insert(connection, outbox, act=ended, about=number, who=who, outcome=outcome, lsn=position)


def answer_switch(connection: psycopg.Connection[Any], outbox: Outbox, act: Act, outcome: str) -> None:
    """Write down that a pause, or its end, took effect, and that earlier ones nobody noticed did not.

    Raises:
        SetupError: the role may not.
    """
    values = {"number": act.number, "who": "relay", "outcome": outcome}
    try:
        connection.execute(outbox.sql(_ANSWER_SWITCHES), values)
    except psycopg.errors.InsufficientPrivilege:
        raise _may_not_write(connection, outbox) from None


def _insert(connection: psycopg.Connection[Any], outbox: Outbox, **given: Any) -> int:
    names = ("act", "about", "who", "why", "row_id", "since", "lsn", "outcome")
    values: Mapping[str, Any] = dict.fromkeys(names) | given
    try:
        (number,) = _one(connection, outbox.sql(_INSERT), values)
    except psycopg.errors.InsufficientPrivilege:
        raise _may_not_write(connection, outbox) from None
    return int(number)


def _may_not_write(connection: psycopg.Connection[Any], outbox: Outbox) -> SetupError:
    return SetupError(f"what came of an act cannot be written down: {how_to_grant(connection, outbox)}")


def _acts(
    connection: psycopg.Connection[Any],
    outbox: Outbox,
    condition: LiteralString,
    limit: int,
    **parts: sql.Composable,
) -> list[Act]:
    query = outbox.sql(_ACTS, condition=sql.SQL(condition).format(**parts), limit=sql.Literal(limit))
    cursor = connection.cursor(row_factory=class_row(Act))
    cursor.adapters.register_loader("text", LenientLoader)
    return cursor.execute(query).fetchall()


def _one(connection: psycopg.Connection[Any], query: sql.Composed, values: Any = None) -> Any:
    return connection.execute(query, values).fetchone()
