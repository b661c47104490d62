"""A simulated payment provider: idempotent by payment ID, with a ledger, delays, refusals and outages.

Amounts with certain cents have a fixed outcome, as test card numbers do, so that a demo or a test can ask for it.
In every currency they are the last two digits of the minor units: 20.05 USD, 2005 JPY and 2.005 KWD are declined.

========  ======================================================
cents     outcome
========  ======================================================
``.05``   declined (``declined``)
``.07``   declined (``account_closed``)
``.13``   unavailable at the first attempt, then paid
``.19``   unavailable at every attempt
other     paid
========  ======================================================
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from uuid import UUID

import msgspec
import psycopg
from psycopg import AsyncConnection

from contracts.services import PROVIDER
from processors.payment.gateway import Charge, Declined, Outcome, Paid, Unavailable, Voided
from processors.runtime.database import MANY, Database
from processors.runtime.rows import Row, Rows, uuid_array, write_rows
from processors.runtime.settings import ServiceSettings

CENTS_DECLINED = 5
CENTS_ACCOUNT_CLOSED = 7
CENTS_UNAVAILABLE_ONCE = 13
CENTS_UNAVAILABLE = 19

# Charges whose first attempt was refused as unavailable; the oldest beyond this many are refused once more.
_TURNED_AWAY_MAX = 100_000

_CHARGES = Rows(
    "charges",
    payment_id="uuid",
    account_id="text",
    amount_minor="bigint",
    currency="text",
    status="text",
    reference="text",
    reason="text",
)

_COLUMNS = "payment_id, account_id, amount_minor, currency, status, reference, reason"

_LOOK_UP = f"SELECT {_COLUMNS} FROM charges WHERE payment_id = ANY(%t::uuid[])"  # noqa: S608 made of constants

_LEDGER = f"SELECT {_COLUMNS} FROM charges WHERE payment_id > %b ORDER BY payment_id LIMIT %b"  # noqa: S608 made of constants

ANSWER_S_MAX = 2.5
"""Time for the ledger's part of a round, even on a busy machine; a later answer is harmless: it is idempotent."""


Final = Paid | Declined | Voided

_STATUS = {Paid: "paid", Declined: "declined", Voided: "voided"}


class Entry(msgspec.Struct, frozen=True):
    """The provider's final decision on a payment ID; the amount in minor units."""

    payment_id: UUID
    account_id: str
    amount_minor: int
    currency: str
    status: str
    reference: str | None
    reason: str | None

    def outcome(self) -> Final:
        """The decision as an outcome."""
        match self.status:
            case "paid":
                return Paid(self.reference or "")
            case "voided":
                return Voided()
        return Declined(self.reason or "")


