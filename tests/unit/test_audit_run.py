"""The audit as a whole: each check fails by a fault of its own and no other, and waits no longer than it may."""

from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from cli.main import app
from contracts.services import READ_BY
from operations import lag
from operations.audit import again, run
from operations.audit.offenders import EXAMPLES_MAX, Offenders
from operations.audit.story import AccountSide, NotificationSide, SagaSide, Story
from operations.errors import BacklogError
from processors.runtime.gaps import Gap, NotedGap

PROCESSORS = ("account", "payment", "notification", "saga")
SERVICES = (*PROCESSORS, "api")
DSNS = {name: name for name in (*SERVICES, "provider")}
NOW = datetime(2026, 11, 28, tzinfo=UTC)
GAP = Gap("withdrawal.requests", 3, 5, 9)
OURS = [("settle_outbox_x", 0)]
BEHIND = [("settle_outbox_x", 1)]


class Clock:
    """Time that passes by sleeping only, and notes which transactions are open meanwhile."""

    def __init__(self):
        self.now = 0.0
        self.open, self.open_meanwhile = set(), set()

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.open_meanwhile |= self.open


class World:
    """What the audit finds, which is in order; a test changes one thing."""

    def __init__(self, monkeypatch):
        self.lag = []
        self.unnoticed = []
        self.noted = []
        self.balances, self.currencies = [], []
        self.open = 0
        self.slots = dict.fromkeys(SERVICES, OURS)
        self.rows = False
        self.paused = {}
        self.stories = [whole()]
        self.outbox, self.topics = [], []
        self.lost = []
        self.dead_letters = {}
        self.asked, self.read = [], []
        self.clock = Clock()
        monkeypatch.setattr(run, "time", self.clock)
        monkeypatch.setattr(again, "time", self.clock)
        monkeypatch.setattr(run, "session", partial(Connection, self))
        monkeypatch.setattr(run, "paused", lambda connection: self.paused.get(connection._name))
        monkeypatch.setattr(run, "sample", lambda _: lag.Sample(NOW, {}, {}))
        monkeypatch.setattr(run, "behind", lambda _: value_of(self.lag))
        monkeypatch.setattr(run, "deleted_unread", lambda _: self.unnoticed)
        monkeypatch.setattr(
            run, "noted_gaps", lambda dsns: self.noted if dsns == {s: s for s in PROCESSORS} else None
        )
        monkeypatch.setattr(run, "stories", self._read)
        monkeypatch.setattr(run, "lost_requests", lambda *_: value_of(self.lost))
        monkeypatch.setattr(run, "count_open", lambda _: self.dead_letters)
        monkeypatch.setattr(run, "unpublished", lambda _: self._look("outbox"))
        monkeypatch.setattr(run, "differences", lambda *_: self._look("topics"))

    def _read(self, _, ids=None):
        self.read.append(ids)
        return (one for one in value_of(self.stories) if ids is None or one.payment_id in ids)

    def _look(self, name):
        self.asked.append(name)
        return Offenders(getattr(self, name))

    def off(self, wait_s=0.0):
        """What does not hold, by check; without the two that are not looked at while something is under way."""
        found = run.run(DSNS, "kafka:9092", wait_s)
        off = {check.name: check.detail for check in found.checks if not check.ok}
        assert found.ok == (not off)
        is_quiet = "consumed" not in off and "published" not in off
        unlooked = {name for name, detail in off.items() if detail.startswith("not looked at, as consumed or ")}
        assert unlooked == (set() if is_quiet else {"outbox", "topics"})
        return {name: detail for name, detail in off.items() if name not in unlooked}


