"""``outbox-relay check`` says what is wrong before anything runs, and ``explain`` prints the SQL that mends it."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from outbox_relay.coverage import GENERATED_SINCE
from outbox_relay.outbox import Route
from stack import ports
from stack.postgres import programs
from tests.integration.relay.outbox import DEADLINE_S, ROOT, wait_until
from tests.integration.relay.shaped import Shaped, carrying, identity, toml

PASSWORD = "tell-nobody"


@pytest.fixture(params=["odd", "lean"])
def shaped(stack, request):
    """An outbox, and a role that may log in and nothing else."""
    outbox = Shaped(stack, request.param)
    outbox.role = f"Relay of {outbox.name}"
    outbox.connection.execute(f"""CREATE ROLE "{outbox.role}" LOGIN PASSWORD '{PASSWORD}'""")
    return outbox


def file_of(outbox, path, **reading):
    """The configuration file of a relay with that role."""
    dsn = make_conninfo(outbox.dsn, user=outbox.role, password="${ROLES_PASSWORD}").replace("'${", "${")
    path.write_text(toml(dsn.replace("}'", "}"), outbox.description, bootstrap=outbox.bootstrap, **reading))
    return path


def relay(outbox, *arguments):
    """What the command printed on either side, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "outbox_relay", *arguments],
        cwd=ROOT,
        env={**os.environ, **identity(outbox), "ROLES_PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    return done.returncode, done.stdout, done.stderr


def problems(outbox, path, *, is_away=False):
    """What is wrong by subject, once Kafka has answered within the second that it has, unless it is away."""

    def findings():
        code, out, _ = relay(outbox, "check", "--config", str(path), "--json")
        found = [one for one in json.loads(out) if not one["is_ok"]]
        assert code == (1 if found else 0)
        return (found,) if is_away or not any(one["source"] == "kafka" for one in found) else None

    (found,) = wait_until(findings, "Kafka answers")
    return {one["subject"]: one for one in found}


def run_as_owner(outbox, script):
    """Run a script as the owner of the table does, ended by the first error."""
    command = [programs() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", outbox.dsn]
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("reader", ["wal", "polling"])
@pytest.mark.parametrize("cleanup", [True, False])
def test_what_is_explained_is_all_that_a_relay_needs(shaped, tmp_path, reader, cleanup, monkeypatch):
    path = file_of(shaped, tmp_path / "relay.toml", reader=reader, cleanup=cleanup, initial="all")
    assert problems(shaped, path).keys() & {"table", "rights"}
    for _ in range(2):  # it is safe to repeat
        code, script, _ = relay(shaped, "explain", "--config", str(path))
        assert code == 0
        run_as_owner(shaped, script)
    assert problems(shaped, path) == {}
    monkeypatch.setenv("ROLES_PASSWORD", PASSWORD)
    row = shaped.put()
    with carrying(path):
        shaped.wait_published([row])
        if cleanup:
            wait_until(lambda: shaped.left() == 0, "it is removed")


def test_what_is_explained_for_a_database_that_is_not_reached_fits_the_configuration(stack, tmp_path):
    odd = Shaped(stack, "odd")
    nowhere = make_conninfo(odd.dsn, port=ports.choose(taken=set()), user="relay")
    path = tmp_path / "relay.toml"
    path.write_text(toml(nowhere, odd.description, bootstrap=odd.bootstrap))
    path.chmod(0o600)
    code, script, _ = relay(odd, "explain", "--config", str(path))
    assert code == 0
    assert "-- The database could not be looked at" in script
    run_as_owner(odd, script)
    code, out, _ = relay(odd, "check", "--config", str(path))
    assert code == 1
    assert f"problem  {odd.name}." in out


def lean_with_role(stack, **columns):
    """One with these columns configured."""
    lean = Shaped(stack, "lean")
    lean.role = f"Relay of {lean.name}"
    lean.connection.execute(f"""CREATE ROLE "{lean.role}" LOGIN REPLICATION PASSWORD '{PASSWORD}'""")
    lean.description = replace(lean.description, columns=replace(lean.description.columns, **columns))
    return lean


def test_what_is_explained_for_a_table_that_cannot_be_looked_at_is_accepted_by_the_database(stack, tmp_path):
    lean = lean_with_role(stack, traceparent="traceparent", tracestate="tracestate")  # which it has not
    path = file_of(lean, tmp_path / "relay.toml")
    lean.connection.execute("ALTER TABLE messages ENABLE ROW LEVEL SECURITY")
    assert "row-level security" in problems(lean, path)["table"]["text"]
    run_as_owner(lean, relay(lean, "explain", "--config", str(path))[1])
    lean.connection.execute("ALTER TABLE messages DISABLE ROW LEVEL SECURITY")
    assert problems(lean, path) == {}


def test_a_schema_that_the_role_may_not_look_into_is_named_with_its_grant(stack, tmp_path):
    lean = lean_with_role(stack)
    path = file_of(lean, tmp_path / "relay.toml")
    assert "connection" not in problems(lean, path)  # what it may not read is said with the rights
    lean.connection.execute("CREATE SCHEMA hidden; ALTER TABLE messages SET SCHEMA hidden")
    lean.description = replace(lean.description, schema="hidden")
    assert problems(lean, file_of(lean, path))["table"]["text"] == (
        f'permission denied for schema hidden: let its owner run: GRANT USAGE ON SCHEMA hidden TO "{lean.role}"'
    )


def test_a_generated_column_that_the_log_has_not_is_named(stack, tmp_path):
    lean = lean_with_role(stack, payload="body")
    path = file_of(lean, tmp_path / "relay.toml")
    lean.connection.execute("GRANT SELECT, DELETE ON messages TO PUBLIC")
    has_stored = lean.connection.info.server_version >= GENERATED_SINCE
    kind = "VIRTUAL" if has_stored else "STORED"
    lean.connection.execute(f"ALTER TABLE messages ADD body bytea GENERATED ALWAYS AS (payload) {kind}")
    found = problems(lean, path)["publication"]
    assert found["text"].startswith("the log has nothing of the generated column body of public.messages ")
    if not has_stored:
        return
    lean.connection.execute("ALTER TABLE messages DROP body")
    lean.connection.execute("ALTER TABLE messages ADD body bytea GENERATED ALWAYS AS (payload) STORED")
    lean.connection.execute("CREATE PUBLICATION settle_messages FOR ALL TABLES")
    lean.connection.execute(problems(lean, path)["publication"]["remedy"])
    assert "publication" not in problems(lean, path)


def test_each_thing_that_is_wrong_is_named_with_what_to_do(shaped, tmp_path):
    path = file_of(shaped, tmp_path / "relay.toml")
    run_as_owner(shaped, relay(shaped, "explain", "--config", str(path))[1])
    described = shaped.description
    assert problems(shaped, path) == {}
    role = described.sql("{role}", role=sql.Identifier(shaped.role))
    breaks = {
        "rights": described.sql("REVOKE DELETE ON {table} FROM {role}", role=role),
        "dead rows": described.sql("REVOKE INSERT ON {dead} FROM {role}", role=role),
        "publication": described.sql("ALTER PUBLICATION {publication} DROP TABLE {table}"),
        "replication": described.sql("ALTER ROLE {role} NOREPLICATION", role=role),
    }
    for statement in breaks.values():
        shaped.connection.execute(statement)
    found = problems(shaped, path)
    assert set(found) == set(breaks)
    quoted_role = f'"{shaped.role}"'
    assert found["rights"]["remedy"] == f"GRANT DELETE ON {described.label} TO {quoted_role}"
    assert f"ADD TABLE {described.label}" in found["publication"]["remedy"]
    assert "REPLICATION" in found["replication"]["text"]
    code, out, _ = relay(shaped, "check", "--config", str(path))
    assert code == 1
    assert sum(line.startswith(f"problem  {shaped.name}.") for line in out.splitlines()) == len(breaks)
    run_as_owner(shaped, relay(shaped, "explain", "--config", str(path))[1])
    assert problems(shaped, path) == {}


def test_who_reads_the_log_is_to_set_the_marks_that_a_table_has(stack, tmp_path):
    lean = lean_with_role(stack)
    lean.connection.execute("ALTER TABLE messages ADD published_at timestamptz")
    path = file_of(lean, tmp_path / "relay.toml")
    run_as_owner(lean, relay(lean, "explain", "--config", str(path))[1])
    assert problems(lean, path) == {}
    lean.connection.execute(f'REVOKE UPDATE ON messages FROM "{lean.role}"')
    grant = problems(lean, path)["rights"]["remedy"]
    assert grant == f'GRANT UPDATE ON public.messages TO "{lean.role}"'
    lean.connection.execute(grant.replace("UPDATE", "UPDATE (published_at)"))
    assert problems(lean, path) == {}


def test_a_table_that_is_not_there_and_a_column_that_is_not_are_named(stack, tmp_path):
    lean = Shaped(stack, "lean")
    path = tmp_path / "relay.toml"
    path.touch(0o600)

    def wrong(description):
        path.write_text(toml(lean.dsn, description, bootstrap=lean.bootstrap))
        return problems(lean, path)["table"]["text"]

    lean.description = replace(lean.description, table="nowhere")
    assert wrong(lean.description).startswith("there is no table public.nowhere yet")
    columns = replace(lean.description.columns, type="kind")
    assert wrong(replace(lean.description, table="messages", columns=columns)) == (
        "public.messages has no column kind"
    )
    columns = replace(lean.description.columns, id="payload", payload="id")
    assert wrong(replace(lean.description, table="messages", columns=columns)) == (
        "public.messages.id is of type bigint, of which no record can be made; it may be json, jsonb, text, "
        "varchar or bytea"
    )


def test_topics_and_kafka_are_looked_at(stack, tmp_path):
    lean = Shaped(stack, "lean")
    path = tmp_path / "relay.toml"
    path.touch(0o600)
    described = replace(lean.description, route=Route(topic="nowhere.at-all"))
    path.write_text(toml(lean.dsn, described, bootstrap=lean.bootstrap))
    assert problems(lean, path)["topics"]["text"] == "Kafka has no nowhere.at-all"
    odd = Shaped(stack, "odd")
    odd.put(kind="nowhere")
    path.write_text(toml(odd.dsn, odd.description, bootstrap=odd.bootstrap))
    assert problems(odd, path)["topics"]["text"] == "Kafka has no nowhere.events"
    path.write_text(toml(lean.dsn, lean.description, bootstrap=f"127.0.0.1:{ports.choose(taken=set())}"))
    assert set(problems(lean, path, is_away=True)) == {"connection"}
