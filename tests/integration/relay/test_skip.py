"""A row that is skipped is quarantined with its reason and never published, also one at which a source stands."""

import pytest

from contracts.failpoints import EXIT_CODE
from outbox_relay import cleaner, left_out
from outbox_relay.control import acts, table
from outbox_relay.control.acts import Asked
from outbox_relay.dead import dead_rows
from outbox_relay.errors import RefusedError
from outbox_relay.outbox import OUTBOX
from outbox_relay.outbox import Outbox as Description
from stack import ports
from tests.integration.relay.controlled import WAYS, WHY, Person, command, http
from tests.integration.relay.outbox import DEADLINE_S, answer, metric, relay_process, relaying, wait_until
from tests.integration.relay.test_control import settings_of
from tests.integration.relay.test_coverage import ADD, DROP
from tests.integration.relay.test_logged_messages import emit, relaying_messages, uuid

READERS = ["wal", "polling"]


@pytest.fixture
def port():
    return ports.choose(taken=set())


def outcome(outbox, number):
    found = table.find(outbox.connection, OUTBOX, number)
    return found.outcome


@pytest.mark.parametrize(("by", "reader"), WAYS)
def test_a_row_at_which_a_source_is_stuck_is_skipped_and_the_rest_goes_on(outbox, port, by, reader):
    person = Person(outbox, by, port, reader)
    with relaying(outbox, http_port=port, reader=reader):
        outbox.wait_published([outbox.insert()])
        stuck_at = outbox.insert(to=f"missing_{outbox.name}")
        after = [outbox.insert() for _ in range(20)]
        said = f"missing_{outbox.name}.events"
        wait_until(lambda: said in answer(port, "/readyz")[1], "the source is stuck")
        person.do("skip", row=stuck_at)
        outbox.wait_published(after)
        (dead,) = wait_until(lambda: dead_rows(outbox.connection), "it is quarantined")
        assert dead.id == stuck_at
        assert WHY in dead.reason
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "the source is ready")
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "rows are removed")
        assert person.do("skip", row=stuck_at, code=1).state == "refused"
        # What was meant wrong is put back, and published once its topic is there.
        outbox.connection.execute("UPDATE outbox_dead SET aggregatetype = %s", (outbox.name,))
        command(outbox, "dead", "retry", stuck_at, reader=reader)
        outbox.wait_published([stuck_at])
    assert outbox.published().count(stuck_at) == 1


@pytest.mark.parametrize("reader", READERS)
def test_a_row_skipped_while_paused_and_then_discarded_is_never_published(outbox, reader):
    with relaying(outbox, reader=reader):
        outbox.wait_published([outbox.insert()])
        command(outbox, "pause", reader=reader)
        first, skipped, last = (outbox.insert() for _ in range(3))
        assert command(outbox, "skip", skipped, "--wait", "0", "--json", reader=reader)["state"] == "asked"
        assert command(outbox, "skip", skipped, "--json", reader=reader)["state"] == "unchanged"
        command(outbox, "resume", reader=reader)
        outbox.wait_published([first, last])
        wait_until(lambda: dead_rows(outbox.connection), "it is quarantined")
        # While the slot may still be before it.
        command(outbox, "dead", "discard", skipped, reader=reader)
    with relaying(outbox, reader=reader):
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "all is removed")
    assert skipped not in outbox.published()


def test_a_skipped_and_discarded_row_is_not_published_when_the_log_comes_again(outbox):
    """The slot's confirmed position may be older than what the relay did: after a crash, or kill -9."""
    place = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"
    copy, kept = "SELECT pg_copy_logical_replication_slot(%s, %s)", f"{outbox.slot}_kept"
    with relaying(outbox):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
        command(outbox, "pause")
        row_id = outbox.insert()
        before = outbox.one(place, outbox.slot)
        outbox.one(copy, outbox.slot, kept)
        command(outbox, "skip", row_id, "--wait", "0")
        command(outbox, "resume")
        wait_until(lambda: dead_rows(outbox.connection), "it is quarantined")
        command(outbox, "dead", "discard", row_id)
        outbox.wait_published([outbox.insert()])
    outbox.drop_slot()
    outbox.one(copy, kept, outbox.slot)
    outbox.drop_slot(kept)
    assert outbox.one(place, outbox.slot) == before
    with relaying(outbox):
        outbox.wait_published([outbox.insert()])
    assert row_id not in outbox.published()


def skip_what_the_log_left_out(outbox, port):
    """A row that the log does not bring waits for a topic that is not there, and then is skipped."""
    with outbox.connection.transaction():  # or else the relay might mend it in between
        outbox.connection.execute(f"{DROP}; {ADD}outbox WHERE (aggregateid <> 'left out')")
        row_id = outbox.insert("left out", to="nowhere")
    wait_until(lambda: "rows wait: topic nowhere.events" in answer(port, "/readyz")[1], "it waits for its topic")
    assert "in the table of dead rows" in command(outbox, "skip", row_id)
    assert [row.id for row in dead_rows(outbox.connection)] == [row_id]
    wait_until(lambda: answer(port, "/readyz")[0] == 200, "nothing waits any more")


