"""The quarantine of outbox rows that can never be published: a table beside the outbox, with the reason of each.

Only a row that makes no record, or one that Kafka will never accept (too large, an invalid topic name), is
quarantined; all other errors are waited for. Later rows are published, so its order is lost: an operator decides
whether it is still published. The table accepts any content of a row: text of any length, bytes, NULL.
"""

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.rows import class_row

from outbox_relay.acknowledgements import DeliveryReport, Transaction
from outbox_relay.columns import Columns, as_bytes, find_columns, is_row
from outbox_relay.control.table import DONE, LenientLoader, answer
from outbox_relay.errors import RelayError, SetupError, SkippedError, UnpublishableError
from outbox_relay.identity import contents, key_in_table
from outbox_relay.outbox import OUTBOX, ROLES, ROLES_CONTENTS, Outbox
from outbox_relay.position import format_lsn, parse_lsn
from outbox_relay.quoting import quoted
from outbox_relay.replication import connect
from outbox_relay.row import OutboxRow
from outbox_relay.stages import Publish
from outbox_relay.table import ALL_ROWS, Table, scalar

CREATE_TABLE = """
    CREATE TABLE IF NOT EXISTS {dead} (
        id            text,
        aggregatetype text,
        aggregateid   text,
        type          text,
        payload       bytea,
        traceparent   text,
        tracestate    text,
        position      pg_lsn NOT NULL,
        reason        text NOT NULL,
        died_at       timestamptz NOT NULL DEFAULT now(),
        number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY{additional}
    )
"""
"""To be formatted by :func:`create_table`."""
# The values of the outbox's additional columns, where it has some.
ADDITIONAL = "additional bytea[]"
_ADD_ADDITIONAL = "ALTER TABLE {dead} ADD COLUMN IF NOT EXISTS additional bytea[]"
UPGRADE_TABLE = """
    ALTER TABLE {dead}
        DROP CONSTRAINT IF EXISTS outbox_dead_pkey,
        ALTER id DROP NOT NULL, ALTER aggregatetype DROP NOT NULL, ALTER aggregateid DROP NOT NULL,
        ALTER type DROP NOT NULL, ALTER payload DROP NOT NULL,
        ALTER payload TYPE bytea USING convert_to(payload::text, 'UTF8'),
        ADD number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY
"""
"""From the table that older versions made, which held JSON alone, and one row of each ID."""

# Whether the payload is bytes; no row without the table.
_IS_NEW = """
    SELECT atttypid = 'bytea'::regtype FROM pg_attribute
    WHERE attrelid = to_regclass({dead_name}) AND attname = 'payload'
"""
_CONTENTS = " || ".join(
    f"coalesce(sha256({name}), '-')"
    for name in (*(f"textsend({name})" for name in ROLES[: ROLES_CONTENTS - 1]), "{bytes}")
)
_SINCE = f"""
    SELECT position::text, {_CONTENTS} FROM {{dead}} WHERE position >= {{lsn}}::pg_lsn
"""  # noqa: S608 made of constants
_LIVING = "coalesce({key} NOT IN (SELECT {key_of_dead} FROM {dead} WHERE {key_of_dead} IS NOT NULL), true)"
_INSERT_DEAD = f"""
    INSERT INTO {{dead}} ({", ".join(ROLES)}, position, reason{{name_of_more}})
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s{{more}})
"""  # noqa: S608 made of constants
_LIST = """
    SELECT number, id, aggregatetype, aggregateid, type, octet_length(payload) AS payload_bytes, reason, died_at,
        position::text
    FROM {dead} ORDER BY died_at, number
"""
_TAKE = f"""
    DELETE FROM {{dead}} WHERE number = %s
    RETURNING {", ".join(f"textsend({name})" if name != "payload" else name for name in ROLES)}{{more}}
"""  # noqa: S608 made of constants
RETRY_FUNCTION = "public.settle_outbox_dead_retry(bigint)"
DISCARD_FUNCTION = "public.settle_outbox_dead_discard(bigint)"
"""Functions that ``settle migrate --grant`` makes, for a role that may not write the tables itself."""

