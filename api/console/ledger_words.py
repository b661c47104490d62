"""What the ledger of a withdrawal should sum up to in each state, in words. Pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

from api.texts import amount_text
from operations.ledger import Booking
from processors.saga.decide import COMPENSATED, COMPENSATING, COMPLETED, DEDUCTED, PAID, REJECTED


class Net(NamedTuple):
    """The sum of the bookings, minor units; whether it is as the state says, and that in words."""

    amount_minor: int
    ok: bool
    words: str


def net(state: str, amount: str, currency: str, bookings: Sequence[Booking]) -> Net:
    """The sum of a withdrawal's bookings, judged.

    Args:
        state: of the withdrawal.
        amount: of the withdrawal, decimal text in major units.
        currency: of the withdrawal.
        bookings: all of them.
    """
    total = sum(one.amount_minor for one in bookings)
    is_nothing, is_taken = total == 0, amount_text(-total, currency) == amount
    if state in (COMPLETED, PAID, DEDUCTED):
        return Net(
            total, is_taken, f"as it is for {state}: taken once" if is_taken else f"{state}, but not taken once"
        )
    if state == REJECTED:
        ok = not bookings
        return Net(
            total, ok, "as it is for rejected: nothing was booked" if ok else "rejected, but something was booked"
        )
    if state == COMPENSATED:
        ok = is_nothing and len(bookings) == 2
        return Net(
            total,
            ok,
            "as it is for compensated: taken and given back" if ok else "compensated, but not given back",
        )
    ok = is_nothing or is_taken
    under_way = "the refund is under way" if state == COMPENSATING else "under way"
    return Net(total, ok, under_way if ok else f"{state}, but neither nothing nor the amount")
