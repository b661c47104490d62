"""A load is what was asked for: its shares, its repeats, the same again for the same seed."""

import random
from collections import Counter
from itertools import count
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.payment.provider import simulated
from producers import plan as planning
from producers.errors import InvalidRequestError, NotDeliveredError
from producers.load import FAILURES_IN_A_ROW_MAX, Latencies, LoadReport, check_rate
from producers.plan import LoadPlan, plan_load

SHARES = st.sampled_from([0.0, 0.01, 0.25, 0.5, 1.0])
SPECIAL_CENTS = {
    simulated.CENTS_DECLINED,
    simulated.CENTS_ACCOUNT_CLOSED,
    simulated.CENTS_UNAVAILABLE_ONCE,
    simulated.CENTS_UNAVAILABLE,
}


def numbered(plan):
    numbers = count(1)
    return list(plan_load(plan, lambda: UUID(int=next(numbers))))


def test_the_shares_come_out_exactly():
    plan = LoadPlan(10_000, 50, hot_account=0.3, duplicates=0.05, declined=0.1, insufficient=0.02)
    messages = numbered(plan)
    first = [message for message in messages if not message.repeat]

    assert len(messages) == plan.messages == 10_500
    assert sum(message.account_id == "acc-1" for message in first) == 3_000
    assert sum(message.amount_minor % 100 == simulated.CENTS_DECLINED for message in first) == 1_000
    assert sum(message.amount_minor == planning.INSUFFICIENT_AMOUNT_MINOR for message in first) == 200
    assert sum(message.repeat for message in messages) == 500


def test_the_shares_are_spread_over_the_whole_load():
    messages = numbered(LoadPlan(10_000, 50, hot_account=0.3, declined=0.1))
    late = messages[5_000:]

    assert sum(message.account_id == "acc-1" for message in late) == pytest.approx(1_500, rel=0.1)
    assert sum(message.amount_minor % 100 == simulated.CENTS_DECLINED for message in late) == pytest.approx(
        500, rel=0.2
    )


def test_what_is_not_meant_to_fail_is_paid_by_the_provider():
    amounts = [message.amount_minor for message in numbered(LoadPlan(5_000))]

    assert planning.CENTS_DECLINED == simulated.CENTS_DECLINED
    assert not {amount % 100 for amount in amounts} & SPECIAL_CENTS
    assert (min(amounts), max(amounts)) == (100, 10_000)


def test_declined_withdrawals_are_declined_for_this_reason_only():
    cents = {message.amount_minor % 100 for message in numbered(LoadPlan(1_000, declined=1.0))}

    assert cents == {simulated.CENTS_DECLINED}


def test_the_same_seed_makes_the_same_load_and_another_one_another():
    plan = {"count": 2_000, "duplicates": 0.1, "declined": 0.1, "hot_account": 0.2}

    assert numbered(LoadPlan(**plan, seed=5)) == numbered(LoadPlan(**plan, seed=5))
    assert numbered(LoadPlan(**plan, seed=5)) != numbered(LoadPlan(**plan, seed=6))


def test_two_runs_of_a_plan_are_different_withdrawals():
    plan = LoadPlan(100)

    assert not {m.payment_id for m in plan_load(plan)} & {m.payment_id for m in plan_load(plan)}


def test_accounts_share_the_load():
    accounts = Counter(message.account_id for message in numbered(LoadPlan(10_000, accounts=10)))

    assert set(accounts) == {f"acc-{number}" for number in range(1, 11)}
    assert min(accounts.values()) > 800


@given(
    st.integers(1, 300),
    st.integers(1, 5),
    SHARES,
    SHARES,
    SHARES.filter(lambda share: share <= 0.5),
    st.integers(),
)
def test_a_repeat_has_the_contents_of_its_first_and_comes_soon_after_it(
    withdrawals, accounts, hot, duplicates, failing, seed
):
    plan = LoadPlan(withdrawals, accounts, hot, duplicates, failing, failing, seed)
    messages = numbered(plan)
    firsts = {}
    for place, message in enumerate(messages):
        if message.repeat:
            first_place, first = firsts.pop(message.payment_id)
            assert message._replace(repeat=False) == first
            assert 0 < place - first_place <= 2 * planning.REPEAT_DISTANCE_MAX
        else:
            firsts[message.payment_id] = place, message

    assert len(messages) == plan.messages
    assert sum(not message.repeat for message in messages) == withdrawals


def test_repeats_arrive_near_and_far():
    messages = numbered(LoadPlan(20_000, duplicates=0.2))
    places = {message.payment_id: place for place, message in enumerate(messages) if not message.repeat}
    distances = [place - places[m.payment_id] for place, m in enumerate(messages) if m.repeat]

    assert min(distances) < 20
    assert max(distances) > planning.REPEAT_DISTANCE_MAX * 0.9


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"count": 0}, "count 0 must be at least 1"),
        ({"accounts": 0}, "accounts 0 must be at least 1"),
        ({"hot_account": 1.1}, "hot account 1.1 is not a share"),
        ({"duplicates": -0.1}, "duplicates -0.1 is not a share"),
        ({"declined": float("nan")}, "declined nan is not a share"),
        ({"declined": 0.6, "insufficient": 0.6}, "together are more than 1"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(change, reason):
    with pytest.raises(InvalidRequestError, match=reason):
        LoadPlan(**{"count": 10} | change)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(InvalidRequestError, match="rate"):
        check_rate(rate)


def test_percentiles_are_right_to_two_percent():
    rng, latencies = random.Random(1), Latencies()
    values = sorted(rng.lognormvariate(-4, 1) for _ in range(10_000))
    for value in values:
        latencies.add(value)

    for share in (0.5, 0.99, 1.0):
        assert latencies.percentile(share) == pytest.approx(values[int(share * 10_000) - 1], rel=0.02)
    assert Latencies().percentile(0.5) is None


def test_a_load_is_given_up_when_nothing_is_delivered_any_more():
    report = LoadReport()
    for number in range(FAILURES_IN_A_ROW_MAX):
        assert not report.hopeless
        report.on_delivery(NotDeliveredError(str(number)))

    assert report.hopeless
    assert report.failed == FAILURES_IN_A_ROW_MAX
    assert str(report.first_failure) == "0"