def test_a_row_that_the_log_left_out_and_that_has_no_topic_is_skipped(outbox, port, monkeypatch):
    monkeypatch.setattr(cleaner, "LOOK_INTERVAL_S", 0.2)
    with relaying(outbox, http_port=port):
        outbox.wait_published([outbox.insert()])
        skip_what_the_log_left_out(outbox, port)
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "and none is left in the table")


def test_a_row_that_waits_for_the_search_of_a_kept_table_is_skipped(outbox, port, monkeypatch):
    monkeypatch.setattr(cleaner, "LOOK_INTERVAL_S", 0.2)
    monkeypatch.setattr(left_out, "RESTS", 1e9)  # after a search the next one is as late as it can be
    with relaying(outbox, http_port=port, cleanup=False):
        outbox.wait_published([outbox.insert()])
        skip_what_the_log_left_out(outbox, port)


@pytest.mark.parametrize("reader", READERS)
def test_a_row_that_was_published_is_said_to_be(outbox, reader):
    with relaying(outbox, reader=reader, cleanup=False):
        row_id = outbox.insert()
        outbox.wait_published([row_id])
        if reader == "wal":
            found = command(outbox, "skip", row_id, "--json", code=1)
            assert (found["state"], "published before" in found["text"]) == ("refused", True)
        else:
            wait_until(lambda: outbox.one("SELECT published_at IS NOT NULL FROM outbox"), "it is marked")
            assert "published already" in command(outbox, "skip", row_id, code=1, reader=reader)
        assert "no such row" in command(outbox, "skip", uuid(outbox), code=1, reader=reader)
        assert "UUIDs for IDs" in command(outbox, "skip", "../../x' OR 'a'='a", code=1, reader=reader)
        outbox.wait_published([outbox.insert()])
    assert dead_rows(outbox.connection) == []


def test_a_row_in_the_log_alone_is_skipped_before_it_comes_and_late_ones_are_said(outbox, tmp_path):
    source = settings_of(outbox, described=Description(messages="shop"))
    with relaying_messages(outbox, tmp_path):
        outbox.wait_confirmed()
        first = emit(outbox, uuid(outbox))
        outbox.wait_published([first])
        command(outbox, "pause")
        skipped, last = emit(outbox, uuid(outbox)), emit(outbox, uuid(outbox))
        asked = acts.skip(source, Asked("a test", WHY), skipped)
        late = acts.skip(source, Asked("a test", WHY), first)
        with pytest.raises(RefusedError, match="nothing to rewind"):
            acts.rewind(source, Asked("a test", WHY), row_id=skipped)
        command(outbox, "resume")
        outbox.wait_published([last])
        wait_until(lambda: outcome(outbox, late.act), "what came too late is answered")
        assert outcome(outbox, late.act).startswith("too late")
        assert outcome(outbox, asked.act) == "in the table of dead rows"
    assert outbox.published() == [first, last]
    assert [row.id for row in dead_rows(outbox.connection)] == [skipped]


@pytest.mark.parametrize("reader", READERS)
def test_killed_between_the_act_and_its_effect_the_row_is_skipped_once(outbox, reader):
    environment = {"SETTLE_RELAY_READER": reader, "SETTLE_RELAY_POLL_INTERVAL_S": "0.05"}
    with relay_process(outbox, **environment):
        outbox.wait_published([outbox.insert()])
        command(outbox, "pause", reader=reader)
    row_id = outbox.insert()
    assert command(outbox, "skip", row_id, "--wait", "0", "--json", reader=reader)["state"] == "asked"
    command(outbox, "resume", "--wait", "0", reader=reader)
    with relay_process(outbox, SETTLE_FAILPOINT="control.skipped", **environment) as relay:
        assert relay.wait(DEADLINE_S) == EXIT_CODE
    assert [row.id for row in dead_rows(outbox.connection)] == [row_id]
    with relaying(outbox, reader=reader):
        outbox.wait_published([outbox.insert()])
        if reader == "wal":  # a poller leaves it there, and looks at it no more
            wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "all is removed")
    assert row_id not in outbox.published()
    assert [row.id for row in dead_rows(outbox.connection)] == [row_id]