_IS_THERE = "SELECT to_regprocedure(%s) IS NOT NULL"
_FORGET = "DELETE FROM {table} WHERE {is_row}"
_PUT_BACK = "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values})"

# The longest ID used as a row's name, and the prefix of the number that names a row with another ID.
NAME_LENGTH_MAX = 100
NUMBER = "number:"

DeadRows = AbstractSet[tuple[int, bytes]]
"""Quarantined rows: where each was committed, and what identifies it (:func:`contents`)."""


@dataclass(frozen=True)
class DeadRow:
    """A row that could not be published, as a person sees it; whatever was NULL is None.

    Attributes:
        position: where it was committed in the log, as PostgreSQL writes it.
    """

    number: int
    id: str | None
    aggregatetype: str | None
    aggregateid: str | None
    type: str | None
    payload_bytes: int | None
    reason: str
    died_at: datetime
    position: str

    @property
    def name(self) -> str:
        """The row's name in commands: its ID, or ``number:7`` where that is NULL or cannot be typed."""
        row_id = self.id or ""
        plain = row_id.isascii() and row_id.isprintable() and " " not in row_id and len(row_id) <= NAME_LENGTH_MAX
        return row_id if row_id and plain else f"{NUMBER}{self.number}"


class Quarantine:
    """Quarantines rows of an outbox, over a connection of its own that is opened for the first one.

    Args:
        dsn: of the database.
        outbox: whose rows.
    """

    def __init__(self, dsn: str, outbox: Outbox) -> None:
        self._dsn = dsn
        self._outbox = outbox
        self._connection: psycopg.Connection[Any] | None = None

    def add(self, error: UnpublishableError) -> None:
        """Quarantine a row, see :func:`quarantine`; of one that is skipped, write down that it was."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._dsn, replication=False)
        if not isinstance(error, SkippedError):
            quarantine(self._connection, error, self._outbox)
            return
        # Both or nothing: a row that was skipped once may be put back, and is published then.
        with self._connection.transaction():
            quarantine(self._connection, error, self._outbox)
            answer(self._connection, self._outbox, error.act, DONE, "in the table of dead rows", lsn=error.lsn)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Text(bytes):
    """Text as received from the database, sent back unchanged whatever the type of its column."""


class _TextDumper(Dumper):
    def dump(self, obj: _Text) -> Buffer:
        return obj


def create_table(outbox: Outbox = OUTBOX) -> str:
    """The statement that creates the table of an outbox's dead rows."""
    return outbox.text(CREATE_TABLE, additional=f", {ADDITIONAL}" if outbox.additional else "")


def has_dead(connection: psycopg.Connection[Any], outbox: Outbox = OUTBOX) -> bool:
    """Whether there is a table of dead rows."""
    return scalar(connection, outbox.sql(_IS_NEW)) is not None


def bring_up_to_date(connection: psycopg.Connection[Any], outbox: Outbox) -> None:
    """Upgrade an old table of dead rows, where the role may.

    This is for the start of a session: later, the session's own locks would be waited for.
    """
    if scalar(connection, outbox.sql(_IS_NEW)) is False:
        with suppress(psycopg.errors.InsufficientPrivilege):  # reported when the first row is quarantined
            connection.execute(outbox.sql(UPGRADE_TABLE))


def dead_since(connection: psycopg.Connection[Any], lsn: int, outbox: Outbox = OUTBOX) -> set[tuple[int, bytes]]:
    """The dead among the rows committed at ``lsn`` or later; works on a replication connection too."""
    is_new = scalar(connection, outbox.sql(_IS_NEW))
    if is_new is None:
        return set()
    query = outbox.sql(_SINCE, bytes=_payload(is_new=is_new), lsn=sql.Literal(format_lsn(lsn)))
    return {(parse_lsn(position), digest) for position, digest in connection.execute(query)}


