"""The acts: what people do to a source. Commands and HTTP both come here.

Each works on the source's database alone, so it does not matter which relay reads the outbox, nor whether one
does. A pause, its end, a rewind and a skip are written down, and take effect when a relay notices; dead rows and
the slot are acted on at once, and that is written down.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import psycopg

from outbox_relay import dead
from outbox_relay.columns import as_bytes
from outbox_relay.control import rewind as rewinds
from outbox_relay.control import table
from outbox_relay.control.table import Act, Orders
from outbox_relay.errors import RefusedError, RelayError, SetupError
from outbox_relay.names import name_of, one_line
from outbox_relay.outbox import Outbox
from outbox_relay.position import parse_lsn
from outbox_relay.replication import connect
from outbox_relay.slot import drop_slot as drop
from outbox_relay.slot_name import slot_name
from outbox_relay.source_settings import SourceSettings
from outbox_relay.status import OutboxStatus, outbox_status
from outbox_relay.table import Table, find_table, oldest_us, scalar

TEXT_LENGTH_MAX = 500
"""Of a reason, of who asks, and of a row's ID."""
DEAD_NAMES_MAX = 1_000


@dataclass(frozen=True)
class Asked:
    """Who asks, and why.

    Raises:
        RefusedError: either is too long, or no line of text.
    """

    who: str
    why: str | None = None

    def __post_init__(self) -> None:
        for what, text in (("who asks", self.who), ("the reason", self.why)):
            if text is not None:
                _checked(what, text)

    def with_reason(self) -> "Asked":
        """The same, if it has a reason.

        Raises:
            RefusedError: it has none.
        """
        if not (self.why or "").strip():
            raise RefusedError("invalid", "a reason is needed: whoever finds it later reads why")
        return self


@dataclass(frozen=True)
class Result:
    """What came of an act.

    Attributes:
        source: of which source.
        act: its number; None where nothing was to be done.
        state: ``done``, ``asked`` (it takes effect when a relay notices), or ``unchanged``.
        text: for people, in one line.
    """

    source: str
    act: int | None
    state: Literal["done", "asked", "unchanged"]
    text: str


@dataclass(frozen=True)
class SourceStatus:
    """Where a source stands, as its database has it.

    Attributes:
        source: its name.
        state: ``reading``; ``paused``; ``pausing``, while a relay still reads; ``away``, no relay has the outbox.
        paused: the act, where it is paused.
        pending: what else is asked and has not taken effect, the oldest first.
        oldest_s: age of the oldest row in the table, seconds; None where it is empty, or does not say.
        outbox: slot, position, lag, and table.
        trouble: why it cannot be said, or what control lacks, in one line; None where all is well.
    """

    source: str
    state: str
    paused: Act | None
    pending: tuple[Act, ...]
    oldest_s: float | None
    outbox: OutboxStatus | None
    trouble: str | None = None


def pause(source: SourceSettings, asked: Asked) -> Result:
    """Have nothing published any more, until :func:`resume`.

    Raises:
        RefusedError: no reason, or the database lacks what it needs.
    """
    asked.with_reason()
    with _turn(source) as connection:
        before = table.orders(connection, source.outbox).pause
        if before is not None:
            return Result(name_of(source), before.number, "unchanged", f"paused already, by {before.by}")
        number = table.write(connection, source.outbox, table.PAUSE, asked.who, asked.why)
    return Result(name_of(source), number, "asked", "to be paused")


def resume(source: SourceSettings, asked: Asked) -> Result:
    """Go on from where the source was paused.

    Raises:
        RefusedError: the database lacks what it needs.
    """
    with _turn(source) as connection:
        before = table.orders(connection, source.outbox).pause
        if before is None:
            return Result(name_of(source), None, "unchanged", "not paused")
        number = table.write(connection, source.outbox, table.RESUME, asked.who, asked.why)
    return Result(name_of(source), number, "asked", f"to go on; it was paused by {before.by}")


