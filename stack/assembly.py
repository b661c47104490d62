"""The parts of a stack, configured to find each other: servers, broker and services, and the state for others."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from broker import security
from contracts.services import API, PROVIDER
from stack import ports, secured
from stack import state as stack_json
from stack.kafka import Kafka
from stack.names import SERVERS
from stack.postgres import Postgres
from stack.process import Home
from stack.service import LISTEN, Command, Service

FIRST = ("relay", PROVIDER)
"""Services that must be ready before the others start, and end after them: the relay creates the publications and
slots without which an outbox row could go unseen. The payment service calls
the provider, where that is a service."""


@dataclass(frozen=True)
class Options:
    """What a stack is to be; see :class:`stack.supervisor.Stack`."""

    services: Sequence[str]
    databases: Sequence[str]
    environment: Mapping[str, str]
    postgres_settings: Mapping[str, str]
    java_options: Sequence[str]
    partitions: int
    command: Command
    secure: bool


@dataclass(frozen=True)
class Assembly:
    """The parts of a stack, by database where there are several, and its state before any of them runs."""

    servers: Mapping[str, Postgres]
    kafka: Kafka
    services: Sequence[Service]
    state: stack_json.State


def assemble(home: Home, jars: Path, options: Options, taken: set[int]) -> Assembly:
    """Configure the parts, on the ports that they had last time where those are free.

    Args:
        home: of the stack.
        jars: of Kafka.
        options: of the stack.
        taken: its ports, which are added to it.

    Raises:
        StackError: there is no free port.
    """
    old_ports = stack_json.last_ports(home.data)

    def port(part: str) -> int:
        return ports.choose(old_ports.get(part), taken=taken)

    servers = {
        name: Postgres(home, name, port(SERVERS[name]), options.postgres_settings, secure=options.secure)
        for name in options.databases
    }
    kafka = Kafka(
        home,
        jars,
        port("kafka"),
        ports.choose(taken=taken),
        options.java_options,
        internal_port=ports.choose(taken=taken) if options.secure else None,
    )
    state = stack_json.State(
        data=str(home.data),
        pid=os.getpid(),
        kafka_bootstrap=kafka.address,
        dsns={name: server.dsn for name, server in servers.items()},
        http={name: port(name) for name in options.services},
        api_url=_api_url(port(stack_json.API_LISTENS), options) if API in options.services else "",
        secured=options.secure,
    )
    variables = stack_json.environment(state, {name: server.own_dsn for name, server in servers.items()})
    if PROVIDER in options.services:
        variables["SETTLE_PROVIDER_URL"] = f"http://{ports.HOST}:{state.http[PROVIDER]}"
    services = [
        Service(
            home,
            name,
            state.http[name],
            {**variables, **_of_service(home.data, name, state), **options.environment},
            options.command,
            state.api_url if name == API else None,
        )
        for name in sorted(options.services, key=lambda name: name not in FIRST)
    ]
    return Assembly(servers, kafka, services, state)


def _api_url(port: int, options: Options) -> str:
    return f"{'https' if options.secure else 'http'}://{ports.HOST}:{port}"


def _of_service(data: Path, service: str, state: stack_json.State) -> dict[str, str]:
    """The variables of one service alone: who it is for Kafka, and where the API listens, with which certificate.

    What the user's shell exports is for another stack.
    """
    found = {name: "" for variable in security.NAMES for name in (variable, f"{variable}_FILE")}
    if state.secured and service != PROVIDER:
        found |= secured.user_variables(data, service)
    if service == API:
        found |= {LISTEN: urlsplit(state.api_url).netloc, **secured.api_variables(data, is_on=state.secured)}
    return found
