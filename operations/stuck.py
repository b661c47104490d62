"""Stuck withdrawals: those without progress, and what each waits for."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from confluent_kafka import KafkaException

from contracts.postgres import session
from contracts.services import API
from operations.accepted import ACCEPTED, waiting
from operations.dead_letters.letters import Letter
from operations.errors import UnaskedError
from operations.hold_ups import Found, Open, Pending, find, refusal_in_words
from operations.lost_requests import READ_S_MAX, limited_session, newest_accepted, still_lost, unknown
from operations.refused import refused_requests
from processors.payment.decide import CANCELLED
from processors.runtime import utc
from processors.saga.decide import waiting_for

# The first condition is that of the index on open withdrawals: finished ones are never read.
_STUCK = """
SELECT payment_id, state, seen, account_id, amount_minor, currency, reason, created_at, updated_at
FROM withdrawals
WHERE finished_at IS NULL AND created_at < now() - make_interval(secs => %(age)s)
    AND updated_at < now() - make_interval(secs => %(age)s)
ORDER BY updated_at LIMIT %(limit)s
"""

_ACCEPTED = """
SELECT payment_id, account_id, amount_minor, currency, requested_at FROM withdrawals WHERE payment_id = ANY(%s)
"""

_KNOWN = "SELECT payment_id FROM withdrawals WHERE payment_id = ANY(%s)"

LOST = (
    "WithdrawalRequested, which is on no topic any more: `settle nudge {payment_id}` publishes it again, "
    "`settle cancel {payment_id}` has it never paid"
)
"""What a withdrawal waits for whose request is lost."""

LOST_CANCELLED = (
    "WithdrawalRequested, which is on no topic any more; it is cancelled, and never paid: "
    "`settle nudge {payment_id}` publishes it again, so that it ends as compensated"
)
"""The same of one that was cancelled."""

REFUSED = "refused"
"""The state of a withdrawal whose request the saga service refused, so that it has none there."""


class Stuck(msgspec.Struct, frozen=True):
    """A withdrawal without progress; the amount in minor units.

    Attributes:
        account_id: with amount and currency, as the saga service knows them; None where it refused the request.
        since: when its last event was recorded, or its request was refused, if that is known.
        waiting_for: the step that is next, in words.
        held_up_by: what blocks that step, if anything; see :class:`operations.hold_ups.Found`.
        pending: what a service is retrying, if that is what it waits for.
    """

    payment_id: UUID
    state: str
    account_id: str | None
    amount_minor: int | None
    currency: str | None
    reason: str | None
    requested_at: datetime | None
    since: datetime | None
    waiting_for: str | None
    held_up_by: str | None
    pending: Pending | None


def stuck(dsns: Mapping[str, str], bootstrap: str, older_than_s: float, limit: int) -> tuple[list[Stuck], Found]:
    """The withdrawals that are not finished and had no event for some time, longest first.

    Args:
        dsns: by service, ``saga`` among them; with ``api`` also those that it has accepted and nobody publishes,
            and of the newest :data:`operations.lost_requests.EXAMINED_MAX` those that are lost.
        bootstrap: Kafka, ``host:port``.
        older_than_s: the time without an event, seconds.
        limit: how many at the most.

    Returns:
        The withdrawals, those last whose request the saga service refused, and what there is to say of their
        causes. Where ``saga`` is idle there, withdrawals that it has not read are not among them.

    Raises:
        psycopg.OperationalError: the saga service's database does not answer.
    """
    with session(dsns["saga"]) as connection:
        rows = silent(connection, older_than_s, limit)
    accepted, away = _unpublished(dsns, older_than_s, limit)
    known_ones = {*_known(dsns["saga"], [one.payment_id for one in accepted])} if accepted else set()
    lost, unread = _lost(dsns, bootstrap, older_than_s) if away is None else ([], {})
    rows = with_unpublished(rows, [*accepted, *lost], known_ones, limit)
    others = {name: dsn for name, dsn in dsns.items() if name != "saga"}
    found = with_lost(find(others, bootstrap, [row.as_open for row in rows]), lost)
    if away is not None:
        found.unasked.setdefault("the api database", away)
    for what, why in unread.items():
        found.unasked.setdefault(what, why)
    try:
        refused = refused_requests(bootstrap, lambda payment_ids: _known(dsns["saga"], payment_ids))
    except (KafkaException, TimeoutError) as error:
        found.unasked.setdefault("Kafka", error)
        refused = {}
    return listed(rows, found, refused, older_than_s, limit), found


class Silent(NamedTuple):
    """A withdrawal that is not finished, as the saga service knows it."""

    payment_id: UUID
    state: str
    seen: int
    account_id: str
    amount_minor: int
    currency: str
    reason: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def as_open(self) -> Open:
        """What is needed to ask what holds it up."""
        return Open(self.payment_id, self.account_id, self.seen, self.created_at)


def silent(connection: psycopg.Connection[Any], older_than_s: float, limit: int) -> list[Silent]:
    """Those without an event for so many seconds, longest first, from the saga service's database."""
    rows = utc.cursor(connection).execute(_STUCK, {"age": older_than_s, "limit": limit}).fetchall()
    return [Silent(*row) for row in rows]


