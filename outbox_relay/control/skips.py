"""Rows that are skipped as somebody asked: the stage that quarantines them, whatever reader they come by."""

from collections.abc import Callable, MutableMapping
from collections.abc import Set as AbstractSet
from typing import Any

import psycopg

from contracts import failpoints
from outbox_relay.acknowledgements import DeliveryReport, Transaction
from outbox_relay.columns import as_bytes
from outbox_relay.control.table import REFUSED, Act, answer
from outbox_relay.errors import SkippedError, TopicError, UnpublishableError
from outbox_relay.outbox import Outbox
from outbox_relay.published import Published
from outbox_relay.row import OutboxRow
from outbox_relay.stages import Publish
from outbox_relay.table import Table, scalar

_IS_THERE = "SELECT count(*) > 0 FROM {table} WHERE {condition} AND {bytes} = %s"

TOO_LATE = "too late: it was published before, or there never was such a row"


def unless_skipped(
    publish: Publish,
    skips: MutableMapping[bytes, Act],
    gone: AbstractSet[tuple[int, bytes]],
    published: Published | None,
    quarantine: Callable[[UnpublishableError], None],
) -> Publish:
    """The same stage, without rows that are to be skipped; the stage itself where there are none.

    It stands before those that ask for the row's topic, which may be missing: that is why rows are skipped.

    Args:
        publish: the stage.
        skips: what is asked, by the IDs of rows; each is taken out once its row has come.
        gone: rows that were skipped before, or taken out of the dead rows, and may come again: where they were
            committed, and their IDs.
        published: tells which rows are on their topics already; None where none of them can be.
        quarantine: takes the rows.
    """
    if not skips and not gone:
        return publish

    def publish_unless_skipped(row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport, /) -> None:
        act = skips.get(row.id) if row.id is not None else None
        if act is None:
            if (transaction.commit_lsn, row.id) in gone:
                transaction.leave(row)
            else:
                publish(row, transaction, on_delivery)
        elif published is not None and _is_published(published, row, transaction):
            transaction.skip(row)  # what was asked is answered once the log has gone past it
        else:
            reason = f"skipped by {act.by}"
            quarantine(SkippedError(row, transaction.commit_lsn, reason, act.number))
            failpoints.hit("control.skipped")
            del skips[row.id]  # type: ignore[arg-type]
            transaction.leave(row)

    return publish_unless_skipped


def _is_published(published: Published, row: OutboxRow, transaction: Transaction) -> bool:
    try:
        return published.holds(row, transaction.committed_us, transaction.commit_lsn)
    except (TopicError, UnpublishableError):
        return False


def answer_late(
    connection: psycopg.Connection[Any],
    outbox: Outbox,
    skips: MutableMapping[bytes, Act],
    table: Table,
    confirmed_lsn: int,
    *,
    keeps: bool,
    polls: bool,
    searches: bool,
) -> None:
    """Answer what came too late: everything before it was asked is published, and the row is not there any more.

    Args:
        connection: to the outbox's database.
        outbox: whose rows.
        skips: what is asked, by the IDs of rows.
        table: of the outbox.
        confirmed_lsn: everything before it is acknowledged.
        keeps: whether published rows stay in the table.
        polls: whether rows carry a mark once they are published.
        searches: whether a table that keeps its rows is still to be searched for those that the log has left out.
    """
    if keeps and searches and not polls:
        return
    for row_id, act in list(skips.items()):
        if confirmed_lsn < act.position:
            continue
        if polls or not keeps:
            condition = table.unpublished if polls else table.mine
            query = outbox.sql(_IS_THERE, bytes=as_bytes("id", table.columns), condition=condition)
            if scalar(connection, query, row_id):
                continue
        if skips.pop(row_id, None) is act:  # or else it has just come
            answer(connection, outbox, act.number, REFUSED, TOO_LATE)