class SimulatedProvider:
    """A payment gateway to a provider simulated in this process, with a ledger in a database of its own."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._latency_s = settings.provider_latency_ms / 1000
        self.round_s_max = ANSWER_S_MAX + self._latency_s
        self._decline_share = settings.provider_decline_share
        self._outage_share = settings.provider_outage_share
        self._database = Database(settings.dsn(PROVIDER), "provider")
        self._lock = asyncio.Lock()
        self._turned_away: set[UUID] = set()

    async def open(self) -> None:
        """Connect to the ledger."""
        await self._database.connect()

    def capacity(self, at_most: int) -> int:
        """All: there is no circuit breaker."""
        return at_most

    async def charge(self, charges: Sequence[Charge], *, probe: bool = True) -> Mapping[UUID, Outcome]:  # noqa: ARG002
        """Pay or decline each charge, once; a known payment ID is answered from the ledger."""
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        outcomes: dict[UUID, Outcome] = {
            charge.payment_id: Unavailable("provider_unavailable")
            for charge in charges
            if self._is_unavailable(charge)
        }
        decided: dict[UUID, tuple[Charge, Final]] = {
            c.payment_id: (c, self._decide(c)) for c in charges if c.payment_id not in outcomes
        }
        try:
            outcomes.update(await self._book(decided))
        except psycopg.OperationalError:
            outcomes.update(dict.fromkeys(decided, Unavailable("provider_does_not_answer")))
        return outcomes

    async def void(self, charges: Sequence[Charge]) -> Mapping[UUID, Outcome]:
        """Void payment IDs that the ledger does not know; known ones keep their outcome."""
        decided: dict[UUID, tuple[Charge, Final]] = {c.payment_id: (c, Voided()) for c in charges}
        try:
            return await self._book(decided)
        except psycopg.OperationalError:
            return dict.fromkeys(decided, Unavailable("provider_does_not_answer"))

    async def look_up(self, payment_id: UUID) -> Entry | None:
        """The ledger's entry of a payment ID; None for an unknown one.

        Raises:
            psycopg.OperationalError: the ledger's database does not answer.
        """
        async with self._lock:
            cursor = await (await self._database.connect()).execute(_LOOK_UP, (uuid_array([payment_id]),))
            row = await cursor.fetchone()
        return Entry(*row) if row else None

    async def ledger(self, after: UUID, limit: int) -> list[Entry]:
        """A page of the ledger by ascending payment ID.

        Raises:
            psycopg.OperationalError: the ledger's database does not answer.
        """
        async with self._lock:
            cursor = await (await self._database.connect()).execute(_LEDGER, (after, limit))
            return [Entry(*row) for row in await cursor.fetchall()]

    async def close(self) -> None:
        """Close the ledger's connection."""
        await self._database.close()

    def _is_unavailable(self, charge: Charge) -> bool:
        cents = charge.amount_minor % 100
        if cents == CENTS_UNAVAILABLE_ONCE and charge.payment_id not in self._turned_away:
            if len(self._turned_away) >= _TURNED_AWAY_MAX:
                self._turned_away.clear()
            self._turned_away.add(charge.payment_id)
            return True
        return cents == CENTS_UNAVAILABLE or (self._outage_share > 0 and random.random() < self._outage_share)  # noqa: S311 nobody gains by guessing it

    def _decide(self, charge: Charge) -> Paid | Declined:
        cents = charge.amount_minor % 100
        if cents == CENTS_ACCOUNT_CLOSED:
            return Declined("account_closed")
        if cents == CENTS_DECLINED or (self._decline_share > 0 and random.random() < self._decline_share):  # noqa: S311 nobody gains by guessing it
            return Declined("declined")
        return Paid(f"sim_{charge.payment_id.hex}")

    async def _book(self, decided: dict[UUID, tuple[Charge, Final]]) -> dict[UUID, Outcome]:
        if not decided:
            return {}
        rows = [_row(charge, answer) for charge, answer in decided.values()]
        async with self._lock, self._database.connected() as connection:
            new = await _insert(connection, rows)
            outcomes: dict[UUID, Outcome] = {payment_id: decided[payment_id][1] for payment_id in new}
            if len(new) < len(decided):
                cursor = await connection.execute(_LOOK_UP, (uuid_array(p for p in decided if p not in new),))
                for entry in (Entry(*row) for row in await cursor.fetchall()):
                    charge = decided[entry.payment_id][0]
                    same = (entry.account_id, entry.amount_minor, entry.currency) == (
                        charge.account_id,
                        charge.amount_minor,
                        charge.currency,
                    )
                    outcomes[entry.payment_id] = entry.outcome() if same else Declined("idempotency_key_reused")
        return outcomes


async def _insert(connection: AsyncConnection, rows: Sequence[Row]) -> set[UUID]:
    """Insert the rows that the ledger does not have yet; returns their payment IDs."""
    if len(rows) >= MANY:
        with suppress(psycopg.errors.UniqueViolation):  # some are known: a repeated batch
            await write_rows(connection, _CHARGES.insert(rows))
            return {row[0] for row in rows}
    missing = _CHARGES.insert_missing(rows)
    cursor = await connection.execute(f"{missing.statement} RETURNING payment_id", missing.parameters(rows))
    return {row[0] for row in await cursor.fetchall()}


def _row(charge: Charge, answer: Final) -> Row:
    return (
        charge.payment_id,
        charge.account_id,
        charge.amount_minor,
        charge.currency,
        _STATUS[type(answer)],
        answer.reference if isinstance(answer, Paid) else None,
        answer.reason if isinstance(answer, Declined) else None,
    )
