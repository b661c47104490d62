"""Where a withdrawal stands, as commands find it: in the saga service's database, or by the API (``--api``)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli import settings
from cli.remote import NOT_FOUND, RefusedError, ask, minor_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    from processors.saga.status import Status


@contextmanager
def looking(payment_id: UUID, data: Path | None, api: str | None) -> Iterator[Callable[[], Status | None]]:
    """What finds the status of a withdrawal, again and again; None where it is not known.

    Args:
        payment_id: of the withdrawal.
        data: folder of the stack to use, if one was named.
        api: URL of the API, if that is to be asked.
    """
    if api is not None:
        yield lambda: _find_by_api(api, payment_id)
        return
    from contracts.postgres import session
    from processors.saga.status import status_of

    with session(settings.dsn("saga", data), autocommit=True) as connection:
        yield lambda: status_of(connection, payment_id)


def find(payment_id: UUID, data: Path | None, api: str | None) -> Status | None:
    """The same, once."""
    if api is not None:
        return _find_by_api(api, payment_id)
    from processors.saga.status import find_status

    return find_status(settings.dsn("saga", data), payment_id)


def _find_by_api(api: str, payment_id: UUID) -> Status | None:
    """The API also knows a withdrawal whose request the saga service has not read yet."""
    import msgspec

    from processors.saga.status import Status, Step

    try:
        found = ask(api, "GET", f"/v1/withdrawals/{payment_id}")
    except RefusedError as refused:
        if refused.kind != NOT_FOUND:
            raise
        return None
    return msgspec.convert(
        {
            **found,
            "finished": found["finished_by"] is not None,
            "amount_minor": minor_units(found["amount"]),
            "steps": msgspec.convert(found["steps"], list[Step]),
            "seen": 0,  # only the saga service's own database tells
        },
        Status,
    )