def living(connection: psycopg.Connection[Any], table: Table) -> sql.Composable:
    """SQL for whether a row of the table is not among the dead: by its UUID, or else by its ID and contents."""
    is_new = scalar(connection, table.outbox.sql(_IS_NEW))
    if is_new is None:
        return ALL_ROWS
    outbox, by_id = table.outbox, {"key": as_bytes("id", table.columns), "key_of_dead": sql.SQL("textsend(id)")}
    if table.has_uuids:
        return outbox.sql(_LIVING, **by_id)
    # Contents may be large: they are looked at only where a row's ID stands among the dead.
    of_dead = sql.SQL(f"sha256({_CONTENTS})").format(bytes=_payload(is_new=is_new))
    by_contents = outbox.sql(_LIVING, key=key_in_table(table.columns), key_of_dead=of_dead)
    has_id = sql.SQL("{} IS NOT NULL").format(by_id["key"])
    return sql.SQL("({} AND {} OR {})").format(has_id, outbox.sql(_LIVING, **by_id), by_contents)


def _payload(*, is_new: bool) -> sql.SQL:
    """SQL for the bytes of a dead row's payload."""
    return sql.SQL("payload" if is_new else "textsend(payload::text)")


def not_dead(publish: Publish, dead: DeadRows) -> Publish:
    """The same stage, without the dead; the stage itself where there are none."""
    if not dead:
        return publish
    places = {lsn for lsn, _ in dead}

    def publish_living(row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport, /) -> None:
        lsn = transaction.commit_lsn
        if lsn in places and (lsn, contents(row)) in dead:
            transaction.leave(row)
        else:
            publish(row, transaction, on_delivery)

    return publish_living


def quarantine(connection: psycopg.Connection[Any], error: UnpublishableError, outbox: Outbox = OUTBOX) -> None:
    """Insert a row into the table of dead rows, which is created if missing.

    Raises:
        SetupError: the role may not, or the table has its old form; the text says what to run.
        psycopg.Error: the database cannot.
    """
    texts: list[bytes | None] = list(error.row[: len(ROLES)])  # type: ignore[arg-type]
    values = [
        value if value is None or role == "payload" else _Text(value)
        for role, value in zip(ROLES, texts, strict=True)
    ]
    additional = [list(error.row.additional)] if outbox.additional else []
    # Whatever the database's encoding is, it has these.
    reason = error.reason.encode("ascii", "backslashreplace").decode()
    is_new = scalar(connection, outbox.sql(_IS_NEW))
    if is_new is False:
        raise _not_allowed(connection, reason, outbox, outbox.text(UPGRADE_TABLE))
    insert = outbox.sql(
        _INSERT_DEAD,
        name_of_more=sql.SQL(", additional" if additional else ""),
        more=sql.SQL(", %s::bytea[]" if additional else ""),
    )
    try:
        if is_new is None:
            connection.execute(create_table(outbox).encode())
        with connection.cursor() as cursor:
            cursor.adapters.register_dumper(_Text, _TextDumper)
            cursor.execute(insert, (*values, format_lsn(error.lsn), reason, *additional))
    except psycopg.errors.InsufficientPrivilege:
        raise _not_allowed(connection, reason, outbox, "" if is_new else create_table(outbox)) from None
    except psycopg.errors.UndefinedColumn:
        raise _not_allowed(connection, reason, outbox, outbox.text(_ADD_ADDITIONAL)) from None


def _not_allowed(connection: psycopg.Connection[Any], reason: str, outbox: Outbox, statement: str) -> SetupError:
    role = quoted(connection.info.user)
    grant = f"GRANT SELECT, INSERT, UPDATE ON {outbox.dead_label} TO {role}"
    advice = "; ".join(part for part in (statement, grant) if part)
    return SetupError(
        f"a row can never be published ({reason}), and {role} may not quarantine it. Let the owner run: {advice}"
    )


def dead_rows(connection: psycopg.Connection[Any], outbox: Outbox = OUTBOX) -> list[DeadRow]:
    """All of them, the oldest first."""
    if not has_dead(connection, outbox):
        return []
    cursor = connection.cursor(row_factory=class_row(DeadRow))
    cursor.adapters.register_loader("text", LenientLoader)
    return cursor.execute(outbox.sql(_LIST)).fetchall()


