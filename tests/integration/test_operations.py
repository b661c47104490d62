"""Operations on a running system act on exactly what was chosen, and say what came of each."""

from uuid import uuid4

import psycopg
import pytest
from uuid_utils.compat import uuid7

from operations import outboxes
from operations.audit import history
from operations.audit.history import AuditRunningError
from operations.audit.run import Audit, Check
from operations.dead_letters import actions
from operations.dead_letters.actions import Done
from operations.dead_letters.letters import Wanted, read_letters
from operations.dead_letters.pages import ALL, HANDLED, OPEN, page
from operations.errors import CursorError, FinishedError
from operations.lag import progress, sample
from operations.nudge import nudge
from operations.outboxes import DeadName, act, all_dead
from processors.runtime.settings import ServiceSettings
from tests.conftest import WAIT_S, Settle, wait_until

NOWHERE = "postgresql://settle@127.0.0.1:9/nowhere?connect_timeout=1"


def a_letter(settle: Settle, message_id: str) -> str:
    """The ID of a new dead letter: a message that nobody can read."""
    place = settle.send("account.events", b"nothing", "acc-1", id=message_id, eventType="MoneyDeducted")
    return is_there(settle, f"account.events/{place[0]}@{place[1]}")


def is_there(settle: Settle, name: str) -> str:
    wait_until(lambda: name in {one.id for one in read_letters(settle.bootstrap)}, f"a dead letter {name}")
    return name


def state_of(settle: Settle, name: str) -> str:
    (letter,) = [one for one in read_letters(settle.bootstrap) if one.id == name]
    return letter.handled.action if letter.handled else "open"


def test_actions_on_dead_letters_meet_those_that_were_chosen_and_none_that_came_later(settle: Settle):
    message_id = str(uuid7())
    chosen, other = a_letter(settle, message_id), a_letter(settle, str(uuid7()))
    (sent,) = actions.act(settle.bootstrap, "redrive", [message_id])
    assert (sent.id, sent.error) == (message_id, None)
    # It is refused again: a new letter of the same message, which nobody has chosen.
    newer = is_there(settle, sent.place)
    (ambiguous,) = actions.act(settle.bootstrap, "discard", [message_id])
    assert ambiguous.error == f"several dead letters have this message: {chosen}, {newer}"
    (again,) = actions.act(settle.bootstrap, "redrive", [chosen])
    assert again.error.startswith("it was redriven already, at ")
    assert again.error.endswith(f" to {newer}")
    assert [state_of(settle, name) for name in (chosen, newer, other)] == ["redriven", "open", "open"]

    found = actions.act(settle.bootstrap, "discard", [newer, "nobody", chosen, newer], "a test")
    assert found[0] == found[3] == Done(newer)
    assert found[1] == Done("nobody", error="there is no such dead letter")
    assert found[2].error.startswith("it was redriven already")
    assert [state_of(settle, name) for name in (newer, other)] == ["discarded", "open"]
    (back,) = actions.act(settle.bootstrap, "redrive", [newer])
    actions.act(settle.bootstrap, "discard", [other, is_there(settle, back.place)])


def test_a_list_goes_on_where_it_was_though_somebody_acts_on_its_last_letter_meanwhile(settle: Settle):
    ids = [a_letter(settle, str(uuid7())) for _ in range(3)]
    wanted = Wanted(ids=tuple(ids))
    first = page(settle.bootstrap, wanted, OPEN, 1)
    assert (first.total, first.handled, first.cursor) == (3, 0, ids[2])
    actions.act(settle.bootstrap, "discard", [first.cursor])
    rest = page(settle.bootstrap, wanted, OPEN, 5, first.cursor)
    assert ([one.id for one in rest.letters], rest.total, rest.handled, rest.cursor) == (ids[1::-1], 2, 1, None)
    assert [one.id for one in page(settle.bootstrap, wanted, HANDLED).letters] == [ids[2]]
    assert [one.id for one in page(settle.bootstrap, wanted, ALL).letters] == ids[::-1]
    with pytest.raises(CursorError):
        page(settle.bootstrap, wanted, OPEN, 1, "nobody")
    actions.act(settle.bootstrap, "discard", ids[:2])