class Connection:
    """A database that answers the audit's questions."""

    def __init__(self, world, name, *, autocommit=False):
        self._world, self._name, self._autocommit = world, name, autocommit

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._world.clock.open.discard(self)

    def cursor(self, _):
        return self

    def __iter__(self):
        return iter(self._world.balances)

    def execute(self, query, values=None):
        world = self._world
        if not self._autocommit:
            world.clock.open.add(self)
        answers = {
            run._BALANCES: lambda: None,
            run._CURRENCIES: lambda: world.currencies,
            run._OPEN: lambda: [(value_of(world.open),)],
            run._POSITION: lambda: [("0/9",)],
            run._SLOTS: lambda: value_of(world.slots[self._name]) if values == ("0/9", "settle_outbox_") else None,
            run._HAS_ROWS: lambda: [(value_of(world.rows),)],
        }
        rows = answers[query]()
        return SimpleNamespace(fetchone=lambda: rows[0], fetchall=lambda: rows)


def value_of(planned):
    """A value, or what a function of the moment says."""
    return planned() if callable(planned) else planned


def whole():
    contents = ("acc-1", 100, "USD")
    types = ["WithdrawalRequested", "WithdrawalRejected", "NotificationSent"]
    saga, account = SagaSide(contents, "rejected", types), AccountSide(contents, "rejected", 0, 0, 0)
    return Story(uuid4(), account, saga=saga, notification=NotificationSide(1, 0))


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_requests_of_the_api_that_cannot_be_told_from_late_ones_are_said_not_to_be_looked_at(world, monkeypatch):
    def behind(*_):
        raise BacklogError("the saga service", "it does not know them")

    monkeypatch.setattr(run, "lost_requests", behind)
    why = "not looked at, as the saga service is behind: it does not know them"
    assert world.off() == {"finished": f"requests that the API accepted: {why}"}


def test_where_nothing_is_off_it_holds_and_every_check_says_what_that_means(world):
    found = run.run(DSNS, "kafka:9092")
    assert found.ok
    assert {check.name: check.detail for check in found.checks} == run._MEANING
    assert (found.withdrawals, found.outcomes) == (1, {"rejected": 1})
    assert world.asked == ["outbox", "topics"]


LOST = uuid4()
PLANTED = {
    "finished": (
        {"lost": [LOST]},
        f"{LOST}: accepted by the API, but its request is lost (settle nudge, or settle cancel)",
    ),
    "balances": (
        {"balances": [("acc-1", 5), ("acc-2", None)], "currencies": [("acc-3", "USD", "EUR", 7)]},
        "acc-1: off by 5; acc-2: no account; acc-3: an account of USD, with 7 withdrawals booked in EUR",
    ),
    "consumed": ({"lag": [("saga", "account.events", 7)]}, "saga: 7 records of account.events"),
    "outbox": ({"outbox": ["x did not arrive"]}, "x did not arrive"),
    "topics": ({"topics": ["x is not on its topic"]}, "x is not on its topic"),
    "published": (
        {"slots": {**dict.fromkeys(SERVICES, OURS), "saga": [("settle_outbox_saga", 1)]}},
        "saga: slot settle_outbox_saga is 1 bytes behind",
    ),
}


@pytest.mark.parametrize("check", PLANTED)
def test_each_check_finds_its_fault_and_no_other_does(world, check):
    planted, said = PLANTED[check]
    for name, value in planted.items():
        setattr(world, name, value)
    assert world.off() == {check: said}


def test_what_a_service_missed_is_off_until_it_is_acknowledged(world):
    said = "saga: 4 offsets from withdrawal.requests/3@5 on were deleted unread (settle gaps)"
    world.noted = [NotedGap("saga", GAP, NOW, None, None)]
    assert world.off() == {"gaps": said}
    world.noted = [NotedGap("saga", GAP, NOW, NOW, "resent")]
    assert world.off() == {}
    world.unnoticed = [("saga", GAP)]
    assert world.off() == {"gaps": said}


def test_faults_of_a_withdrawal_are_off_under_their_check(world):
    bad, late = whole(), whole()._replace(saga=None)
    bad = bad._replace(account=bad.account._replace(refunds=1))
    world.stories = [whole(), bad, late]
    off = world.off()
    assert off == {
        "ledger": f"{bad.payment_id}: rejected, but the ledger has 0 deductions, 1 refunds, net 0",
        "finished": f"{late.payment_id}: rejected, not yet known to the saga",
    }
    assert run.run(DSNS, "").outcomes == {"rejected": 2, "requested": 1}