def rewind(
    source: SourceSettings, asked: Asked, *, since: datetime | None = None, row_id: str | None = None
) -> Result:
    """Have rows published again that the table still holds, in their order and with their IDs.

    Args:
        source: which.
        asked: who asks, and why.
        since: rows written at this time or later, with its zone; or else
        row_id: this row, and those after it in the order of the table.

    Raises:
        RefusedError: not one of both is given, no rows can be of that time, the table holds nothing of it, or
            there is nothing to rewind.
    """
    asked.with_reason()
    if (since is None) == (row_id is None):
        raise RefusedError("invalid", "to which place? Say either a time or a row")
    if since is not None:
        _check_time(since)
    outbox = source.outbox
    if (reason := rewinds.refusal(outbox)) is not None:
        raise RefusedError("conflict", reason)
    with _turn(source) as connection:
        found = _table(connection, outbox)
        if row_id is not None:
            row_id = _row_id(found, row_id)
        try:
            wanted = rewinds.condition(connection, found, row_id, since)
        except SetupError as error:
            raise RefusedError("not-found" if row_id is not None else "conflict", str(error)) from None
        held = rewinds.held(connection, found, wanted)
        if not held.rows:
            raise RefusedError("conflict", f"{outbox.label} holds no such row any more: {_what_is_gone(held)}")
        number = table.write(connection, outbox, table.REWIND, asked.who, asked.why, row_id=row_id, since=since)
    text = f"{held.rows:,} of {held.all_rows:,} rows of the table to be published again; {_what_is_gone(held)}"
    return Result(name_of(source), number, "asked", text)


def _check_time(since: datetime) -> None:
    if since.tzinfo is None:
        raise RefusedError("invalid", "the time has no zone, as in 2026-11-28T10:00:00Z")
    if not table.TIME_MIN <= since <= table.TIME_MAX:
        raise RefusedError("invalid", f"the time is not between {table.TIME_MIN:%F} and {table.TIME_MAX:%F}")


def _what_is_gone(held: rewinds.Held) -> str:
    if not held.all_rows:
        return "it is empty, and how many were published and removed is not known"
    oldest = f"the oldest was written at {held.oldest}" if held.oldest is not None else "when is not known"
    return f"{oldest}, and what was removed before is gone, how much is not known"


def skip(source: SourceSettings, asked: Asked, row_id: str) -> Result:
    """Have a row quarantined instead of published, also one at which the source is stuck.

    Raises:
        RefusedError: there is no such row, or it is published or dead already.
    """
    asked.with_reason()
    outbox = source.outbox
    with _turn(source) as connection:
        found = _table(connection, outbox)
        row_id = _row_id(found, row_id)
        if before := table.orders(connection, outbox).skips.get(row_id.encode()):
            return Result(name_of(source), before.number, "unchanged", f"to be skipped already, by {before.by}")
        if found.has_uuids and any(row.id == row_id for row in dead.dead_rows(connection, outbox)):
            raise RefusedError("conflict", f"it is among the dead rows already, {outbox.dead_label}")
        _check_unpublished(connection, found, row_id)
        number = table.write(connection, outbox, table.SKIP, asked.who, asked.why, row_id=row_id)
    return Result(name_of(source), number, "asked", f"to be skipped, and quarantined in {outbox.dead_label}")


_ROW = "SELECT bool_or({condition}) FROM {table} WHERE {bytes} = %s AND {mine}"


def _check_unpublished(connection: psycopg.Connection[Any], found: Table, row_id: str) -> None:
    outbox = found.outbox
    bytes_of_id = as_bytes("id", found.columns)
    query = outbox.sql(_ROW, condition=found.unpublished, bytes=bytes_of_id, mine=found.mine)
    is_open = scalar(connection, query, row_id.encode())
    if is_open is None and outbox.messages is None:
        raise RefusedError(
            "not-found", f"{outbox.label} has no such row: it was published and removed, or never written"
        )
    if is_open is False:
        raise RefusedError("conflict", "it is published already")


