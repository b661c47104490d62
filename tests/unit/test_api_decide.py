"""What a request for a withdrawal is answered with, by what is stored."""

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from api.decide import Accepted, KeyReused, PaymentTaken, StillRunning, decide, first
from api.store import Asked
from contracts.events import WithdrawalRequested
from tracing import TraceContext

PAYMENT = UUID("01a20aeb-4358-716a-b291-9134760df1f7")
OTHER = UUID("01a20aeb-4358-716a-b291-9134760df1f8")


def asked(number=1, *, caller="shop", key="k", named=None, account="acc-1", amount_minor=100, currency="USD"):
    request = WithdrawalRequested(
        payment_id=named or UUID(int=number),
        account_id=account,
        amount_minor=amount_minor,
        currency=currency,
        occurred_at=datetime(2026, 11, 29, tzinfo=UTC),
    )
    return Asked(caller, key, named is not None, request, TraceContext(f"00-{number:032x}-{number:016x}-00"))


def test_what_is_stored_now_is_accepted_and_no_repeat():
    one = asked()
    assert decide([one], {UUID(int=1)}, []) == [Accepted(first(one), replayed=False)]


def test_the_same_request_with_the_same_key_is_answered_as_the_first_was():
    stored = first(asked(1))
    assert decide([asked(2)], set(), [stored]) == [Accepted(stored, replayed=True)]
    named = first(asked(1, named=PAYMENT))
    assert decide([asked(2, named=PAYMENT)], set(), [named]) == [Accepted(named, replayed=True)]


def test_a_batch_that_was_committed_though_nobody_heard_of_it_is_no_repeat():
    one = asked()
    assert decide([one], set(), [first(one)]) == [Accepted(first(one), replayed=False)]


@pytest.mark.parametrize(
    "changed",
    [{"account": "acc-2"}, {"amount_minor": 101}, {"currency": "EUR"}, {"named": PAYMENT}],
    ids=lambda changed: next(iter(changed)),
)
def test_another_request_with_the_same_key_is_refused_whatever_differs(changed):
    assert decide([asked(2, **changed)], set(), [first(asked(1))]) == [KeyReused()]


def test_another_payment_id_with_the_same_key_is_refused():
    assert decide([asked(2, named=OTHER)], set(), [first(asked(1, named=PAYMENT))]) == [KeyReused()]
    assert decide([asked(2)], set(), [first(asked(1, named=PAYMENT))]) == [KeyReused()]


def test_a_payment_id_is_one_withdrawals_of_one_caller():
    stored = first(asked(1, named=PAYMENT))
    same = asked(2, named=PAYMENT, key="another")
    assert decide([same], set(), [stored]) == [Accepted(stored, replayed=True)]
    for other in ({"amount_minor": 101}, {"account": "acc-2"}, {"caller": "else"}):
        found = decide([asked(2, **{"named": PAYMENT, "key": "another", **other})], set(), [stored])
        assert found == [PaymentTaken()]


def test_what_is_neither_stored_nor_known_is_under_way_elsewhere():
    assert decide([asked()], set(), []) == [StillRunning()]


def test_keys_belong_to_their_caller():
    stored = first(asked(1))
    stranger = asked(2, caller="else", amount_minor=7)
    assert decide([stranger], {UUID(int=2)}, [stored]) == [Accepted(first(stranger), replayed=False)]


def test_the_row_has_the_contents_and_the_trace_of_the_request():
    row = first(asked(5))
    assert (row.payment_id, row.trace_id) == (UUID(int=5), f"{5:032x}")
    assert msgspec.structs.asdict(row).keys() >= {"caller", "idempotency_key", "requested_at"}
