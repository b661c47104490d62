"""The cause that holds a withdrawal up, as the commands report it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli import settings
from cli.errors import BadInputError, one_line
from cli.text import complain
from contracts.services import NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from uuid import UUID

    from operations.waits import Waits
    from processors.saga.status import Status


def look(
    payment_id: UUID,
    status: Status | None,
    data: Path | None,
    *,
    account_id: str | None = None,
    also_acts_on: frozenset[str] = frozenset(),
) -> Waits:
    """What a withdrawal waits for (:func:`operations.waits.look`); what did not answer is reported as an error.

    Args:
        payment_id: of a withdrawal that is not finished.
        status: as the saga service knows it, if it does.
        data: folder of the stack to use, if one was named.
        account_id: its account, where that is known otherwise.
        also_acts_on: types of events that it may wait for, beside the one that its next step acts on.
    """
    from operations import waits

    dsns, wrong = _dsns(data)
    bootstrap = settings.kafka_bootstrap(data)
    found = waits.look(dsns, bootstrap, payment_id, status, account_id=account_id, also_acts_on=also_acts_on)
    report_unasked(wrong | found.unasked)
    return found


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
    for name in settings.there(NAMES, data):
        if name != "saga":
            try:
                dsns[name] = settings.dsn(name, data)
            except BadInputError as error:
                wrong[f"the {name} database"] = error
    return dsns, wrong