def test_a_message_id_that_is_anothers_place_does_not_hide_it(settle: Settle):
    victim = a_letter(settle, str(uuid7()))
    forger = a_letter(settle, victim)
    assert actions.act(settle.bootstrap, "discard", [victim]) == [Done(victim)]
    assert [state_of(settle, name) for name in (victim, forger)] == ["discarded", "open"]
    actions.act(settle.bootstrap, "discard", [forger])


@pytest.fixture
def dead(settle: Settle):
    """The databases of two services with dead rows, and a way to make another one of an ID."""
    name = f"dead_{uuid4().hex[:8]}"
    dsns = {service: settle.new_database(service, f"{service}_{name}") for service in ("account", "payment")}

    def add(service: str, row_id: str, payload: str = "{}") -> DeadName:
        with psycopg.connect(dsns[service]) as connection:
            row = connection.execute(
                "INSERT INTO outbox_dead (id, aggregatetype, aggregateid, type, payload, position, reason) "
                "VALUES (%s, 'account', 'acc-1', 'MoneyDeducted', %s, '0/1', 'too large') RETURNING number",
                (row_id, payload.encode()),
            )
            return DeadName(service, row.fetchone()[0])

    return dsns, add


def test_actions_on_dead_rows_meet_those_that_were_chosen_and_none_that_came_later(dead):
    dsns, add = dead
    row_id = str(uuid7())
    chosen, other = add("account", row_id, '{"n": 1}'), add("payment", str(uuid7()))
    unreadable = add("payment", "no UUID")
    shown = all_dead(dsns)
    newer = add("account", row_id, '{"n": 2}')
    unknown = (DeadName("account", 10**6), DeadName("nobody", 1))
    found = act(dsns, "retry", [chosen, other, unreadable, *unknown])
    assert [one.name for one in found] == [chosen, other, unreadable, *unknown]
    assert [one.error for one in found[:2]] == [None, None]
    assert found[2].error.startswith('row number:2 is not put back: invalid input syntax for type uuid: "no UUID"')
    assert [one.error for one in found[3:]] == [
        "it is not among the dead rows",
        "there is no service nobody",
    ]
    with psycopg.connect(dsns["account"]) as connection:
        assert connection.execute("SELECT id::text, payload->>'n' FROM outbox").fetchall() == [(row_id, "1")]
    left = {(one.service, one.row.number) for one in all_dead(dsns)}
    assert left == {(one.service, one.number) for one in (newer, unreadable)}
    assert [one.error for one in act(dsns, "retry", [chosen])] == ["it is not among the dead rows"]
    # What was shown is acted on, and not what has the same ID since.
    of_shown = [DeadName(one.service, one.row.number) for one in shown if one.service == "account"]
    assert {one.error for one in act(dsns, "discard", of_shown)} == {"it is not among the dead rows"}
    assert act(dsns, "discard", [newer, newer]) == [outboxes.Done(newer)] * 2


def test_lag_and_rates_of_each_step_are_the_difference_of_two_samples(settle: Settle):
    before = sample(settle.bootstrap)
    ids = [settle.client.request(settle.open_account(), "1.00").payment_id for _ in range(5)]
    for payment_id in ids:
        settle.finished(payment_id)

    def caught_up():
        now = sample(settle.bootstrap)
        return now if not any(one.lag for one in progress(now)) else None

    now = wait_until(caught_up, "everything is read")
    seconds = (now.at - before.at).total_seconds()
    steps = {(one.service, one.topic): one for one in progress(now, before)}
    assert next(iter(steps)) == ("account", "withdrawal.requests")
    for reader in ("account", "saga"):
        step = steps[reader, "withdrawal.requests"]
        assert (step.lag, round(step.arriving_per_s * seconds)) == (0, 5)
        assert round(step.reading_per_s * seconds) >= 5  # and what it had yet to read before
    assert {one.arriving_per_s for one in progress(now)} == {None}


