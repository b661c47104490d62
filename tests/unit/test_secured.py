"""A secured stack is asked for by an option, stays one, and is told to each process by variables of its own."""

import stat
from contextlib import closing

import pytest
from typer.testing import CliRunner

from broker import security
from cli.main import app
from contracts.rights import kafka_users
from contracts.services import DATABASES
from stack import secured
from stack import state as stack_json
from stack.assembly import Options, assemble
from stack.errors import StackError
from stack.lock import FolderLock
from stack.process import Home
from stack.provision import make_secrets
from stack.supervisor import SERVICES, Stack


@pytest.mark.parametrize(("command", "where"), [("up", "cli.up.Stack"), ("demo", "stack.supervisor.Stack")])
@pytest.mark.parametrize("secure", [True, False])
def test_commands_ask_for_it(monkeypatch, tmp_path, command, where, secure):
    asked = []

    def stack(*_, **options):
        asked.append(options["secure"])
        raise StackError("that was all")

    monkeypatch.setattr(where, stack)
    monkeypatch.setenv("SETTLE_DATA", str(tmp_path))
    monkeypatch.setattr(f"cli.{command}.on_end", lambda *_: None)
    CliRunner().invoke(app, [command, *(["--secure"] if secure else [])])
    assert asked == [secure]


def test_a_folder_stays_secured(tmp_path):
    assert not Stack(tmp_path)._options.secure
    make_secrets(tmp_path)
    (tmp_path / "secrets" / "ca.crt").unlink()  # made anew, rather than done without
    assert Stack(tmp_path)._options.secure


def test_a_folder_stays_secured_that_has_lost_its_secrets(tmp_path):
    stack_json.write(stack_json.State(str(tmp_path), 1, "127.0.0.1:1", {"saga": "postgresql://"}, secured=True))
    assert Stack(tmp_path)._options.secure


def test_a_command_meant_for_a_secured_stack_that_is_down_goes_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("SETTLE_DATA", str(tmp_path))
    make_secrets(tmp_path)
    for command in (["stuck"], ["request", "--account", "acc-1", "--amount", "1"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"settle: no stack is running on {tmp_path}")


def test_nobody_else_on_the_machine_reads_a_new_data_folder(tmp_path):
    with closing(FolderLock(tmp_path / "new", print)):
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """The parts of a stack in a shell that has another one's variables."""

    def parts(*, secure):
        for name in security.NAMES:
            monkeypatch.setenv(name, "of another")
        if secure:
            make_secrets(tmp_path)
        options = Options(SERVICES, DATABASES, {}, {}, (), 4, lambda name: [name], secure)
        return assemble(Home(tmp_path, 0), tmp_path / "jars", options, set())

    return parts


def test_each_service_is_its_own_user_and_knows_no_other_password(parts, tmp_path):
    passwords = {user.name: (tmp_path / "secrets" / f"{user.name}.password") for user in kafka_users()}
    for service in parts(secure=True).services:
        found = service._environment
        assert found["SETTLE_KAFKA_SASL_USERNAME"] == service.name
        assert found["SETTLE_KAFKA_SASL_PASSWORD_FILE"] == str(passwords[service.name])
        assert found["SETTLE_KAFKA_CONFIG"] == ""
        contents = [file.read_text() for file in passwords.values()]
        others = [str(file) for name, file in passwords.items() if name != service.name]
        assert not [value for value in found.values() if value in (*contents, *others)]
        assert "sslmode=verify-full" in found["SETTLE_SAGA_DSN"]


def test_a_service_of_another_stack_is_nobody_whatever_the_shell_exports(parts):
    for service in parts(secure=False).services:
        assert {service._environment[name] for name in security.NAMES} == {""}


def test_its_state_tells_no_password_and_its_variables_are_the_operators(parts, tmp_path):
    state = parts(secure=True).state
    stack_json.write(state)
    found = stack_json.environment(stack_json.read_state(tmp_path))
    assert found["SETTLE_KAFKA_SASL_USERNAME"] == "operator"
    assert stack_json.environment(state, user="viewer")["SETTLE_KAFKA_SASL_USERNAME"] == "viewer"
    written = (tmp_path / stack_json.FILE_NAME).read_text()
    assert not [password for password in secured.passwords(tmp_path).values() if password in written]