def retry(
    connection: psycopg.Connection[Any], names: Collection[str | int] | None, outbox: Outbox = OUTBOX
) -> list[str]:
    """Insert dead rows into the outbox again, as new ones at its end with the same IDs; returns their names.

    Args:
        connection: of a role that owns the tables, may insert and delete, or may call the function for that.
        names: of the rows (:attr:`DeadRow.name`), or their numbers; None for all.
        outbox: whose dead.

    Raises:
        RelayError: the outbox does not take one of them; then all are still dead.
    """
    return [row.name for row in take_out(connection, names, outbox, puts_back=True)]


def discard(
    connection: psycopg.Connection[Any], names: Collection[str | int] | None, outbox: Outbox = OUTBOX
) -> list[str]:
    """Delete dead rows without publishing them; returns their names.

    Args:
        connection: of a role that owns the tables, may delete, or may call the function for that.
        names: of the rows (:attr:`DeadRow.name`), or their numbers; None for all.
        outbox: whose dead.

    Raises:
        RelayError: the role may not; then all are still there.
    """
    return [row.name for row in take_out(connection, names, outbox, puts_back=False)]


def take_out(
    connection: psycopg.Connection[Any], names: Collection[str | int] | None, outbox: Outbox, *, puts_back: bool
) -> list[DeadRow]:
    """Take rows out of the table of dead rows, and out of the outbox where they still stand: all or none.

    Args:
        connection, names, outbox: as of :func:`retry` and :func:`discard`.
        puts_back: whether they are inserted into the outbox again.

    Returns:
        Those that were taken.

    Raises:
        RelayError: as of these.
    """
    what, function = ("put back", RETRY_FUNCTION) if puts_back else ("discarded", DISCARD_FUNCTION)
    wanted = set(names) if names is not None else None
    chosen = [
        dead
        for dead in dead_rows(connection, outbox)
        if wanted is None or not wanted.isdisjoint((dead.name, dead.id, dead.number))
    ]
    taken = []
    columns = find_columns(connection, outbox) if chosen else {}
    has_function = outbox.is_standard and _has(connection, function)
    call = f"SELECT {function.partition('(')[0]}(%s)" if has_function else None
    take = outbox.sql(_TAKE, more=sql.SQL(", additional" if outbox.additional else ""))
    forget = outbox.sql(_FORGET, is_row=is_row(columns)) if chosen else None
    with connection.transaction(), connection.cursor() as cursor:
        cursor.adapters.register_dumper(_Text, _TextDumper)
        cursor.execute("SET LOCAL client_encoding = 'UTF8'")
        for dead in chosen:
            try:
                if call is not None:
                    (is_taken,) = cursor.execute(call.encode(), (dead.number,)).fetchone() or (False,)
                    taken += [dead] if is_taken else []
                    continue
                row = cursor.execute(take, (dead.number,)).fetchone()
                if row is None or forget is None:
                    continue  # somebody else took it
                cursor.execute(forget, row[:ROLES_CONTENTS])
                if puts_back:
                    _insert(cursor, outbox, columns, row)
            except psycopg.OperationalError:
                raise
            except psycopg.Error as error:
                raise RelayError(f"row {dead.name} is not {what}: {error.diag.message_primary}") from None
            taken.append(dead)
    return taken


def _has(connection: psycopg.Connection[Any], function: str) -> bool:
    row = connection.execute(_IS_THERE, (function,)).fetchone()
    return bool(row and row[0])


def _insert(cursor: psycopg.Cursor[Any], outbox: Outbox, columns: Columns, row: tuple[Any, ...]) -> None:
    """Insert a row again, in as many columns as the outbox has."""
    additional = (row[len(ROLES)] or ()) if outbox.additional else ()
    values = {
        columns[part].name: value if value is None or columns[part].kind == "bytea" else _Text(value)
        for part, value in zip(outbox.parts, (*row[: len(ROLES)], *additional), strict=False)
        if part in columns
    }
    # Its ID is its own, even where the table would give another one.
    statement = outbox.sql(
        _PUT_BACK,
        columns=sql.SQL(", ").join(map(sql.Identifier, values)),
        values=sql.SQL(", ").join([sql.Placeholder()] * len(values)),
    )
    cursor.execute(statement, list(values.values()))