def retry(source: SourceSettings, asked: Asked, names: Sequence[str] | None) -> Result:
    """Put dead rows back at the end of the outbox, with their IDs; None: all.

    Raises:
        RefusedError: one is not among the dead rows, or the outbox does not take it; then all are still dead.
    """
    return _take_out(source, asked, names, table.RETRY, "put back")


def discard(source: SourceSettings, asked: Asked, names: Sequence[str] | None) -> Result:
    """Delete dead rows for good; None: all.

    Raises:
        RefusedError: one is not among the dead rows, or the role may not; then all are still there.
    """
    asked.with_reason()
    return _take_out(source, asked, names, table.DISCARD, "discarded")


def _take_out(source: SourceSettings, asked: Asked, names: Sequence[str] | None, act: str, was: str) -> Result:
    outbox = source.outbox
    if names is not None and not 0 < len(names) <= DEAD_NAMES_MAX:
        raise RefusedError("invalid", f"name 1 to {DEAD_NAMES_MAX:,} dead rows, or say all")
    with _turn(source) as connection:
        rows = dead.dead_rows(connection, outbox)
        known: dict[str, str | int] = {row.name: row.name for row in rows}
        known |= {f"{dead.NUMBER}{row.number}": row.number for row in rows}
        if unknown := [name for name in names or () if name not in known]:
            raise RefusedError("not-found", f"not among the dead rows: {', '.join(unknown[:3])}")
        try:
            chosen = [known[name] for name in names] if names is not None else None
            taken = dead.take_out(connection, chosen, outbox, puts_back=act == table.RETRY)
        except RelayError as error:
            raise RefusedError("conflict", str(error)) from None
        text = f"{len(taken):,} row{'s' if len(taken) != 1 else ''} {was}"
        number = None
        # The log may bring a row once more, which is neither among the dead nor published. An ID alone says which
        # one that is only if it is a UUID.
        comes_again = bool(taken) and _table(connection, outbox).has_uuids
        for one in taken:
            number = table.write(connection, outbox, act, asked.who, asked.why, row_id=one.name)
            lsn = parse_lsn(one.position) if comes_again else None
            table.answer(connection, outbox, number, table.DONE, was, who=asked.who, lsn=lsn)
    return Result(name_of(source), number, "done" if taken else "unchanged", text)


def drop_slot(source: SourceSettings, asked: Asked) -> Result:
    """Drop the slot that no relay reads any more, so that the server can remove its log.

    Raises:
        RefusedError: there is none, a relay reads it, or the role may not.
    """
    asked.with_reason()
    outbox = source.outbox
    with _turn(source) as connection:
        name = slot_name(connection, outbox)
        number = table.write(connection, outbox, table.DROP_SLOT, asked.who, asked.why)
        try:
            is_dropped = drop(connection, name)
        except RelayError as error:
            raise RefusedError("conflict", str(error)) from None
        if not is_dropped:
            raise RefusedError("not-found", f"there is no slot {name}")
        table.answer(connection, outbox, number, table.DONE, f"slot {name} is dropped", who=asked.who)
    return Result(name_of(source), number, "done", f"slot {name} is dropped")