def under_way():
    """A withdrawal whose money is taken, as the account service, which is read last, says already."""
    contents = ("acc-1", 100, "USD")
    saga = SagaSide(contents, "requested", ["WithdrawalRequested"])
    return Story(uuid4(), AccountSide(contents, "deducted", 1, 0, -100), saga=saga)


def test_what_comes_right_while_the_audit_reads_is_no_fault(world):
    one = under_way()
    ended = whole()._replace(payment_id=one.payment_id)
    world.stories = lambda: [whole(), one if world.clock.now < 2.0 else ended]
    found = run.run(DSNS, "kafka:9092")
    assert (found.ok, found.outcomes) == (True, {"rejected": 2})
    assert world.clock.now == 2.0
    assert {tuple(ids) for ids in world.read[1:]} == {(one.payment_id,)}


def test_what_is_off_in_another_way_each_time_is_not_lost(world):
    """A withdrawal goes on: its next event is under way when that of the first look has come."""
    one = under_way()
    seen = one._replace(saga=one.saga._replace(types=[*one.saga.types, "BalanceChecked", "MoneyDeducted"]))
    world.stories = lambda: [one if world.clock.now != 1.0 else seen]
    assert set(world.off()) == {"finished"}


def test_what_stays_off_is_named_after_five_seconds_as_it_is_then(world):
    one = under_way()
    world.stories = lambda: [one, *([] if world.clock.now else [under_way() for _ in range(5)])]
    off = world.off()
    assert off["finished"] == f"{one.payment_id}: deducted, waits for payment; {one.payment_id}: requested"
    assert f"{one.payment_id}: MoneyDeducted is missing" in off["events"]
    assert again.AGAIN_S <= world.clock.now <= again.AGAIN_S + again.POLL_S


def test_so_many_faults_are_no_coincidence_and_count_at_once(world, monkeypatch):
    monkeypatch.setattr(again, "AGAIN_MAX", 9)
    world.stories = [under_way() for _ in range(10)]
    found = run.run(DSNS, "kafka:9092")
    assert (found.withdrawals, found.outcomes) == (10, {"requested": 10})
    assert {check.name: check.detail for check in found.checks}["finished"].endswith("; and 15 more")
    assert (world.clock.now, world.read) == (0.0, [None])
    world.stories = world.stories[1:]
    assert not run.run(DSNS, "kafka:9092").ok
    assert world.clock.now >= again.AGAIN_S


def test_no_look_is_the_last_before_its_time_however_slow_it_is(world):
    looks = []

    def look(found):
        looks.append(world.clock.now)
        world.clock.sleep(4.0)
        return found

    assert list(again.lasting([1], look)) == [1]
    assert looks[-1] >= again.AGAIN_S


@pytest.mark.parametrize(
    "way",
    [{"lag": [("saga", "account.events", 7)]}, {"slots": dict.fromkeys(SERVICES, BEHIND)}],
)
def test_with_something_under_way_what_is_late_is_not_lost(world, way):
    """Neither are topics compared, nor is an event missed in a withdrawal that has not ended."""
    world.stories = [Story(uuid4(), saga=SagaSide(("acc-1", 100, "USD"), "incomplete", []))]
    assert set(world.off()) == {"finished", "events"}
    world.asked.clear()
    for name, value in way.items():
        setattr(world, name, value)
    world.outbox = world.topics = ["late"]
    assert set(world.off()) == {"finished", "consumed" if "lag" in way else "published"}
    assert world.asked == []


def test_it_waits_until_everything_is_read(world):
    world.lag = lambda: [] if world.clock.now >= 3.0 else [("saga", "account.events", 7)]
    assert world.off(wait_s=3.0) == {}
    assert world.clock.now == 3.0
    world.lag = [("saga", "account.events", 7)]
    assert set(world.off(wait_s=2.0)) == {"consumed"}
    assert world.clock.now == 5.0


