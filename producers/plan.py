"""A seeded plan of a load's withdrawals: the same numbers give the same load, with new payment IDs."""

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from contracts.money import AMOUNT_MINOR_MAX
from producers.errors import InvalidRequestError

# The simulated provider answers by the cents of an amount (the last two digits of its minor units), as card
# processors' test numbers do; with none of its special cents a withdrawal is paid.
CENTS_PAID = 0
CENTS_DECLINED = 5

AMOUNT_MAJOR_MIN = 1
AMOUNT_MAJOR_MAX = 100
INSUFFICIENT_AMOUNT_MINOR = AMOUNT_MINOR_MAX
"""More than a demo account holds, in any currency."""

REPEAT_DISTANCE_MAX = 1_000
"""A duplicate is sent at most this many messages after its original: in the same batch or another."""

HOT_ACCOUNT = 1


@dataclass(frozen=True)
class LoadPlan:
    """What to send.

    Attributes:
        count: withdrawals; repeats come on top.
        accounts: how many accounts, ``acc-1`` to ``acc-<accounts>``.
        hot_account: share of the withdrawals on ``acc-1`` alone, 0 to 1.
        duplicates: share of the withdrawals that are sent twice.
        declined: share that the payment provider declines.
        insufficient: share that asks for more than an account holds.
        seed: of the choices.

    Raises:
        InvalidRequestError: a number that makes no sense; says which.
    """

    count: int
    accounts: int = 100
    hot_account: float = 0.0
    duplicates: float = 0.0
    declined: float = 0.0
    insufficient: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("count", "accounts"):
            if getattr(self, name) < 1:
                raise InvalidRequestError(f"{name} {getattr(self, name)} must be at least 1")
        for name in ("hot_account", "duplicates", "declined", "insufficient"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise InvalidRequestError(f"{name.replace('_', ' ')} {share:g} is not a share from 0 to 1")
        if self.declined + self.insufficient > 1:
            raise InvalidRequestError("declined and insufficient together are more than 1")

    @property
    def repeats(self) -> int:
        """How many withdrawals are sent twice."""
        return round(self.count * self.duplicates)

    @property
    def messages(self) -> int:
        """How many messages that makes."""
        return self.count + self.repeats


class Planned(NamedTuple):
    """One message of a load; a repeat has the contents of an earlier one."""

    payment_id: UUID
    account_id: str
    amount_minor: int
    repeat: bool


def plan_load(plan: LoadPlan, new_id: Callable[[], UUID] = uuid7) -> Iterator[Planned]:
    """The messages of a load, one after the other. The shares come out exactly, at random places.

    Args:
        plan: what to send.
        new_id: names a withdrawal.
    """
    rng = random.Random(plan.seed)  # noqa: S311 nobody gains by guessing it
    random_share, pick = rng.random, rng.randrange
    hot = _Quota(round(plan.count * plan.hot_account), plan.count, random_share)
    repeated = _Quota(plan.repeats, plan.count, random_share)
    declined_count = round(plan.count * plan.declined)
    failing = _Quota(
        min(declined_count + round(plan.count * plan.insufficient), plan.count), plan.count, random_share
    )
    declined = _Quota(declined_count, failing.left, random_share)
    # The hot account's share is exact: the others share the rest.
    others = range(HOT_ACCOUNT + 1, plan.accounts + 1) if plan.hot_account else range(1, plan.accounts + 1)
    waiting: list[tuple[int, Planned]] = []

    for number in range(plan.count):
        while waiting and waiting[0][0] <= number:
            yield heapq.heappop(waiting)[1]
        account = HOT_ACCOUNT if hot.take() or not others else others[pick(len(others))]
        if failing.take():
            amount_minor = _some_amount(pick) + CENTS_DECLINED if declined.take() else INSUFFICIENT_AMOUNT_MINOR
        else:
            amount_minor = _some_amount(pick) + CENTS_PAID
        planned = Planned(new_id(), f"acc-{account}", amount_minor, repeat=False)
        if repeated.take():
            due = number + pick(1, REPEAT_DISTANCE_MAX + 1)
            heapq.heappush(waiting, (due, planned._replace(repeat=True)))
        yield planned
    while waiting:
        yield heapq.heappop(waiting)[1]


def _some_amount(pick: Callable[[int, int], int]) -> int:
    return pick(AMOUNT_MAJOR_MIN, AMOUNT_MAJOR_MAX + 1) * 100


class _Quota:
    """Selection sampling: exactly ``left`` of ``of`` in one pass, each equally likely (Knuth, algorithm S)."""

    def __init__(self, left: int, of: int, random_share: Callable[[], float]) -> None:
        self.left = left
        self._of = of
        self._random_share = random_share

    def take(self) -> bool:
        """Whether the next one is picked."""
        if not self.left:
            return False
        taken = self._random_share() * self._of < self.left
        self._of -= 1
        self.left -= taken
        return taken
