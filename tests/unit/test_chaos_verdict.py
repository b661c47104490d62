"""What a chaos run proves: each check fails by what it is there for, and by nothing else."""

from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import RFC_4122, UUID

import pytest

from broker.records import Record
from lab.chaos import verdict
from lab.chaos.operators import PLANTED
from lab.chaos.plan import FAILPOINT, FREEZE, KILL, Fault
from lab.chaos.run import _note_when_struck
from lab.chaos.through_api import Request
from lab.chaos.verdict import Done, Latency, too_long
from operations.audit.run import Audit, Check
from operations.dead_letters.letters import Letter, Refusal
from producers.api import Accepted
from producers.plan import CENTS_DECLINED, INSUFFICIENT_AMOUNT_MINOR

MOMENT = 1_700_000_000.0
RECOVERY_S_MAX, P99_S_MAX = 60.0, 2.0  # as docs/chaos.md promises


def _done(at_s, recovery_s, kind=KILL, part="account"):
    return Done(Fault(at_s, kind, part), MOMENT + at_s, MOMENT + at_s, recovery_s)


@pytest.mark.parametrize(
    ("recovery_s", "late"), [(0.0, False), (RECOVERY_S_MAX, False), (RECOVERY_S_MAX + 0.1, True), (None, True)]
)
def test_a_fault_alone_has_the_whole_time(recovery_s, late):
    one = _done(4.0, recovery_s)

    assert too_long([one]) == ([one] if late else [])


def test_what_struck_before_recovery_starts_the_time_anew():
    frozen = _done(20.0, 65.0, FREEZE, "kafka")
    killed = _done(40.0, 45.0, part="relay")

    assert too_long([frozen, killed]) == []
    assert too_long([frozen]) == [frozen]


def test_what_struck_after_recovery_does_not():
    slow = _done(4.0, RECOVERY_S_MAX + 1)
    later = _done(4.0 + RECOVERY_S_MAX + 2, 1.0)

    assert too_long([slow, later]) == [slow]


def test_none_that_strikes_later_excuses_what_never_recovers():
    never = _done(4.0, None)

    assert too_long([never, _done(30.0, 2.0)]) == [never]


@pytest.mark.parametrize(
    ("asked_s", "finished_s", "touched"),
    [
        (0.0, 0.5, False),  # its spans had been sent before the kill that arms the failpoint
        (8.0, 9.0, True),  # they may have died with it
        (12.0, 12.5, True),  # between that kill and the failpoint
        (25.0, 26.0, True),  # before the service had recovered
        (40.0, 41.0, False),
    ],
)
def test_a_failpoint_touches_traces_from_the_kill_that_arms_it_on(asked_s, finished_s, touched):
    one = _done(10.0, None, FAILPOINT, "relay")
    _note_when_struck([one], [("account", MOMENT + 11.0), ("relay", MOMENT + 10.1), ("relay", MOMENT + 20.0)])
    one.recovery_s = 8.0

    assert one.began == MOMENT + 20.0
    assert one.touched(MOMENT + asked_s, MOMENT + finished_s) == touched


class Database:
    """Answers each query with the rows that are planted for it."""

    def __init__(self, monkeypatch, answers):
        self._answers = answers
        self.asked = []
        monkeypatch.setattr(verdict, "session", lambda dsn: nullcontext(self))

    def execute(self, query, values=None):
        self.asked.append(values)
        found = self._answers[query]
        rows = found(*values) if callable(found) else found
        return SimpleNamespace(fetchall=lambda: rows, fetchone=lambda: rows[0] if rows else None)


A, B, C = (UUID(int=number) for number in range(3))
AMOUNTS = {"completed": 10_000, "compensated": 10_000 + CENTS_DECLINED, "rejected": INSUFFICIENT_AMOUNT_MINOR}


@pytest.mark.parametrize("wanted", AMOUNTS)
@pytest.mark.parametrize("state", [*AMOUNTS, "deducted", None])
@pytest.mark.parametrize("provider_faults", [False, True])
def test_each_withdrawal_ends_as_it_had_to(monkeypatch, wanted, state, provider_faults):
    """Where the provider has faults, a payment may have failed after its last attempt."""
    Database(monkeypatch, {verdict._STATES: [] if state is None else [(A, state)]})
    check = verdict.check_outcomes("saga", {A: AMOUNTS[wanted]}, provider_faults)
    assert check.ok == (state == wanted or (provider_faults and state == "compensated"))
    if not check.ok:
        assert check.detail == f"{A} is {state or 'unknown'}, not {wanted}"