def status(source: SourceSettings, limit_s: float | None = None) -> SourceStatus:
    """Where a source stands; where its database does not answer, that.

    Args:
        source: which.
        limit_s: how long the database may take for it, seconds; a large table takes its time. None: as it needs.
    """
    outbox, began = source.outbox, time.monotonic()
    try:
        with closing(connect(source.dsn, replication=False)) as connection:
            _limit(connection, limit_s, began)
            found = outbox_status(connection, outbox=outbox)
            _limit(connection, limit_s, began)
            oldest = oldest_us(connection, find_table(connection, outbox))
            now_us = scalar(connection, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8")
            there = table.has_table(connection, outbox)
            orders = table.orders(connection, outbox)
            pending = tuple(one for one in reversed(table.acts(connection, outbox, 1_000)) if one.ended is None)
            lacks = (
                f"there is no table {outbox.control_label}, which control needs: it is made when it is first used"
            )
    except psycopg.errors.QueryCanceled:
        return unknown(
            source, f"its rows are not counted within {limit_s or 0:.0f} s: `outbox-relay status` has the time"
        )
    except (RelayError, psycopg.Error) as error:
        return unknown(source, one_line(error))
    return SourceStatus(
        name_of(source),
        _state(orders, is_read=found.active),
        orders.pause,
        tuple(one for one in pending if one.act in (table.SKIP, table.REWIND)),
        max(0.0, (now_us - oldest) / 1e6) if oldest else None,
        found,
        None if there else lacks,
    )


def unknown(source: SourceSettings, why: str) -> SourceStatus:
    """What is said of a source that cannot be looked at."""
    return SourceStatus(name_of(source), "unknown", None, (), None, None, why)


def _limit(connection: psycopg.Connection[Any], limit_s: float | None, began: float) -> None:
    """Have the next statement end when the time since ``began`` is over."""
    if limit_s is not None:
        left_ms = max(1, round((began + limit_s - time.monotonic()) * 1_000))
        connection.execute(f"SET statement_timeout = {left_ms}".encode())


def _state(orders: Orders, *, is_read: bool) -> str:
    if orders.pause is not None:
        return "paused" if orders.pause.ended is not None or not is_read else "pausing"
    return "reading" if is_read else "away"


def history(source: SourceSettings, limit: int) -> list[Act]:
    """The newest acts, the newest first.

    Raises:
        RefusedError: the database does not answer.
    """
    with _connection(source) as connection:
        return table.acts(connection, source.outbox, limit)


def find(source: SourceSettings, number: int) -> Act | None:
    """An act by its number.

    Raises:
        RefusedError: the database does not answer.
    """
    with _connection(source) as connection:
        return table.find(connection, source.outbox, number)


def dead_rows(source: SourceSettings) -> list[dead.DeadRow]:
    """The quarantined rows, the oldest first.

    Raises:
        RefusedError: the database does not answer.
    """
    with _connection(source) as connection:
        return dead.dead_rows(connection, source.outbox)


@contextmanager
def _connection(source: SourceSettings) -> Iterator[psycopg.Connection[Any]]:
    try:
        with closing(connect(source.dsn, replication=False)) as connection:
            yield connection
    except (SetupError, psycopg.Error) as error:
        raise RefusedError("unavailable", one_line(error)) from None


@contextmanager
def _turn(source: SourceSettings) -> Iterator[psycopg.Connection[Any]]:
    """A transaction in which nobody else acts on the outbox."""
    with _connection(source) as connection:
        table.ensure(connection, source.outbox)
        with connection.transaction():
            table.take_turn(connection, source.outbox)
            yield connection


def _table(connection: psycopg.Connection[Any], outbox: Outbox) -> Table:
    try:
        return find_table(connection, outbox)
    except RelayError as error:
        raise RefusedError("unavailable", str(error)) from None


def _row_id(found: Table, text: str) -> str:
    """A row's ID as the readers have it.

    Raises:
        RefusedError: no row can have it.
    """
    _checked("a row's ID", text)
    if not found.has_uuids:
        return text
    try:
        return str(UUID(text))
    except ValueError:
        raise RefusedError("not-found", f"{found.outbox.label} has UUIDs for IDs, and that is none") from None


def _checked(what: str, text: str) -> None:
    if len(text) > TEXT_LENGTH_MAX:
        raise RefusedError("invalid", f"{what} has more than {TEXT_LENGTH_MAX} characters")
    if not text.strip() or not text.isprintable():
        raise RefusedError("invalid", f"{what} is to be a line of text")