def sampled(monkeypatch, *ends_and_reads):
    """Samples of one partition that the saga service reads: where it ends, and where the service is."""
    place = ("notification.events", 0)
    samples = iter([lag.Sample(NOW, {place: end}, {("saga", place): read}) for end, read in ends_and_reads])
    monkeypatch.setattr(run, "sample", lambda _: next(samples))
    monkeypatch.setattr(run, "behind", lag.behind)
    return samples


def test_what_was_published_meanwhile_is_read_before_stories_are_told(world, monkeypatch):
    """An event that follows an end, such as a mail, may leave its outbox after all was read."""
    samples = sampled(monkeypatch, (1, 1), (1, 1), (2, 1), (2, 1), (2, 2))
    assert world.off(wait_s=3.0) == {}
    assert next(samples, None) is None
    assert world.clock.now == run.POLL_S


def test_what_comes_while_it_waits_does_not_matter(world, monkeypatch):
    sampled(monkeypatch, (1, 1), (1, 1), (2, 1), (3, 2))
    assert world.off() == {}
    assert world.asked == ["outbox", "topics"]


def test_it_holds_beside_steady_traffic_of_which_something_is_always_unread(world, monkeypatch):
    samples = sampled(monkeypatch, *[(end, end - 3) for end in range(100, 200)])
    assert world.off(wait_s=10.0) == {}
    assert world.asked == ["outbox", "topics"]
    assert next(samples).end  # it was content before they had come to their end


def test_what_was_published_last_and_is_not_read_is_told(world, monkeypatch):
    sampled(monkeypatch, *[(1, 1)] * 2, *[(2, 1)] * 100)
    assert world.off(wait_s=1.0) == {"consumed": "saga: 1 records of notification.events"}
    assert world.asked == []


def test_it_waits_until_withdrawals_have_ended(world):
    world.open = lambda: int(world.clock.now < 3.0)
    assert world.off(wait_s=10.0) == {}
    assert world.clock.now == 3.0
    world.open = 1
    assert world.off(wait_s=2.0) == {}
    assert world.clock.now == 5.0


def test_the_relay_has_five_seconds_of_its_own_to_confirm(world):
    world.slots = dict.fromkeys(SERVICES, lambda: [("settle_outbox_x", int(world.clock.now < 5.0))])
    assert world.off() == {}
    assert world.clock.now == 5.0
    world.slots = dict.fromkeys(SERVICES, BEHIND)
    assert set(world.off()) == {"published"}
    assert world.clock.now == 10.0
    assert set(world.off(wait_s=20.0)) == {"published"}
    assert world.clock.now == 30.0


@pytest.mark.parametrize("waits_for", [{"open": 1}, {"slots": dict.fromkeys(SERVICES, BEHIND)}])
def test_no_transaction_is_open_while_it_waits(world, waits_for):
    """The database might end it, and the position that the relay has to confirm is that of a commit."""
    for name, value in waits_for.items():
        setattr(world, name, value)
    world.off(wait_s=2.0)
    assert world.clock.now > 0.0
    assert world.clock.open_meanwhile == set()


def test_what_people_have_paused_is_said_at_once(world):
    world.slots["saga"] = [("settle_outbox_saga", 1)]
    world.paused = {"saga": "paused since 1 by a: b"}
    said = "saga: slot settle_outbox_saga is 1 bytes behind, as its relay is paused since 1 by a: b"
    assert world.off(wait_s=30.0) == {"published": said}
    assert world.clock.now < 1.0


def test_of_several_slots_of_ours_one_that_has_confirmed_is_enough(world):
    world.slots["saga"] = [("settle_outbox_old", 99), ("settle_outbox_new", -8)]
    assert world.off() == {}
    world.slots["saga"] = [("settle_outbox_old", 99), ("settle_outbox_new", 1)]
    assert world.off() == {"published": "saga: slot settle_outbox_new is 1 bytes behind"}