def test_a_withdrawal_that_nobody_asked_for_is_off(monkeypatch):
    Database(monkeypatch, {verdict._STATES: [(A, "completed"), (B, "completed")]})
    check = verdict.check_outcomes("saga", {A: 10_000}, False)
    assert (check.ok, check.detail) == (False, f"{B} was never asked for")
    assert verdict.check_outcomes("saga", {A: 10_000, B: 10_000}, False).ok


def asked_for(*answers, account_id="acc-1", amount_minor=100, refused=None):
    return Request(account_id, amount_minor, list(answers), refused)


def answer(payment_id, account_id="acc-1", amount="1.00", currency="USD"):
    return Accepted(payment_id, account_id, amount, currency, datetime(2026, 1, 1, tzinfo=UTC), "0" * 32)


@pytest.mark.parametrize(
    ("requests", "wrong"),
    [
        ({"k": asked_for(answer(A)), "l": asked_for(answer(B))}, None),
        ({"k": asked_for(answer(A), answer(A))}, None),  # repeated, and it was the same
        ({"k": asked_for()}, "k was never answered"),
        ({"k": asked_for(answer(A), refused="HTTP 422")}, "k was refused: HTTP 422"),
        ({"k": asked_for(answer(A), answer(B))}, "k became 2 withdrawals"),
        ({"k": asked_for(answer(A)), "l": asked_for(answer(A))}, "l and k became one withdrawal"),
        ({"k": asked_for(answer(A), answer(A, account_id="acc-2"))}, "k was answered as another request"),
        ({"k": asked_for(answer(A, amount="2.00"))}, "k was answered as another request"),
        ({"k": asked_for(answer(A, currency="EUR"))}, "k was answered as another request"),
    ],
)
def test_each_request_is_one_withdrawal_and_each_answer_names_it(requests, wrong):
    check = verdict.check_answers(requests)
    said = f"each of {len(requests)} requests is one withdrawal, whatever was repeated"
    assert (check.name, check.ok, check.detail) == ("answers", wrong is None, wrong or said)


@pytest.mark.parametrize(
    ("told", "refused", "wrong"),
    [
        ([(A, "completed"), (B, "rejected")], None, None),
        ([(B, "rejected"), (A, "completed")], None, None),  # in which order is not promised
        ([(A, "completed")], None, f"{B} was not told"),
        ([(A, "completed"), (B, "rejected"), (A, "completed")], None, f"{A} was told 2 times"),
        ([(A, "completed"), (B, "completed")], None, f"{B} was told as completed, but is rejected"),
        (
            [(A, "completed"), (B, "rejected"), (C, "completed")],
            None,
            f"{C} was told as completed, but is not finished",
        ),
        ([(A, "completed"), (B, "rejected")], "HTTP 422", "the stream was refused: HTTP 422"),
    ],
)
def test_who_follows_is_told_of_each_ending_once(monkeypatch, told, refused, wrong):
    Database(monkeypatch, {verdict._ENDED: [(A, "completed"), (B, "rejected")]})
    check = verdict.check_stream("saga", SimpleNamespace(told=told, refused=refused, connections=3))
    said = "each of 2 endings was told once, over 3 connections"
    assert (check.name, check.ok, check.detail) == ("stream", wrong is None, wrong or said)


def money(monkeypatch, *sides):
    queries = (verdict._HELD, verdict._NET, verdict._PAID)
    Database(monkeypatch, {query: list(side.items()) for query, side in zip(queries, sides, strict=True)})
    check = verdict.check_money({"account": "account", "provider": "provider"})
    return check.ok, check.detail


@pytest.mark.parametrize("field", [None, 0, 1, 2])
def test_the_cents_that_left_an_account_are_the_cents_that_were_paid(monkeypatch, field):
    amounts = [10_001] * 3
    if field is not None:
        amounts[field] += 1
    said = "100.01 left the accounts, of each what the provider paid for it"
    if field is not None:
        left, net, paid = amounts
        said = f"a: balance fell by {left}, ledger says {net}, provider paid {paid}"
    assert money(monkeypatch, *({"a": amount} for amount in amounts)) == (field is None, said)


