"""The cause that holds a withdrawal up, as the commands report it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from cli import settings
from cli.errors import BadInputError, one_line
from cli.text import complain
from contracts.services import NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from uuid import UUID

    from processors.saga.status import Status

SILENT_S_MAX = 30.0
"""A withdrawal without an event for longer, whose next step nothing visibly blocks, may need a nudge."""

UNKNOWN = "the saga service to receive its request"
"""What a withdrawal waits for if the saga service has no event of it."""


class Waits(NamedTuple):
    """What a withdrawal waits for.

    Attributes:
        words: the next step, or its cause, in one line.
        held_up_by: what blocks the next step, if anything; see ``operations/hold_ups.py``.
    """

    words: str
    held_up_by: str | None = None


def look(
    payment_id: UUID,
    status: Status | None,
    data: Path | None,
    *,
    account_id: str | None = None,
    also_acts_on: frozenset[str] = frozenset(),
) -> Waits:
    """Query the services' databases and Kafka; report on standard error which of them did not answer.

    Args:
        payment_id: of a withdrawal that is not finished.
        status: as the saga service knows it, if it does.
        data: folder of the stack to use, if one was named.
        account_id: its account, where that is known otherwise.
        also_acts_on: types of events that it may wait for, beside the one that its next step acts on.
    """
    from operations.hold_ups import Open, find

    dsns, unasked = _dsns(data)
    since = min((step.at for step in status.steps), default=None) if status is not None else None
    account_id = status.account_id if status is not None else account_id
    seen = status.seen if status is not None else 0
    found = find(dsns, settings.kafka_bootstrap(data), [Open(payment_id, account_id, seen, since, also_acts_on)])
    report_unasked(unasked | found.unasked)
    held_up_by, pending = found.held_up_by.get(payment_id), found.pending.get(payment_id)
    if held_up_by is not None:
        return Waits(held_up_by, held_up_by)
    words = (status.waiting_for if status is not None else None) or UNKNOWN
    if pending is not None:
        return Waits(f"{words}, which is in hand: {pending.in_words()}")
    last = max((step.at for step in status.steps), default=None) if status is not None else None
    silent_s = (datetime.now(UTC) - last).total_seconds() if last is not None else 0.0
    if silent_s > SILENT_S_MAX:  # its message may have been deleted, or discarded
        words += f"; no event for {silent_s:.0f} s: `settle nudge {payment_id}` republishes what it waits for"
    return Waits(words)


def unknown(payment_id: UUID, status: Status | None, data: Path | None) -> BadInputError:
    """The error for a withdrawal whose request the saga service does not have, with what holds that up."""
    why = look(payment_id, status, data).held_up_by
    waits = f": it waits for {why}" if why else ""
    return BadInputError(
        f"no withdrawal {payment_id} is known; a new one is known once its request was read{waits}"
    )


def report_unasked(unasked: Mapping[str, Exception]) -> None:
    """Report what could not be queried."""
    for what, error in unasked.items():
        complain(f"{what} could not be asked for what holds it up: {one_line(error)}")


def _dsns(data: Path | None) -> tuple[dict[str, str], dict[str, Exception]]:
    """The DSNs of the services on whose events others act, and the errors of those that are wrong."""
    dsns: dict[str, str] = {}
    wrong: dict[str, Exception] = {}
    for name in NAMES:
        if name != "saga":
            try:
                dsns[name] = settings.dsn(name, data)
            except BadInputError as error:
                wrong[f"the {name} database"] = error
    return dsns, wrong
