"""The addresses of Kafka and the databases that commands use.

In this order: ``--data`` names a running stack; environment variables; the stack that runs on the default data
folder; the defaults of the services. So ``settle up`` in one terminal and ``settle request`` in another need no
exports, and a machine without an embedded stack is configured like the services.

All are of one system: where a stack runs, variables that name another one for some of them alone are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import BadInputError, note_kafka
from contracts.variables import TREASURER_DSN, value

if TYPE_CHECKING:
    from stack.state import State

KAFKA = "SETTLE_KAFKA_BOOTSTRAP"

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Data folder of the stack to use.", show_default="SETTLE_DATA, or your data directory"
    ),
]


def kafka_bootstrap(data: Path | None = None) -> str:
    """The address of Kafka, ``host:port``.

    Raises:
        NotRunning: no stack runs on the folder that ``data`` names.
        BadInputError: it would be another system's than the databases are.
        KafkaSettingsError: nobody can connect to it as the variables say.
    """
    from broker import security
    from producers.settings import ProducerSettings

    _refuse_mixture(KAFKA, data)
    found = _named(KAFKA, data)
    if found is None and (state := _running_stack(data)) is not None:
        from stack.state import environment

        found = state.kafka_bootstrap
        security.assume(found, environment(state))
    found = found or ProducerSettings().kafka_bootstrap
    security.check(found)
    note_kafka(found)
    return found


def dsn(database: str, data: Path | None = None) -> str:
    """Where a database is: ``account``, ``payment``, ``notification``, ``saga`` or ``provider``.

    Raises:
        NotRunning: no stack runs on the folder that ``data`` names.
        BadInputError: the variable is not a valid DSN, or it would be another system's than the rest.
    """
    from contracts.dsn import check_dsn
    from processors.runtime.settings import ServiceSettings

    name = _variable(database)
    _refuse_mixture(name, data)
    found = _named(name, data)
    if found is None and (state := _running_stack(data)) is not None:
        found = state.dsns.get(database)
    found = found or ServiceSettings().dsn(database)
    try:
        return check_dsn(found)
    except ValueError as error:
        raise BadInputError(f"{name} is wrong: {error}") from None


def dsns(databases: Iterable[str], data: Path | None = None) -> dict[str, str]:
    """Where those of several databases are that are :func:`there`, by name.

    Raises:
        NotRunning: no stack runs on the folder that ``data`` names.
        BadInputError: a variable is not a valid DSN.
    """
    return {name: dsn(name, data) for name in there(databases, data)}


def there(databases: Iterable[str], data: Path | None = None) -> list[str]:
    """Those of several databases that a system has.

    The API's is left out of a stack without it, and where variables say where the other services' are and not
    where that one is.

    Raises:
        NotRunning: no stack runs on the folder that ``data`` names.
    """
    from contracts.services import API

    return [name for name in databases if name != API or _has_api(data)]


def _has_api(data: Path | None) -> bool:
    from contracts.services import API, PROCESSORS

    if _named(_variable(API), data) is not None:
        return True
    if any(_named(_variable(service.name), data) is not None for service in PROCESSORS):
        return False
    state = _running_stack(data)
    return state is None or API in state.dsns


def treasurer_dsn(data: Path | None = None) -> str:
    """Where accounts are opened: ``SETTLE_TREASURER_DSN``, whose role may, or else the account service's database.

    Raises:
        NotRunning: no stack runs on the folder that ``data`` names.
        BadInputError: the variable is not a valid DSN, or where a stack runs, it names another database than the
            account service's.
    """
    from contracts.dsn import check_dsn

    found = _named(TREASURER_DSN, data)
    if found is None:
        return dsn("account", data)
    try:
        check_dsn(found)
    except ValueError as error:
        raise BadInputError(f"{TREASURER_DSN} is wrong: {error}") from None
    if (running := _running_here()) is not None and _server(found) != _server(account := dsn("account")):
        is_of_stack = account == running.dsns["account"]
        other = f"the stack that runs on {running.data}" if is_of_stack else _variable("account")
        raise BadInputError(
            f"{TREASURER_DSN} names another system than {other}: --data {running.data} for the stack, "
            f"or unset {TREASURER_DSN}"
        )
    return found


def api_url(data: Path | None = None) -> str:
    """Where a person's browser finds the API: ``SETTLE_API_URL``, or that of the stack that runs.

    Raises:
        NotRunning: no stack runs on the folder that ``data`` names.
        BadInputError: it is not known.
    """
    state = None if (found := _named("SETTLE_API_URL", data)) else _running_stack(data)
    found = found or (state.api_url if state is not None else None)
    if not found:
        raise BadInputError("where the API answers is not known: --url, or SETTLE_API_URL")
    return found.rstrip("/")


def _refuse_mixture(name: str, data: Path | None) -> None:
    """Refuse variables that name another system than the stack that runs here, unless they name all of it.

    Of a system without an API nothing names the API's database.
    """
    from contracts.services import API, DATABASES

    if data is not None or (running := _running_here()) is None:
        return
    own = {KAFKA: running.kafka_bootstrap} | {_variable(name): dsn for name, dsn in running.dsns.items()}
    said = {variable: value(variable) for variable in (KAFKA, *map(_variable, DATABASES))}
    elsewhere = [variable for variable, text in said.items() if text not in (None, own.get(variable))]
    unsaid = [one for one in own if said.get(one) is None and (one == name or one != _variable(API))]
    if elsewhere and unsaid:
        raise BadInputError(
            f"{elsewhere[0]} names another system than the stack that runs on {running.data}, and {unsaid[0]} "
            f"is not set: --data {running.data} for the stack, or set all of them"
        )


def _running_here() -> State | None:
    """The stack that runs on the default data folder, whatever variables say."""
    from stack import state
    from stack.errors import NotRunning

    try:
        return state.running(state.default_data_folder().expanduser().resolve())
    except (NotRunning, RuntimeError):  # the latter where a user has no home
        return None


def _server(dsn: str) -> list[str | None]:
    """Which database on which server a valid DSN means, whoever asks there."""
    from contracts.dsn import effective

    found = effective(dsn)
    return [found.get(name) for name in ("host", "hostaddr", "port", "dbname")]


def _variable(database: str) -> str:
    return f"SETTLE_{database.upper()}_DSN"


def _named(name: str, data: Path | None) -> str | None:
    return value(name) if data is None else None


def _running_stack(data: Path | None) -> State | None:
    from stack import state
    from stack.errors import NotRunning

    folder = data or state.default_data_folder()
    try:
        return state.running(folder.expanduser().resolve())
    except NotRunning:
        # Whoever listens at the default address instead is not the secured stack that was meant.
        if data is not None or state.was_secured(folder):
            raise
        return None
