"""The simulated bank keeps one entry per payment ID, of few charges and of many at once."""

import asyncio

import psycopg
import pytest
from uuid_utils.compat import uuid7

from processors.payment.gateway import Charge, Declined, Paid, Voided
from processors.payment.provider.simulated import SimulatedProvider
from processors.runtime.database import MANY
from processors.runtime.settings import ServiceSettings
from tests.conftest import Settle

FEW = 3


@pytest.fixture(scope="module")
def dsn(settle: Settle):
    """A ledger of its own: what is paid here nobody asked for, and the audit would say so."""
    return settle.new_database("provider", "bank")


@pytest.fixture
def ask(dsn):
    """What the bank answers, asked from a process that has just begun."""

    def ask(question, charges):
        async def answer():
            provider = SimulatedProvider(ServiceSettings(provider_dsn=dsn))
            try:
                return await getattr(provider, question)(charges)
            finally:
                await provider.close()

        return asyncio.run(answer())

    return ask


def a_charge(amount_minor=1_000):
    return Charge(uuid7(), "acc-1", amount_minor, "USD")


def entries(dsn, charges):
    ids = [charge.payment_id for charge in charges]
    sql = "SELECT payment_id, amount_minor, status FROM charges WHERE payment_id = ANY(%s)"
    with psycopg.connect(dsn) as connection:
        return {row[0]: row[1:] for row in connection.execute(sql, (ids,))}


@pytest.mark.parametrize("count", [FEW, MANY], ids=["insert", "copy"])
def test_each_charge_is_in_the_ledger_once_however_often_it_comes(dsn, ask, count):
    first = [a_charge(), a_charge(amount_minor=1_005), *(a_charge() for _ in range(count))]
    answers = ask("charge", first)
    assert answers == {c.payment_id: Paid(f"sim_{c.payment_id.hex}") for c in first} | {
        first[1].payment_id: Declined("declined")
    }
    more = [*first, *(a_charge() for _ in range(count))]
    again = ask("charge", more)
    assert {payment_id: again[payment_id] for payment_id in answers} == answers
    assert all(again[charge.payment_id] == Paid(f"sim_{charge.payment_id.hex}") for charge in more[len(first) :])
    assert entries(dsn, more) == {c.payment_id: (1_000, "paid") for c in more} | {
        first[1].payment_id: (1_005, "declined")
    }


@pytest.mark.parametrize("count", [FEW, MANY], ids=["insert", "copy"])
def test_a_payment_id_with_another_amount_is_declined_and_changes_nothing(dsn, ask, count):
    known, others = a_charge(), [a_charge() for _ in range(count)]
    ask("charge", [known])
    changed = Charge(known.payment_id, known.account_id, 2_000, known.currency)
    answers = ask("charge", [changed, *others])
    assert answers[known.payment_id] == Declined("idempotency_key_reused")
    assert all(isinstance(answers[charge.payment_id], Paid) for charge in others)
    assert entries(dsn, [known]) == {known.payment_id: (1_000, "paid")}


@pytest.mark.parametrize("count", [FEW, MANY], ids=["insert", "copy"])
def test_what_is_paid_cannot_be_voided_and_what_is_void_cannot_be_paid(ask, count):
    paid, open_ = a_charge(), [a_charge() for _ in range(count)]
    ask("charge", [paid])
    answers = ask("void", [paid, *open_])
    assert answers[paid.payment_id] == Paid(f"sim_{paid.payment_id.hex}")
    assert all(answers[charge.payment_id] == Voided() for charge in open_)
    assert set(ask("charge", open_).values()) == {Voided()}