@pytest.mark.parametrize("field", [0, 1, 2])
def test_what_one_account_lost_for_another_is_no_balance(monkeypatch, field):
    sides = [{"a": 500, "b": 700}, {"a": 500, "b": 700}, {"a": 500, "b": 700}]
    sides[field] = {"a": 1_200}
    assert not money(monkeypatch, *sides)[0]


def test_an_account_that_nothing_left_has_neither_bookings_nor_charges(monkeypatch):
    assert money(monkeypatch, {"a": 500, "b": 0}, {"a": 500, "b": 0}, {"a": 500})[0]


def _letter(offset, planted=None):
    fields = [] if planted is None else [(PLANTED, planted.encode())]
    record = Record("t", 0, offset, None, b"", fields)
    return Letter(record.place, record, [Refusal("saga", "conflict", None, None)])


@pytest.mark.parametrize(
    ("letters", "planted", "ok", "said"),
    [
        ([], set(), True, "no message was given up"),
        ([_letter(1)], set(), False, "t/0@1: conflict"),
        # What was planted is refused, and may come again; it excuses no other.
        ([_letter(1, "a"), _letter(2, "b"), _letter(3, "a")], {"a", "b"}, True, None),
        ([_letter(1, "a"), _letter(7)], {"a"}, False, "t/0@7: conflict"),
        ([_letter(1, "a")], {"a", "b"}, False, "b was planted, but not refused"),
    ],
)
def test_no_message_is_given_up_but_what_was_planted(monkeypatch, letters, planted, ok, said):
    monkeypatch.setattr(verdict, "read_letters", lambda _: letters)

    check = verdict.check_dead_letters("kafka", planted)

    assert (check.ok, check.detail) == (ok, said or "no message was given up but the 2 planted ones")


