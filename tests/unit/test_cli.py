"""``settle`` says in one line what is wrong, with the right exit code, and finds the stack that runs."""

import importlib
import io
import os
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import version
from uuid import UUID

import msgspec
import pytest
import typer
from confluent_kafka import KafkaException
from typer.testing import CliRunner

from cli import extras, settings, status
from cli.commands import COMMANDS
from cli.confirm import confirm
from cli.errors import EXIT_CODES, NOT_READ, BadInputError, CommandError, exit_code
from cli.main import app
from cli.run import CHOICES
from contracts.services import DATABASES, NAMES
from contracts.variables import is_secret
from operations.waits import Waits
from outbox_relay.__main__ import relay
from processors.saga.status import Status
from stack import state
from stack.errors import NotRunning, StackError
from stack.lock import FolderLock

NOBODY = "127.0.0.1:9"
HEAVY = ("confluent_kafka", "opentelemetry", "producers", "psycopg", "stack")
SETTLE = [sys.executable, "-m", "cli"]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("SETTLE_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SETTLE_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")


def settle(*arguments):
    return CliRunner().invoke(app, arguments)


def a_stack_was_on(folder, port, user="settle"):
    """What a stack leaves behind, however it ended."""
    state.write(
        state.State(
            data=str(folder),
            pid=os.getpid(),
            kafka_bootstrap=f"127.0.0.1:{port}",
            dsns={name: f"postgresql://{user}@127.0.0.1:{port}/{name}" for name in DATABASES},
            http={"saga": 2222},
            pids={"kafka": 1},
        )
    )