def test_without_a_slot_an_outbox_must_become_empty(world):
    world.slots["saga"] = []
    assert world.off() == {}
    world.rows = lambda: world.clock.now < 2.0
    assert world.off() == {}
    world.rows = True
    assert world.off() == {"published": "saga: no replication slot, so no relay has read its outbox"}


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, ""),
        (1, "0"),
        (EXAMPLES_MAX, "0; 1; 2; 3; 4"),
        (EXAMPLES_MAX + 1, "0; 1; 2; 3; 4; and 1 more"),
        (1_000, "0; 1; 2; 3; 4; and 995 more"),
    ],
)
def test_some_offenders_are_named_and_all_are_counted(count, said):
    found = Offenders(str(number) for number in range(count))
    assert (found.count, found.in_words()) == (count, said)
    assert len(found._examples) <= EXAMPLES_MAX


class Offsets:
    """Of one partition of each topic."""

    def __init__(self, confirmed, first, end):
        self._confirmed, self._first, self._end = confirmed, first, end

    def confirmed(self, group, topics):
        assert group.startswith("settle-")
        return {(topic, 0): self._confirmed for topic in topics if self._confirmed is not None}

    def confirmed_by(self, groups):
        return {group: self.confirmed(group, topics) for group, topics in groups.items()}

    def first(self, topics):
        return {(topic, 0): self._first for topic in topics}

    def end(self, topics):
        return {(topic, 0): self._end for topic in topics}

    def bounds(self, topics):
        return self.first(topics), self.end(topics)


@pytest.mark.parametrize(
    ("confirmed", "first", "end", "behind", "missed"),
    [
        (5, 0, 5, 0, None),
        (5, 0, 6, 1, None),
        (5, 5, 5, 0, None),
        (5, 6, 8, 2, (5, 6)),  # what is gone is not behind, it is missed
        (0, 0, 3, 3, None),
        (-1001, 0, 3, 3, None),  # confirmed nothing
        (-1001, 2, 3, 1, (0, 2)),
        (None, 2, 3, 1, (0, 2)),
        (5, 0, 4, 0, None),  # confirmed meanwhile
    ],
)
def test_what_is_behind_and_what_was_deleted_unread(monkeypatch, confirmed, first, end, behind, missed):
    monkeypatch.setattr(lag, "Offsets", lambda *_, **__: Offsets(confirmed, first, end))
    reads = [(service, topic.name) for service, topics in READ_BY.items() for topic in topics]
    assert lag.consumer_lag("") == sorted((*one, behind) for one in reads if behind)
    assert lag.deleted_unread("") == [(s, Gap(t, 0, *missed)) for s, t in reads if missed]


def test_the_lag_of_a_topic_is_that_of_its_partitions(monkeypatch):
    offsets = Offsets(0, 0, 0)
    offsets.end = lambda topics: {(topic, partition): 3 for topic in topics for partition in range(4)}
    offsets.first = lambda topics: dict.fromkeys(offsets.end(topics), 0)
    monkeypatch.setattr(lag, "Offsets", lambda *_, **__: offsets)
    assert {behind for _, _, behind in lag.consumer_lag("")} == {12}


def test_open_dead_letters_are_told_also_those_of_a_service_that_it_does_not_know(world, monkeypatch):
    world.dead_letters = {"fraud": 2, "saga": 1}
    found = run.run(DSNS, "kafka:9092")
    monkeypatch.setattr(run, "run", lambda *_: found)
    assert (found.ok, found.dead_letters) == (True, world.dead_letters)
    shown = CliRunner().invoke(app, ["audit"], env={"COLUMNS": "200"}).stdout
    assert "3 dead letters wait to be redriven or discarded (refused by fraud 2, saga 1)" in shown
    assert "`settle dead-letters list`" in shown


def test_who_does_not_ask_it_to_wait_does_not_wait_for_what_is_under_way(world):
    world.lag, world.open = [("saga", "account.events", 7)], 1
    assert not run.run(DSNS, "kafka:9092").ok
    assert world.clock.now == 0.0


def test_a_verdict_is_not_changed_afterwards(world):
    found = run.run(DSNS, "kafka:9092")
    for verdict in (found, found.checks[0]):
        with pytest.raises(AttributeError):
            verdict.ok = False
