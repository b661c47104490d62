"""Errors as they reach a person: one line on standard error, with an exit code; tracebacks are for bugs."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from cli.text import complain

_kafka_asked: str | None = None
"""The address of the Kafka that this command uses, which librdkafka's errors do not name."""

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
NOT_READ = 141
"""The exit code when the reader of the output has gone, as with ``| head``: that of a process ended by SIGPIPE."""

# By name, so that looking for an error imports nothing. The nearest base class counts.
EXIT_CODES = {
    "cli.errors.BadInputError": BAD_INPUT,
    "builtins.OSError": FAILED,
    "lab.comparison.caller.NotInTimeError": FAILED,
    "lab.approaches.withdrawal.PaymentIdReusedError": BAD_INPUT,
    "cli.errors.CommandError": FAILED,
    "lab.chaos.plan.ChaosError": BAD_INPUT,
    "cimpl.KafkaException": FAILED,
    "contracts.events.ContractError": BAD_INPUT,
    "contracts.money.MoneyError": BAD_INPUT,
    "operations.dead_letters.errors.DeadLetterError": BAD_INPUT,
    "operations.errors.SchemaError": BAD_INPUT,
    "contracts.failpoints.FailpointError": BAD_INPUT,
    "contracts.variables.EnvironmentRefusedError": BAD_INPUT,
    "outbox_relay.errors.RelayError": BAD_INPUT,
    "producers.errors.InvalidRequestError": BAD_INPUT,
    "producers.errors.ProducerError": FAILED,
    "psycopg.OperationalError": FAILED,
    "psycopg.errors.InsufficientPrivilege": FAILED,
    "psycopg.errors.ReadOnlySqlTransaction": FAILED,
    "psycopg.errors.UndefinedColumn": FAILED,
    "psycopg.errors.UndefinedTable": FAILED,
    "pydantic_core._pydantic_core.ValidationError": BAD_INPUT,
    "stack.errors.AlreadyRunning": BAD_INPUT,
    "stack.errors.NotRunning": BAD_INPUT,
    "sqlalchemy.exc.OperationalError": FAILED,
    "stack.errors.StackError": FAILED,
    "tracing.jaeger.JaegerError": FAILED,
}


# libpq's message for each host, without its hint.
_NAMED = re.compile(r"; the server of \w+")
_NOT_CONNECTED = re.compile(
    r'connection to server at "([^"]+)"(?: \([^)]*\))?, port (\d+) failed: '
    r"(.*?)(?: Is the server running on that host and accepting TCP/IP connections\?)?"
    r"(?= Multiple connection attempts failed\.| - host: |$)"
)


class CommandError(Exception):
    """A command that failed; the text is one line for a person."""


class BadInputError(CommandError):
    """The request is invalid in the current state, so repeating it will not help."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn a known error into one line and an exit code; let others, which are bugs, propagate."""
    try:
        try:
            yield
        finally:
            _flush()
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        raise typer.Exit(NOT_READ) from None
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        complain(one_line(error))
        raise typer.Exit(code) from None


def _flush() -> None:
    """Flush the output while an error can still be reported."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        # What is still buffered would fail again when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def exit_code(error: Exception) -> int | None:
    """The exit code of a known error; None for a bug."""
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return next((EXIT_CODES[name] for name in names if name in EXIT_CODES), None)


def one_line(error: Exception) -> str:
    """An error's message on one line; where a server does not answer, with its address."""
    modules = [kind.__module__ for kind in type(error).__mro__]
    if "pydantic_core._pydantic_core" in modules:
        from contracts.variables import complaint

        return complaint(error)  # type: ignore[arg-type]
    if "cimpl" in modules:
        return _of_kafka(error)
    if "sqlalchemy.exc" in modules:
        error = getattr(error, "orig", None) or error
    text = " ".join(str(error).split())
    if type(error).__qualname__ in ("UndefinedTable", "UndefinedColumn"):
        return (
            f"{text.partition(' LINE ')[0]}: the schema is not there, or not of this version; run `settle migrate`"
        )
    if type(error).__qualname__ == "InsufficientPrivilege":
        return f"{text}; where it is a right of this role, the owner's `settle migrate --grant` gives it"
    if not text.startswith("connection failed: "):
        return text
    # It stands behind the first of several hosts, and goes for all.
    named = _NAMED.search(text)
    hosts = dict.fromkeys(found.groups() for found in _NOT_CONNECTED.finditer(_NAMED.sub("", text)))
    line = "; ".join("PostgreSQL at {}:{} does not answer: {}".format(*host) for host in hosts)
    return f"{line}{named[0] if named else ''}" if line else text


def note_kafka(address: str) -> None:
    """Set the address that errors of librdkafka are reported with."""
    global _kafka_asked
    _kafka_asked = address


def of_command_line(error: Exception) -> str | None:
    """The message of a command-line error; empty where the help page was printed, None for any other error."""
    message = getattr(error, "format_message", None)
    if message is None:
        return None
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    context = getattr(error, "ctx", None)
    where = f" (see `{context.command_path} --help`)" if context is not None else ""
    return " ".join(str(message()).split()).removesuffix(".") + where


def _of_kafka(error: Exception) -> str:
    from broker.lifeline import why_unanswered
    from broker.troubles import denied

    cause = error.args[0]
    kafka = f"Kafka at {_kafka_asked}" if _kafka_asked is not None else "Kafka"
    if (lacks := denied(cause)) is not None:
        return f"{kafka} refuses: {lacks}"
    unanswered = cause.code() in (cause._TRANSPORT, cause._TIMED_OUT, cause._ALL_BROKERS_DOWN)
    # The error says only that nobody answered; a new client hears why.
    if unanswered and _kafka_asked is not None and (reason := why_unanswered(_kafka_asked)) is not None:
        return f"{kafka} does not answer: {reason}"
    verb = "does not answer" if cause.code() < 0 else "refuses"  # below zero it is an error of librdkafka's own
    return f"{kafka} {verb}: {' '.join(cause.str().split())}"