@contextmanager
def a_stack_on(folder, port, user="settle"):
    """What others see of a running stack."""
    folder.mkdir(exist_ok=True)
    lock = FolderLock(folder, print)
    a_stack_was_on(folder, port, user)
    try:
        yield
    finally:
        lock.close()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("request --account acc-1 --amount 0", "amount 0 must be more than zero"),
        (
            "compare --only sagas",
            "there is no approach 'sagas': it is one of monolith, two_phase_commit, saga, event_sourcing, "
            "outbox_polling, outbox_wal, naive",
        ),
        ("compare --chart /nowhere/c.png", "/nowhere/c.png cannot be written: there is no folder /nowhere"),
        ("compare --chart c.gif", "c.gif: a chart is written as PNG, so its name must end in .png"),
        ("2pc withdraw --account acc-1 --amount 0", "amount 0 must be more than zero"),
        (
            "2pc withdraw --account acc-1 --amount 1 --die-at lunch",
            "--die-at lunch: not a point; it is one of prepared-account, prepared-payment, prepared-notification, "
            "decided, committed-account, committed-payment, committed-notification",
        ),
        ("request --account acc-1 --amount -5", "amount -5 must be more than zero"),
        ("request --account acc-1 --amount NaN", "amount 'NaN' is not a number such as 100.00"),
        ("request --account acc-1 --amount 1.001", "amount 1.001 has more than two decimals"),
        ("request --account acc-1 --amount 1000000.01", "amount 1000000.01 is over the limit of 1,000,000.00"),
        ("request --account acc-1 --amount ten", "amount 'ten' is not a number such as 100.00"),
        (
            "request --account acc-1 --amount 1 --currency XXX",
            "currency 'XXX' is not an ISO 4217 currency in use with 0, 2 or 3 decimals",
        ),
        (
            "request --account acc-1 --amount 100.5 --currency JPY",
            "amount 100.5 is not a whole number, and JPY has no decimals",
        ),
        ("request --account acc-1 --amount 1.2345 --currency KWD", "amount 1.2345 has more than three decimals"),
        (
            "accounts open acc-1 --currency jpy --balance 1.5",
            "amount 1.5 is not a whole number, and JPY has no decimals",
        ),
        (
            "load --count 1 --currency XAU",
            "currency 'XAU' is not an ISO 4217 currency in use with 0, 2 or 3 decimals",
        ),
        ("request --account acc-1 --amount 1 --payment-id 12", "payment ID '12' is not a UUID"),
        (
            "request --account a/b --amount 1 --json",
            "account 'a/b' is not an account ID: 1 to 64 letters, digits, '.', '_', ':' or '-'",
        ),
        ("load --count 0", "count 0 must be at least 1"),
        ("load --count 1 --rate 0", "rate 0 must be more than 0 messages a second"),
        ("load --count 1 --declined 2", "declined 2 is not a share from 0 to 1"),
        (
            "load --count 1 --declined 0.7 --insufficient 0.7",
            "declined and insufficient together are more than 1",
        ),
        (
            "chaos --json /nowhere/report.json",
            "/nowhere/report.json cannot be written: there is no folder /nowhere",
        ),
        (
            "chaos --rolling --pause",
            "rolling restarts are no faults: leave out --pause and --operators, or --rolling",
        ),
        (
            "run nobody",
            f"there is no service 'nobody': it is one of {', '.join(NAMES)}, relay, provider",
        ),
        ("nonsense", "No such command 'nonsense' (see `settle --help`)"),
        ("status", "Missing argument 'PAYMENT_ID' (see `settle status --help`)"),
        ("request --account acc-1", "Missing option '--amount' (see `settle request --help`)"),
        (
            "request --account acc-1 --amount 1 --wait --timeout -1",
            "Invalid value for '--timeout': Input should be greater than or equal to 0 (see "
            "`settle request --help`)",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line_with_exit_code_2(arguments, line):
    result = settle(*arguments.split())

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"settle: {line}\n"


@pytest.mark.parametrize(
    "arguments", ["load --count x", "cancel 12", "stuck --older-than -1", "trace check --last 0"]
)
def test_a_value_that_is_wrong_is_named_in_one_line_with_exit_code_2(arguments):
    result = settle(*arguments.split())

    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("settle: Invalid value for '")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("stuck --limit 99999999999999999999", "--limit 99999999999999999999"),
        ("stuck --older-than 1e300", "--older-than 1e+300"),
        ("trace check --wait inf", "--wait inf"),
        ("load --count 1 --rate nan", "--rate nan"),
    ],
)
def test_a_number_that_no_database_and_no_clock_takes_is_refused(arguments, option):
    result = settle(*arguments.split())

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"settle: {option} is not a number up to ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", ["load --count 1", "accounts open acc-1", "2pc withdraw --account acc-1 --amount 1"]
)
def test_what_is_for_trying_things_out_refuses_production_unless_that_is_meant(arguments, monkeypatch):
    monkeypatch.setenv("SETTLE_ENV", "production")
    monkeypatch.setenv("SETTLE_ACCOUNT_DSN", f"postgresql://settle@{NOBODY}/account")
    monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", NOBODY)
    monkeypatch.setenv("SETTLE_DELIVERY_TIMEOUT_S", "0.1")

    refused = settle(*arguments.split())
    meant = settle(*arguments.split(), "--in-production")

    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.endswith("and SETTLE_ENV is production; if that is meant, pass --in-production\n")
    assert len(refused.stderr.splitlines()) == 1
    assert meant.exit_code == 1
    assert NOBODY in meant.stderr


@pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("YES\n", True), ("n\n", False), ("", False)])
def test_a_person_at_a_terminal_is_asked(answer, goes_on, monkeypatch, capsys):
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)

    if goes_on:
        confirm("redrive 2 dead letters", yes=False)
    else:
        with pytest.raises(CommandError, match="nothing was done"):
            confirm("redrive 2 dead letters", yes=False)
    assert capsys.readouterr().out == "redrive 2 dead letters? [y/N] "