class Collector:
    """Spans of traces, of which some come late."""

    def __init__(self, late=0):
        self._late = late

    def trace_ids(self):
        return ["a"]

    def trace(self, trace_id):
        self._late -= 1
        return "whole" if self._late < 0 else "holes"


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(verdict, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(
        verdict, "what_is_missing", lambda spans, *_: None if spans == "whole" else "a hop missing"
    )
    return now


def trace_row(trace_id="a", asked_s=0.0):
    return trace_id, "completed", None, MOMENT + asked_s, MOMENT + asked_s + 1.0


def test_a_trace_with_holes_is_off_unless_a_fault_touched_it(monkeypatch, clock):
    Database(monkeypatch, {verdict._TRACED: [trace_row()]})
    check = verdict.check_traces("saga", Collector(10**6), [])
    assert (check.ok, check.detail) == (False, "a (completed): a hop missing")
    check = verdict.check_traces("saga", Collector(10**6), [_done(0.0, 1.0)])
    assert (check.ok, check.detail) == (True, "0 of 1 sampled are whole, of 0 that no fault touched all")
    assert not verdict.check_traces("saga", Collector(10**6), [_done(60.0, 1.0)]).ok


def test_a_trace_whose_last_spans_are_on_their_way_is_waited_for(monkeypatch, clock):
    Database(monkeypatch, {verdict._TRACED: [trace_row(), trace_row("b", 5.0)]})
    check = verdict.check_traces("saga", Collector(3), [_done(-60.0, 1.0)])
    assert (check.ok, check.detail) == (True, "2 of 2 sampled are whole, of 2 that no fault touched all")
    assert clock[0] == pytest.approx(0.3)


def test_for_the_last_spans_it_waits_four_seconds_and_no_longer(monkeypatch, clock):
    monkeypatch.setattr(verdict, "SPANS_POLL_S", 0.5)
    Database(monkeypatch, {verdict._TRACED: [trace_row(), trace_row("b")]})
    assert not verdict.check_traces("saga", Collector(10**6), []).ok
    assert clock[0] == 4.0


@pytest.mark.parametrize(
    ("asked_s", "finished_s", "touched"),
    [
        (0.0, 3.9, False),  # over SPANS_AFTER_S + SPANS_BEFORE_S before it
        (0.0, 4.0, False),
        (0.0, 4.1, True),
        (25.9, 26.0, True),
        (26.0, 26.1, False),  # SPANS_AFTER_S after recovery
    ],
)
def test_a_fault_touches_what_was_under_way_shortly_before_and_until_recovery(asked_s, finished_s, touched):
    one = Done(Fault(10.0, KILL, "account"), MOMENT + 10.0, MOMENT + 20.0, 2.0)
    assert one.touched(MOMENT + asked_s, MOMENT + finished_s) == touched
    assert Done(one.fault, one.began, one.ended).touched(MOMENT + 23.9, MOMENT + 24.0)
    assert not Done(one.fault, one.began, one.ended).touched(MOMENT + 24.0, MOMENT + 24.1)


@pytest.mark.parametrize(
    ("finished_s", "recovery_s"),
    [(3.5, 3.5), (-1.0, 0.0), (None, None), (RECOVERY_S_MAX + 1.0, RECOVERY_S_MAX + 1.0)],
)
def test_recovery_is_from_a_fault_to_the_first_that_completes(monkeypatch, finished_s, recovery_s):
    one = _done(4.0, None)
    row = (None if finished_s is None else one.began + finished_s,)
    database = Database(monkeypatch, {verdict._RECOVERED: [row]})
    check = verdict.check_recovery("saga", [one])
    assert one.recovery_s == recovery_s
    first_id, moment = database.asked[0]
    assert uuid_time(first_id) == moment.timestamp() == one.began
    assert check.ok == (recovery_s is not None and recovery_s <= RECOVERY_S_MAX)
    if check.ok:
        assert check.detail == f"withdrawals completed again after {recovery_s:.1f} s at the most"
    else:
        how_long = "never" if recovery_s is None else f"{recovery_s:.1f} s"
        assert check.detail == f"{one.fault.in_words()}: {how_long}"


def test_the_longest_recovery_is_told_and_none_without_faults(monkeypatch):
    rows = iter([MOMENT + 1.0, MOMENT + 12.0])
    Database(monkeypatch, {verdict._RECOVERED: lambda *_: [(next(rows),)]})
    assert "after 2.0 s" in verdict.check_recovery("saga", [_done(0.0, None), _done(10.0, None)]).detail
    assert "after 0.0 s" in verdict.check_recovery("saga", []).detail


def test_a_database_without_rows_says_never(monkeypatch):
    Database(monkeypatch, {verdict._RECOVERED: []})
    assert not verdict.check_recovery("saga", [one := _done(0.0, None)]).ok
    assert one.recovery_s is None


def uuid_time(one):
    assert (one.version, one.variant) == (7, RFC_4122)
    assert one.int & ((1 << 62) - 1) == 0
    return (one.int >> 80) / 1000


@pytest.mark.parametrize(
    ("p99_s", "ok"), [(0.1, True), (P99_S_MAX - 0.01, True), (P99_S_MAX, False), (9.0, False)]
)
def test_nobody_waits_long_where_services_are_only_restarted(p99_s, ok):
    check = verdict.check_latency(Latency(0.1, p99_s, 10.0))
    assert (check.ok, check.detail) == (ok, f"p99 {p99_s:.2f} s" + (f", limit {P99_S_MAX:g} s" if ok else ""))


def test_latency_is_what_the_database_says_and_stays_so(monkeypatch):
    Database(monkeypatch, {verdict._LATENCIES: [([0.1, 0.2, 0.3],)]})
    latency = verdict.measure_latency("saga")
    assert latency == Latency(0.1, 0.2, 0.3)
    with pytest.raises(AttributeError):
        latency.p99_s = 0.0


def test_the_audit_holds_where_all_its_checks_do():
    good, bad = Check("saga", True, "well"), Check("ledger", False, "x is off")
    check = verdict.audit_check(Audit(True, [good, good], 1, {}))
    assert (check.ok, check.detail) == (True, "all 2 checks over all databases and topics hold")
    check = verdict.audit_check(Audit(False, [good, bad], 1, {}))
    assert (check.ok, check.detail) == (False, "ledger: x is off")


@pytest.mark.parametrize(("count", "more"), [(1, ""), (3, ""), (4, "; and 1 more"), (9, "; and 6 more")])
def test_some_faults_are_named_and_all_are_counted(count, more):
    check = verdict._check("x", [str(number) for number in range(count)], "good")
    assert (check.ok, check.detail) == (False, "; ".join("012345678"[: min(count, 3)]) + more)
