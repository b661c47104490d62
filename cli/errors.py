"""How does an error reach a person? As one line on standard error, with an exit code; tracebacks are for bugs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

# By name: to look for an error is no reason to import whoever raises it. The nearest base class counts.
EXIT_CODES = {
    "cli.errors.BadInputError": BAD_INPUT,
    "approaches.lab.caller.NotInTimeError": FAILED,
    "approaches.withdrawal.PaymentIdReusedError": BAD_INPUT,
    "cli.errors.CommandError": FAILED,
    "chaos.plan.ChaosError": BAD_INPUT,
    "cimpl.KafkaException": FAILED,
    "contracts.events.ContractError": BAD_INPUT,
    "contracts.money.MoneyError": BAD_INPUT,
    "dead_letters.errors.DeadLetterError": BAD_INPUT,
    "failpoints.FailpointError": BAD_INPUT,
    "outbox_relay.errors.RelayError": BAD_INPUT,
    "producers.errors.InvalidRequestError": BAD_INPUT,
    "producers.errors.ProducerError": FAILED,
    "psycopg.OperationalError": FAILED,
    "pydantic_core._pydantic_core.ValidationError": BAD_INPUT,
    "stack.errors.AlreadyRunning": BAD_INPUT,
    "stack.errors.NotRunning": BAD_INPUT,
    "stack.errors.StackError": FAILED,
    "tracing.jaeger.JaegerError": FAILED,
}


class CommandError(Exception):
    """A command that could not do what it was asked; the text is one line for a person."""


class BadInputError(CommandError):
    """What was asked for makes no sense as things stand, and asking again will not help."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn a known error into its line and exit code; leave the others, which are bugs, as they are."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        print(f"settle: {one_line(error)}", file=sys.stderr)
        raise typer.Exit(code) from None


def exit_code(error: Exception) -> int | None:
    """The exit code of a known error; None for a bug."""
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return next((EXIT_CODES[name] for name in names if name in EXIT_CODES), None)


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    if type(error).__module__ == "pydantic_core._pydantic_core":
        return _of_settings(error)
    return " ".join(str(error).split())


def _of_settings(error: Exception) -> str:
    """Which environment variables are wrong, and why."""
    from pydantic import ValidationError

    assert isinstance(error, ValidationError)
    prefix = "OTEL_" if error.title == "TracingSettings" else "SETTLE_"
    return "; ".join(
        f"{prefix}{details['loc'][0]}".upper()
        + f"={details['input']!s} is wrong: {details['msg'].removeprefix('Value error, ')}"
        for details in error.errors()
    )