def test_a_finished_withdrawal_is_not_nudged(settle: Settle):
    payment_id = settle.client.request(settle.open_account(), "1.00").payment_id
    settle.finished(payment_id)
    with pytest.raises(FinishedError, match=f"withdrawal {payment_id} is finished: completed"):
        nudge(settle.dsns, settle.bootstrap, payment_id, WAIT_S)


@pytest.fixture(scope="module")
def audits(settle: Settle):
    """A database with the table of audits."""
    dsn = settle.new_database("provider", "audits")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(history.TABLE_V1)
        yield dsn, connection


def test_an_audit_is_started_and_its_result_is_kept(settle: Settle, audits):
    dsn, connection = audits
    settle.audit()
    found = history.audit(dsn, "ada", settle.dsns, settle.bootstrap, WAIT_S)
    (run, *_) = history.history(connection, 10)
    assert (run.started_by, run.state, run.result, run.error) == ("ada", "holds", found, None)
    assert run.finished_at > run.started_at
    assert history.find(connection, run.audit_id) == run
    assert history.find(connection, uuid7()) is None


def test_one_audit_runs_at_a_time_and_one_that_died_is_known_as_interrupted(audits):
    dsn, connection = audits

    def newest():
        return history.history(connection, 1)[0]

    with history.begun(dsn, "ada") as (first, end):
        assert (newest().audit_id, newest().state) == (first, "running")
        with pytest.raises(AuditRunningError), history.begun(dsn, "bob"):
            pass
        end(Audit(False, [Check("balances", False, "acc-1: off by 1")], 1, {"completed": 1}))
        assert newest().state == "does not hold"
    with history.begun(dsn, "bob") as (second, _):
        pass  # as if its process had been killed
    wait_until(lambda: newest().state == "interrupted", "its session is gone")
    with history.begun(dsn, "eve") as (third, _):
        assert [one.state for one in history.history(connection, 3)] == ["running", "interrupted", "does not hold"]
        ids = [one.audit_id for one in history.history(connection, 2, before=third)]
        assert ids == [second, first]


def test_the_result_of_an_audit_outlives_its_session(audits):
    """The database is restarted while it runs; what another process has written is not overwritten."""
    dsn, connection = audits
    holds, other = Audit(True, [Check("balances", True, "")], 1, {"completed": 1}), Audit(False, [], 0, {})
    with history.begun(dsn, "ada") as (audit_id, end):
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        end(holds)
        assert history.find(connection, audit_id).result == holds
        end(other)
    assert history.find(connection, audit_id).result == holds


def test_whatever_texts_an_audit_finds_its_result_can_be_read(audits):
    dsn, connection = audits
    with history.begun(dsn, "ada") as (_, end):
        end(Audit(True, [Check("outbox", True, "a\ud800b\0c\nd")], 0, {}, {"x\0": 1, "x\ud800": 2}))
    (run, *_) = history.history(connection, 10)
    assert (run.state, run.result.checks[0].detail, run.result.dead_letters) == ("holds", "a?b?c d", {"x?": 3})
    with history.begun(dsn, "ada") as (_, end):
        end(ValueError("a\ud800b\0c"))
    (run, *_) = history.history(connection, 10)
    assert (run.state, run.error) == ("failed", "a?b?c")


def test_an_audit_that_cannot_look_fails_with_the_reason_and_no_secret(settle: Settle, audits, monkeypatch):
    dsn, connection = audits
    monkeypatch.setenv("SETTLE_SAGA_DSN", NOWHERE)
    with pytest.raises(psycopg.OperationalError):
        history.audit(dsn, "ada", {**settle.dsns, "saga": ServiceSettings().dsn("saga")}, settle.bootstrap)
    run = history.history(connection, 1)[0]
    assert (run.state, run.result) == ("failed", None)
    assert "Connection refused" in run.error
