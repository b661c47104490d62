"""A database is one source, whatever it is called and however its address is written."""

import json
from urllib.parse import urlsplit

import psycopg
import pytest
from typer.testing import CliRunner

from cli.main import app
from operations.grants import grant
from operations.migrations import migrate
from outbox_relay.dead import create_table, dead_rows
from outbox_relay.slot_name import slot_name, slot_names
from outbox_relay.status import outbox_status
from stack import ports
from tests.integration.relay.outbox import Outbox, metric, relaying, wait_until


def slots(outbox):
    """The slots of a database."""
    rows = outbox.connection.execute(
        "SELECT slot_name::text FROM pg_replication_slots WHERE database = %s AND NOT temporary", (outbox.name,)
    )
    return [name for (name,) in rows]


def several_hosts(outbox):
    """A URL whose first host does not answer."""
    url = urlsplit(outbox.dsn)
    where = f"{url.hostname}:{ports.choose(taken=set())},{url.hostname}:{url.port}"
    return f"postgresql://{url.username}:{url.password}@{where}{url.path}?target_session_attrs=read-write"


def words(outbox):
    """The same place as a key-value string."""
    url = urlsplit(outbox.dsn)
    password = f"'{url.password}'" if url.password else "''"
    return f"host={url.hostname} port={url.port} user={url.username} password={password} dbname={outbox.name}"


def test_databases_with_like_names_have_a_slot_each(stack):
    names = ("pay-1", "pay_1", "Pay_1", "p" * 60 + "1", "p" * 60 + "2", "pay_2", "pay-2")
    outboxes = {name: Outbox(stack, name=name, topic=False) for name in names}
    # Versions before knew the plain name alone: a slot that a database has is its own, whoever else comes to it.
    outboxes["pay-2"].connection.execute(
        "SELECT pg_create_logical_replication_slot('settle_outbox_pay_2', 'pgoutput')"
    )
    port = ports.choose(taken=set())
    with relaying(*outboxes.values(), http_port=port):
        for name, outbox in outboxes.items():
            (slot,) = wait_until(lambda outbox=outbox: slots(outbox), f"{name} has a slot")
            assert slot == slot_name(outbox.connection) == outbox_status(outbox.connection).slot
            outbox.slot = slot
            wait_until(
                lambda outbox=outbox: outbox_status(outbox.connection).active, f"the slot of {name} is read"
            )
        for outbox in outboxes.values():
            wait_until(
                lambda outbox=outbox: metric(port, outbox, "slot_retained_bytes"), "the gauge is that of the slot"
            )
    found = {name: outbox.slot for name, outbox in outboxes.items()}
    assert found["pay_1"] == "settle_outbox_pay_1"
    assert found["pay-2"] == "settle_outbox_pay_2"
    for name in (*names[2:5], "pay-1", "pay_2"):
        assert found[name] == slot_names(name)[1]
        assert len(found[name]) <= 63
    assert len(set(found.values())) == len(names)
    with relaying(outboxes["pay-1"], outboxes["pay_2"], outboxes["pay-2"]):  # and keeps it
        for name in ("pay-1", "pay_2", "pay-2"):
            outboxes[name].wait_confirmed()
            assert slots(outboxes[name]) == [found[name]]
    for outbox in outboxes.values():
        outbox.drop_slot()


@pytest.mark.parametrize("written", [several_hosts, words])
def test_a_source_may_have_several_hosts_or_be_a_key_value_string(outbox, written):
    before = outbox.insert()

    class There:
        bootstrap, dsn = outbox.bootstrap, written(outbox)

    with relaying(There):
        outbox.wait_published([before])
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "published rows are removed")
        assert slots(outbox) == [outbox.slot]


@pytest.mark.parametrize("written", [several_hosts, words])
def test_a_database_is_migrated_wherever_it_is_said_to_be(stack, written):
    there = Outbox(stack, table=False, topic=False)
    for _ in range(2):
        migrate("payment", written(there))
    assert there.one("SELECT count(*) FROM payments") == 0
    with pytest.raises(psycopg.errors.UndefinedObject):  # no roles on this server, but it was reached
        grant("payment", written(there))


def test_dead_rows_are_listed_retried_and_discarded_by_commands(stack, outbox, monkeypatch):
    for service in ("payment", "notification", "saga"):
        monkeypatch.setenv(f"SETTLE_{service.upper()}_DSN", stack.state.dsns[service])
    monkeypatch.setenv("SETTLE_ACCOUNT_DSN", words(outbox))
    monkeypatch.setenv("COLUMNS", "300")
    outbox.connection.execute(create_table())
    outbox.connection.execute(
        "INSERT INTO outbox_dead (id, aggregatetype, aggregateid, type, payload, position, reason) VALUES"
        " (%s, %s, 'k', '[/x]\x1b[31m', '{}', '0/1', '[bold]no\x07'), (NULL, 'a', 'k', 'T', NULL, '0/1', 'no ID')",
        ("018f0000-0000-7000-8000-000000000001", outbox.name),
    )

    def settle(*words, code=0):
        result = CliRunner().invoke(app, ["outbox", "dead", *words])
        assert result.exit_code == code, result.output
        return result.output

    listed = json.loads(settle("list", "--json"))
    assert [row["id"] for row in listed] == ["018f0000-0000-7000-8000-000000000001", None]
    (named, nameless) = [row["name"] for row in listed]
    shown = settle("list")
    assert "[/x]\\x1b[31m" in shown
    assert "[bold]no\\x07" in shown
    assert nameless in shown
    assert "tombstone" in shown
    assert "not among the dead rows: nobody" in settle("discard", "nobody", nameless, code=2)
    assert "to discard 2 rows for good without a terminal to ask at, pass --yes" in settle(
        "discard", "--all", code=2
    )
    assert "to put 2 rows back into the outbox without a terminal" in settle("retry", "--all", code=2)
    assert len(dead_rows(outbox.connection)) == 2
    assert "1 row discarded" in settle("discard", nameless)
    assert [row.name for row in dead_rows(outbox.connection)] == [named]
    assert "1 row put back" in settle("retry", "--all", "--yes")
    assert dead_rows(outbox.connection) == []
    assert outbox.one("SELECT id::text FROM outbox") == named
    assert "0 rows discarded" in settle("discard", "--all")