def test_where_nobody_can_be_asked_it_must_have_been_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    with pytest.raises(BadInputError, match="to redrive 2 dead letters without a terminal to ask at, pass --yes"):
        confirm("redrive 2 dead letters", yes=False)
    confirm("redrive 2 dead letters", yes=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("arguments", ["failpoints", "failpoints --json"])
def test_a_reader_that_has_gone_is_no_error(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as gone:
        result = subprocess.run(
            [*SETTLE, *arguments.split()], stdout=gone, stderr=subprocess.PIPE, text=True, timeout=60
        )

    assert (result.returncode, result.stderr) == (NOT_READ, "")


def test_output_that_cannot_be_written_is_said_in_one_line():
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [*SETTLE, "failpoints"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )

    assert (result.returncode, result.stderr) == (1, "settle: [Errno 28] No space left on device\n")


def test_an_argument_that_is_not_utf_8_is_refused():
    command = [*(word.encode() for word in SETTLE), b"accounts", b"show", b"acc-\xff"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "settle: acc-\\udcff is not UTF-8\n"


def test_a_terminal_without_a_character_gets_its_code():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "SETTLE_CACHE": "25 €"}
    result = subprocess.run([*SETTLE, "settings"], env=environment, capture_output=True, text=True, timeout=60)

    assert result.stderr == ""
    assert "SETTLE_CACHE=25 \\u20ac\n" in result.stdout


@pytest.mark.parametrize(
    ("others", "code", "stderr"),
    [
        ({}, 0, ""),
        ({"a": "USD"}, 2, "settle: open already, but not in EUR: a (USD)\n"),
        (dict.fromkeys("abcdef", "USD"), 2, "a (USD), b (USD), c (USD), d (USD), e (USD), …\n"),
    ],
)
def test_an_account_that_is_open_in_another_currency_is_named(monkeypatch, others, code, stderr):
    monkeypatch.setattr("processors.account.accounts.open_accounts", lambda *_: ["new"])
    monkeypatch.setattr(
        "processors.account.accounts.in_other_currency",
        lambda dsn, names, currency, limit: dict(list(others.items())[:limit]) if currency == "EUR" else None,
    )
    result = settle("accounts", "open", "new", *"abcdef", "--currency", "eur")
    assert (result.exit_code, result.stdout) == (code, "1 account opened with 10,000.00 EUR; 6 open already\n")
    assert result.stderr.endswith(stderr)
    assert bool(result.stderr) == bool(stderr)


@pytest.mark.parametrize("arguments", ["", "accounts", "trace", "dead-letters", "2pc"])
def test_without_a_command_the_help_page_is_shown(arguments):
    result = settle(*arguments.split())

    assert result.exit_code == 2
    assert "Usage: settle" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", ["request --account acc-1 --amount 1.00", "load --count 10"])
def test_without_kafka_a_command_fails_and_names_the_address(arguments):
    variables = {"SETTLE_KAFKA_BOOTSTRAP": NOBODY, "SETTLE_DELIVERY_TIMEOUT_S": "0.5"}
    result = subprocess.run(
        [*SETTLE, *arguments.split()], env=os.environ | variables, capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"Kafka at {NOBODY} did not take withdrawal" in result.stderr
    assert "Connection refused" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    ["accounts list", f"status {UUID(int=1)}", "stuck", "migrate", "2pc recover", "2pc in-doubt", "republish"],
)
def test_without_a_database_a_command_fails_and_names_the_address(arguments, monkeypatch):
    for database in DATABASES:
        monkeypatch.setenv(f"SETTLE_{database.upper()}_DSN", f"postgresql://settle@{NOBODY}/{database}")

    result = settle(*arguments.split())

    assert (result.exit_code, result.stdout) == (1, "")
    line, _, variable = result.stderr.partition("; the server of ")
    assert line == f"settle: PostgreSQL at {NOBODY} does not answer: Connection refused"
    assert variable.strip() in {f"SETTLE_{database.upper()}_DSN" for database in DATABASES}


@pytest.mark.parametrize(
    "dsn", [f"postgresql://settle@{NOBODY},{NOBODY}/x", "host=127.0.0.1,127.0.0.1 port=9 dbname=x"]
)
@pytest.mark.parametrize("arguments", ["accounts list", "migrate", "outbox dead list"])
def test_without_any_of_several_hosts_a_command_fails_in_one_line(arguments, dsn, monkeypatch):
    for database in DATABASES:
        monkeypatch.setenv(f"SETTLE_{database.upper()}_DSN", dsn)

    result = settle(*arguments.split())

    assert (result.exit_code, result.stdout) == (1, "")
    line, _, variable = result.stderr.partition("; the server of ")
    assert line == f"settle: PostgreSQL at {NOBODY} does not answer: Connection refused"
    assert variable.strip() in {f"SETTLE_{database.upper()}_DSN" for database in DATABASES}


def test_a_kafka_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", NOBODY)
    monkeypatch.setattr("broker.provision.TIMEOUT_S", 0.5)

    result = settle("topics")

    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"settle: Kafka at {NOBODY} does not answer: ")


@pytest.mark.parametrize("dsn", ["nonsense", "host=127.0.0.1 password=secret", "mysql://me:secret@127.0.0.1/x"])
@pytest.mark.parametrize("arguments", ["accounts list", "run account"])
def test_a_database_url_that_is_none_is_named_but_not_told(arguments, dsn, monkeypatch):
    monkeypatch.setenv("SETTLE_ACCOUNT_DSN", dsn)

    result = settle(*arguments.split())

    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("settle: SETTLE_ACCOUNT_DSN is wrong: not ")
    assert "secret" not in line


@pytest.mark.parametrize("service", ["account", "relay", "provider"])
def test_a_service_whose_port_is_taken_says_so_in_one_line(service):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        variables = {"SETTLE_HTTP_PORT": str(port), "SETTLE_ACCOUNT_DSN": f"postgresql://settle@{NOBODY}/account"}
        result = subprocess.run(
            [*SETTLE, "run", service], env=os.environ | variables, capture_output=True, text=True, timeout=60
        )

    assert result.returncode == 1
    where = f"SETTLE_HTTP_HOST=127.0.0.1, SETTLE_HTTP_PORT={port}"
    assert result.stderr == f"settle: nothing can listen on {where}: Address already in use\n"


def test_a_variable_that_is_wrong_is_named(monkeypatch):
    monkeypatch.setenv("SETTLE_DELIVERY_TIMEOUT_S", "soon")

    result = settle("request", "--account", "acc-1", "--amount", "1")

    assert result.exit_code == 2
    assert result.stderr.startswith("settle: SETTLE_DELIVERY_TIMEOUT_S=soon is wrong: ")


@pytest.mark.parametrize("command", [["cli", "run", "relay"], ["outbox_relay"]])
def test_a_relay_without_a_source_does_not_start_and_says_so(command):
    result = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=60)

    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert ": no source: " in line