def test_dead_rows_and_the_slot_are_acted_on_by_command_and_over_http(outbox, port):
    slot = f"/v1/sources/{outbox.name}/slot/drop"
    with relaying(outbox, http_port=port):
        dead = [outbox.insert(to="no such topic") for _ in range(4)]
        outbox.wait_published([outbox.insert()])
        read = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
        wait_until(lambda: outbox.one(read, outbox.slot), "the slot is read")
        assert "is active for PID" in command(outbox, "slot", "drop", code=1)
        assert http(port, slot, {"reason": WHY})[0] == 409  # it is read
        assert [one["name"] for one in command(outbox, "dead", "list", "--json", reason=None)] == dead
        assert [one["name"] for one in http(port, f"/v1/sources/{outbox.name}/dead")[1]["rows"]] == dead
        assert command(outbox, "dead", "discard", dead[0], "--json")["state"] == "done"
        assert "a reason is needed" in command(outbox, "dead", "discard", dead[1], reason=None, code=1)
        assert "not among the dead rows" in command(outbox, "dead", "retry", dead[0], code=1)
        body = {"rows": [dead[1]], "reason": WHY, "by": "ada"}
        assert http(port, f"/v1/sources/{outbox.name}/dead/discard", body)[1]["state"] == "done"
        # What is corrected is another row than the one that still stands in the outbox for some seconds.
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "the dead have left the outbox")
        outbox.connection.execute("UPDATE outbox_dead SET aggregatetype = %s", (outbox.name,))
        command(outbox, "dead", "retry", dead[2])
        status, found = http(port, f"/v1/sources/{outbox.name}/dead/retry", {"all": True})
        assert (status, found["text"]) == (200, "1 row put back")
        outbox.wait_published(dead[2:])
        (last, *_) = http(port, f"/v1/sources/{outbox.name}/acts")[1]["acts"]
        assert (last["act"], last["row_id"], last["ended"]) == ("retry", dead[3], "done")
        names = [(one["act"], one["row_id"]) for one in command(outbox, "acts", "--json", reason=None)]
        assert names == [
            ("retry", dead[3]),
            ("retry", dead[2]),
            ("discard", dead[1]),
            ("discard", dead[0]),
        ]
    with relaying(outbox, http_port=port, reader="polling"):
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it polls")
        wait_until(lambda: not outbox.one(read, outbox.slot), "nobody reads the slot")
        assert http(port, slot, {"reason": WHY})[1]["text"] == f"slot {outbox.slot} is dropped"
        assert "there is no slot" in command(outbox, "slot", "drop", code=1)
        row_id = outbox.insert()
        outbox.wait_published([row_id])
    assert sorted(outbox.published()) == sorted(set(outbox.written()) - set(dead[:2]))


@pytest.mark.parametrize(("act", "dead"), [("discard", 0), ("retry", 1)])
def test_a_dead_row_that_was_taken_out_does_not_come_again_with_the_log(outbox, act, dead):
    with relay_process(outbox):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    with outbox.connection.transaction():  # which is confirmed as a whole
        row_id = outbox.insert(to="no such topic")
        last = outbox.insert()
    with relay_process(outbox, SETTLE_FAILPOINT="relay.acknowledged") as relay:
        assert relay.wait(DEADLINE_S) == EXIT_CODE
    assert [row.id for row in dead_rows(outbox.connection)] == [row_id]
    command(outbox, "dead", act, row_id)
    with relaying(outbox):
        outbox.wait_published([last, outbox.insert()])
        outbox.wait_confirmed()
    # What was put back cannot be published now either.
    assert len(dead_rows(outbox.connection)) == dead
    assert row_id not in outbox.published()


def test_by_an_id_that_is_no_uuid_no_row_is_kept_off_as_another_may_have_it(outbox):
    for name in ("written", "outbox"):
        outbox.connection.execute(f"ALTER TABLE {name} ALTER id DROP DEFAULT, ALTER id TYPE text")
    outbox.connection.execute("ALTER TABLE outbox ALTER id SET DEFAULT uuidv7()::text")
    with relaying(outbox):
        row_id = outbox.insert(to="no such topic")
        (dead,) = wait_until(lambda: dead_rows(outbox.connection), "it is quarantined")
        command(outbox, "dead", "discard", row_id)
    kept_off = "SELECT count(*) FROM outbox_control WHERE act = 'done' AND position = %s::pg_lsn"
    assert outbox.one(kept_off, dead.position) == 0


def test_acts_of_a_relay_beyond_loopback_need_its_token(outbox, port, monkeypatch):
    # As if it listened on all addresses; it does not, here.
    monkeypatch.setattr("outbox_relay.control.pages.is_local", lambda _host: False)
    monkeypatch.setenv("SETTLE_RELAY_HTTP_TOKEN", "a-token-of-this-test")
    path = f"/v1/sources/{outbox.name}"
    with relaying(outbox, http_port=port):
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it reads")
        assert metric(port, outbox, "paused") == 0
        assert http(port, path)[0] == 401
        assert http(port, f"{path}/pause", {"reason": WHY}, token="another-token-of-it")[0] == 401
        assert http(port, path, token="a-token-of-this-test")[1]["state"] == "reading"
        assert http(port, f"{path}/pause", {"reason": WHY}, token="a-token-of-this-test")[0] == 202
        wait_until(lambda: metric(port, outbox, "paused") == 1, "it is paused")