def listed(
    rows: Sequence[Silent], found: Found, refused: Mapping[UUID, list[Letter]], older_than_s: float, limit: int
) -> list[Stuck]:
    """Withdrawals with what each waits for, and then those whose request the saga service refused.

    Args:
        rows: of the saga service.
        found: what holds them up.
        refused: open dead letters of requests that the saga service does not know.
        older_than_s: the time without an event, seconds.
        limit: how many at the most.
    """
    withdrawals = [
        Stuck(
            row.payment_id,
            row.state,
            row.account_id,
            row.amount_minor,
            row.currency,
            row.reason,
            row.created_at,
            row.updated_at,
            found.held_up_by.get(row.payment_id) or waiting_for(row.seen),
            found.held_up_by.get(row.payment_id),
            found.pending.get(row.payment_id),
        )
        for row in rows
    ]
    older = [_refused(payment_id, letters) for payment_id, letters in refused.items()]
    before = datetime.now(UTC) - timedelta(seconds=older_than_s)
    withdrawals += [one for one in older if one.since is None or one.since < before]
    return withdrawals[:limit]


def known(connection: psycopg.Connection[Any], payment_ids: Collection[UUID]) -> list[UUID]:
    """Which of some withdrawals the saga service knows, from its database."""
    return [row[0] for row in connection.execute(_KNOWN, (list(payment_ids),))]


def unpublished(connection: psycopg.Connection[Any], older_than_s: float, limit: int) -> list[Silent]:
    """Requests that have waited for so many seconds to be published, longest first, from the API's database."""
    return [
        Silent(
            one.payment_id,
            ACCEPTED,
            0,
            one.account_id,
            one.amount_minor,
            one.currency,
            None,
            one.accepted_at,
            one.accepted_at,
        )
        for one in waiting(connection, limit, older_than_s=older_than_s, oldest_first=True)
    ]


def with_unpublished(
    rows: Sequence[Silent], accepted: Sequence[Silent], known_ones: Collection[UUID], limit: int
) -> list[Silent]:
    """Those that the saga service knows, with requests that it does not, longest first."""
    others = [one for one in accepted if one.payment_id not in known_ones]
    return sorted([*rows, *others], key=lambda row: row.updated_at)[:limit]


def lost_ones(connection: psycopg.Connection[Any], lost: Mapping[UUID, bool]) -> list[Silent]:
    """Requests that are lost (:func:`operations.lost_requests.still_lost`), from the API's database."""
    rows = utc.cursor(connection).execute(_ACCEPTED, (list(lost),))
    return [
        Silent(
            payment_id, ACCEPTED, 0, account_id, amount, currency, CANCELLED if lost[payment_id] else None, at, at
        )
        for payment_id, account_id, amount, currency, at in rows
    ]


def with_lost(found: Found, lost: Sequence[Silent]) -> Found:
    """What holds withdrawals up, with those whose requests are lost."""
    why = {
        one.payment_id: (LOST_CANCELLED if one.reason == CANCELLED else LOST).format(payment_id=one.payment_id)
        for one in lost
    }
    return found._replace(held_up_by={**found.held_up_by, **why})


def unasked_of(error: Exception) -> dict[str, Exception]:
    """What could not be asked for lost requests, and why: a database, what has too much before it, or Kafka."""
    if not isinstance(error, UnaskedError):
        return {"Kafka": error}
    cause = error.__cause__
    return {error.what: cause if isinstance(cause, Exception) else error}


def _lost(
    dsns: Mapping[str, str], bootstrap: str, older_than_s: float
) -> tuple[list[Silent], dict[str, Exception]]:
    """Requests that are lost, and what could not be asked for them, and why."""
    if API not in dsns:
        return [], {}
    try:
        with limited_session(dsns, API, READ_S_MAX) as api:
            newest = newest_accepted(api, older_than_s)
        if not newest:
            return [], {}
        with limited_session(dsns, "saga", READ_S_MAX) as saga:
            candidates = unknown(saga, newest)
        lost = still_lost(dsns, bootstrap, candidates, READ_S_MAX)
        if not lost:
            return [], {}
        with limited_session(dsns, API, READ_S_MAX) as api:
            return lost_ones(api, lost), {}
    except (UnaskedError, KafkaException, TimeoutError) as error:
        return [], unasked_of(error)


def _unpublished(
    dsns: Mapping[str, str], older_than_s: float, limit: int
) -> tuple[list[Silent], psycopg.Error | None]:
    """Requests that wait to be published, and why the API's database could not be asked for them, if so."""
    if API not in dsns:
        return [], None
    try:
        with session(dsns[API]) as connection:
            return unpublished(connection, older_than_s, limit), None
    except psycopg.Error as error:
        return [], error


def _known(dsn: str, payment_ids: Collection[UUID]) -> list[UUID]:
    with session(dsn) as connection:
        return known(connection, payment_ids)


def _refused(payment_id: UUID, letters: Sequence[Letter]) -> Stuck:
    words = refusal_in_words(payment_id, letters)
    refusal = letters[-1].refusals[-1]
    return Stuck(payment_id, REFUSED, None, None, None, refusal.reason, None, refusal.at, words, words, None)