def test_a_bug_keeps_its_traceback(monkeypatch):
    def buggy(data):
        raise ZeroDivisionError

    monkeypatch.setattr(settings, "kafka_bootstrap", buggy)

    assert isinstance(settle("request", "--account", "acc-1", "--amount", "1").exception, ZeroDivisionError)


@pytest.mark.parametrize("name", [name for name in EXIT_CODES if not name.startswith("cimpl.")])
def test_every_error_that_has_an_exit_code_exists(name):
    module, _, kind = name.rpartition(".")

    assert issubclass(getattr(importlib.import_module(module), kind), Exception)


def test_the_nearest_known_base_class_gives_the_exit_code():
    assert exit_code(NotRunning("…")) == 2
    assert exit_code(StackError("…")) == 1
    assert exit_code(KafkaException("…")) == 1
    assert exit_code(ValueError("…")) is None


def test_every_command_is_shown_with_what_it_does():
    result = settle("--help")

    assert result.exit_code == 0
    assert all(f" {name} " in result.stdout for name in COMMANDS)
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_page_at_80_columns(command):
    result = settle(command, "--help")

    assert result.exit_code == 0
    assert f"Usage: settle {command}" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_ctrl_c_while_it_is_being_loaded_leaves_no_traceback():
    code = """
import os, signal, sys, cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job is born without
class CtrlC:
    def find_spec(self, name, *_):
        if name == "cli.main":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
cli.start()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


def test_the_version_is_printed():
    assert settle("--version").stdout.startswith("settle 0.")
    relays = typer.Typer()
    relays.command()(relay)
    asked = CliRunner().invoke(relays, ["--version"])
    assert (asked.exit_code, asked.stdout) == (0, f"outbox-relay {version('settle')}\n")


def test_a_withdrawal_without_a_trace_says_nothing_of_one(monkeypatch):
    untraced = Status(UUID(int=1), "paid", False, None, [], None, None, "acc-1", 1, "USD", None, None, 0)
    assert "trace" not in status.in_words(untraced, Waits("the mail"))
    assert "trace" not in status.in_words(untraced)
    assert "; trace abc" in status.in_words(msgspec.structs.replace(untraced, trace_id="abc"))
    monkeypatch.setattr("processors.saga.status.find_status", lambda *_: untraced)
    assert settle("trace", str(UUID(int=1))).stderr.startswith(f"settle: withdrawal {UUID(int=1)} has no trace")


def test_running_a_service_does_not_wait_for_what_other_commands_need():
    code = (
        "import sys; from cli.main import app; app(['run', '--help'], standalone_mode=False);"
        f"print([module for module in {HEAVY} if module in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert result.stdout.splitlines()[-1] == "[]"


def test_the_stack_that_runs_is_found(tmp_path):
    with a_stack_on(tmp_path, 1111):
        assert settings.kafka_bootstrap() == "127.0.0.1:1111"
        assert settings.dsn("saga") == "postgresql://settle@127.0.0.1:1111/saga"


def test_env_is_for_a_shell_and_says_what_stack_json_says(tmp_path):
    folder = tmp_path / "it's here"
    with a_stack_on(folder, 1111):
        result = settle("env", "--data", str(folder))
    shown = "SETTLE_KAFKA_BOOTSTRAP SETTLE_SAGA_DSN SETTLE_DATA SETTLE_KAFKA_PID SETTLE_SAGA_HTTP PGPORT"
    script = f'{result.stdout}\nfor name in {shown}; do eval "echo \\"\\$$name\\""; done'

    found = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, timeout=60)

    assert found.stdout.splitlines() == [
        "127.0.0.1:1111",
        "postgresql://settle@127.0.0.1:1111/saga",
        str(folder),
        "1",
        "http://127.0.0.1:2222",
        "1111",
    ]


def test_a_variable_counts_more_than_the_stack_on_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", "elsewhere:9092")
    for name in set(DATABASES) - {"api"}:  # which that system may be without
        monkeypatch.setenv(f"SETTLE_{name.upper()}_DSN", f"postgresql://elsewhere/{name}")

    with a_stack_on(tmp_path, 1111):
        assert settings.kafka_bootstrap() == "elsewhere:9092"
        assert settings.dsn("saga") == "postgresql://elsewhere/saga"
        assert set(settings.dsns(DATABASES)) == set(DATABASES) - {"api"}
        with pytest.raises(BadInputError, match="SETTLE_API_DSN is not set"):
            settings.dsn("api")


@pytest.mark.parametrize(
    "named",
    [
        ["SETTLE_KAFKA_BOOTSTRAP"],
        ["SETTLE_SAGA_DSN"],
        [f"SETTLE_{name.upper()}_DSN" for name in DATABASES],
        ["SETTLE_TREASURER_DSN"],
    ],
    ids=["Kafka", "a database", "all databases", "the treasurer's database"],
)
def test_no_command_takes_some_of_its_addresses_from_a_stack_and_some_from_variables(tmp_path, monkeypatch, named):
    for name in named:
        monkeypatch.setenv(name, "elsewhere:9092" if "KAFKA" in name else "postgresql://elsewhere/x")
    commands = ["accounts open --count 1 --balance 1"]
    if "SETTLE_TREASURER_DSN" not in named:
        commands += ["request --account acc-1 --amount 1", "accounts list", "stuck", "audit", "api-keys list"]

    with a_stack_on(tmp_path, 1111):
        for command in commands:
            done = settle(*command.split())
            assert (done.exit_code, done.stdout) == (2, ""), command
            (line,) = done.stderr.splitlines()
            assert line.startswith(
                f"settle: {named[0]} names another system than the stack that runs on {tmp_path}"
            )
            assert f"--data {tmp_path}" in line
        assert settings.dsn("saga", tmp_path) == "postgresql://settle@127.0.0.1:1111/saga"


@pytest.mark.parametrize(
    ("treasurer", "of_account", "other"),
    [
        ("postgresql://t@elsewhere:1111/account", None, "the stack that runs on {data}"),
        ("postgresql://t@127.0.0.1:2222/account", None, "the stack that runs on {data}"),
        ("postgresql://t@127.0.0.1:1111/saga", None, "the stack that runs on {data}"),
        ("postgresql://t@127.0.0.1:1111/account", "postgresql://elsewhere/account", "SETTLE_ACCOUNT_DSN"),
        ("postgresql://t@a-third/account", "postgresql://elsewhere/account", "SETTLE_ACCOUNT_DSN"),
    ],
)
def test_accounts_are_opened_where_all_other_variables_name_the_system(
    tmp_path, monkeypatch, treasurer, of_account, other
):
    with a_stack_on(tmp_path, 1111):
        for line in settle("env").stdout.splitlines():
            if line.startswith("export SETTLE_"):
                name, _, text = line.removeprefix("export ").partition("=")
                monkeypatch.setenv(name, "".join(shlex.split(text)))
        assert settings.treasurer_dsn() == settings.dsn("account") == "postgresql://settle@127.0.0.1:1111/account"
        if of_account is not None:
            for name in DATABASES:
                monkeypatch.setenv(f"SETTLE_{name.upper()}_DSN", of_account)
        same = settings.dsn("account").replace("settle@", "").replace("//", "//treasurer@")
        monkeypatch.setenv("SETTLE_TREASURER_DSN", same)
        assert settings.treasurer_dsn() == same
        monkeypatch.setenv("SETTLE_TREASURER_DSN", treasurer)

        done = settle("accounts", "open", "--count", "1", "--balance", "1")

        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr == (
            f"settle: SETTLE_TREASURER_DSN names another system than {other.format(data=tmp_path)}: "
            f"--data {tmp_path} for the stack, or unset SETTLE_TREASURER_DSN\n"
        )
        assert settings.treasurer_dsn(tmp_path) == "postgresql://settle@127.0.0.1:1111/account"


def test_variables_that_join_a_stack_clear_a_treasurer_s_of_another_system(tmp_path):
    with a_stack_on(tmp_path, 1111):
        script = f'{settle("env").stdout}\nprintf "%s" "$SETTLE_TREASURER_DSN$SETTLE_TREASURER_DSN_FILE"'
    others = {
        "SETTLE_TREASURER_DSN": "postgresql://elsewhere/account",
        "SETTLE_TREASURER_DSN_FILE": "/run/secrets/t",
    }
    found = subprocess.run(["sh", "-euc", script], env=others, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_variables_that_name_the_stack_that_runs_are_no_mixture(tmp_path, monkeypatch):
    monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", "127.0.0.1:1111")

    with a_stack_on(tmp_path, 1111):
        assert settings.kafka_bootstrap() == "127.0.0.1:1111"
        assert settings.dsn("saga") == "postgresql://settle@127.0.0.1:1111/saga"


def test_single_variables_count_where_no_stack_runs(tmp_path, monkeypatch):
    a_stack_was_on(tmp_path, 1111)
    monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", "elsewhere:9092")

    assert settings.kafka_bootstrap() == "elsewhere:9092"
    assert settings.dsn("saga") == "postgresql://settle@127.0.0.1:5432/saga"


def test_a_folder_that_is_named_counts_more_than_a_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", "elsewhere:9092")

    with a_stack_on(tmp_path / "named", 2222):
        assert settings.kafka_bootstrap(tmp_path / "named") == "127.0.0.1:2222"


def test_a_stack_that_is_gone_is_not_asked(tmp_path):
    a_stack_was_on(tmp_path, 1111)

    assert settings.kafka_bootstrap() == "127.0.0.1:9092"
    assert settings.dsn("saga") == "postgresql://settle@127.0.0.1:5432/saga"


def test_a_folder_that_is_named_must_have_a_running_stack(tmp_path):
    a_stack_was_on(tmp_path, 1111)

    result = settle("request", "--account", "acc-1", "--amount", "1", "--data", str(tmp_path))

    assert result.exit_code == 2
    assert result.stderr.startswith(f"settle: no stack is running on {tmp_path}")


@pytest.mark.parametrize(
    ("command", "extra"),
    [(name, command.needs) for name, command in COMMANDS.items() if command.needs and not command.asks_itself]
    + [(f"run {service}", "relay" if service == "relay" else "services") for service in CHOICES],
)
def test_a_command_of_a_base_installation_says_which_extra_is_missing(command, extra, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    result = settle(*command.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"settle: {command} needs what is not installed here: pip install 'settle[{extra}]'\n"
    assert f"│ {command.partition(' ')[0]} " not in settle("--help").stdout


def test_a_service_says_which_extra_is_missing_where_only_the_relay_is_installed(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: name if name == extras.EXTRAS["relay"] else None)
    assert settle("run", "account").stderr.endswith("pip install 'settle[services]'\n")
    assert "│ run " in settle("--help").stdout


def test_env_prints_urls_that_others_can_be_made_from_and_where_psql_finds_the_password(tmp_path):
    with a_stack_on(tmp_path, 1111, user="settle:canary-7f3a"):
        result = settle("env", "--data", str(tmp_path))
    lines = result.stdout.splitlines()
    assert f"export PGPASSFILE={tmp_path / 'pgpass'}" in lines
    assert "export SETTLE_SAGA_DSN=postgresql://settle:canary-7f3a@127.0.0.1:1111/saga" in lines


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("http://127.0.0.1:9", 1, "the API at http://127.0.0.1:9 does not answer: "),
        ("nonsense", 2, "--api nonsense is not a URL such as https://127.0.0.1:8000: "),
    ],
)
def test_an_api_that_is_nowhere_is_one_line(url, code, said):
    done = settle("outbox", "status", "--api", url)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert done.stderr.startswith(f"settle: {said}")


def test_an_api_key_is_a_secret():
    assert is_secret("SETTLE_API_KEY")


@pytest.mark.parametrize(
    ("named", "has_api"),
    [((), True), (("account",), False), (("account", "saga", "payment"), False), (("account", "api"), True)],
)
def test_the_api_s_database_is_left_out_where_a_system_has_none(monkeypatch, tmp_path, named, has_api):
    monkeypatch.setenv("SETTLE_DATA", str(tmp_path))
    for name in DATABASES:
        monkeypatch.delenv(f"SETTLE_{name.upper()}_DSN", raising=False)
    for name in named:
        monkeypatch.setenv(f"SETTLE_{name.upper()}_DSN", f"postgresql://a@127.0.0.1:1/{name}")
    expected = set(DATABASES) if has_api else set(DATABASES) - {"api"}
    assert set(settings.dsns(DATABASES)) == expected
