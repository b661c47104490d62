"""The cause that holds a withdrawal up, as the commands report it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli import settings
from cli.errors import BadInputError, one_line
from cli.remote import FORBIDDEN, LONG_S, NOT_FOUND, RefusedError, ask
from cli.text import complain
from contracts.events import CancelRequested
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
    api: str | None = None,
    *,
    account_id: str | None = None,
    is_cancelled: bool = False,
) -> Waits:
    """What a withdrawal waits for (:func:`operations.waits.look`); what did not answer is reported as an error.

    Args:
        payment_id: of a withdrawal that is not finished.
        status: as the saga service knows it, if it does.
        data: folder of the stack to use, if one was named.
        api: URL of the API, if that is to be asked.
        account_id: its account, where that is known otherwise.
        is_cancelled: whether it may wait for its cancellation, beside what its next step acts on.
    """
    from operations import waits

    if api is not None:
        return _look_by_api(api, payment_id, status, is_cancelled)
    dsns, wrong = _dsns(data)
    bootstrap = settings.kafka_bootstrap(data)
    also = frozenset({CancelRequested.__name__}) if is_cancelled else frozenset[str]()
    found = waits.look(dsns, bootstrap, payment_id, status, account_id=account_id, also_acts_on=also)
    report_unasked(wrong | found.unasked)
    return found


def _look_by_api(api: str, payment_id: UUID, status: Status | None, is_cancelled: bool) -> Waits:
    from operations.waits import UNKNOWN, Waits

    try:
        path = f"/v1/withdrawals/{payment_id}/waiting"
        found = ask(api, "GET", path, patience_s=LONG_S, cancelled=is_cancelled or None)
    except RefusedError as refused:
        # A client may see the next step of its own withdrawal, and not what blocks it.
        if refused.kind not in (NOT_FOUND, FORBIDDEN):
            raise
        return Waits((status.waiting_for if status is not None else None) or UNKNOWN)
    for what, why in found["unasked"].items():
        complain_unasked(what, why)
    return Waits(found["waiting_for"] or "nothing: it has just ended", found["held_up_by"])


def unknown(payment_id: UUID, status: Status | None, data: Path | None, api: str | None = None) -> BadInputError:
    """The error for a withdrawal whose request the saga service does not have, with what holds that up."""
    why = look(payment_id, status, data, api).held_up_by
    waits = f": it waits for {why}" if why else ""
    return BadInputError(
        f"no withdrawal {payment_id} is known; a new one is known once its request was read{waits}"
    )


def report_unasked(unasked: Mapping[str, Exception]) -> None:
    """Report what could not be queried."""
    for what, error in unasked.items():
        complain_unasked(what, one_line(error))


def complain_unasked(what: str, why: str) -> None:
    """Report something that could not be queried, and why."""
    complain(f"{what} could not be asked for what holds it up: {why}")


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
