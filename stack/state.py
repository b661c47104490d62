"""The addresses of a running stack: ``stack.json`` in its data folder, and the variables made from it."""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from contracts.rights import OPERATOR
from contracts.variables import FILE, TREASURER_DSN
from processors.runtime.settings import DATA_FOLDER
from stack import secured
from stack.errors import NotRunning
from stack.lock import is_held
from stack.names import SERVERS

FILE_NAME = "stack.json"
API_LISTENS = "api-listens"
"""The name of the API's own port among those of the parts, beside that of its health pages."""


@dataclass(frozen=True)
class State:
    """The addresses and processes of a stack.

    Attributes:
        data: the data folder.
        pid: the supervisor's process ID.
        kafka_bootstrap: host:port of the broker.
        dsns: PostgreSQL URL by database.
        http: port on 127.0.0.1 by service, where it answers ``/readyz`` and ``/metrics``.
        pids: process ID by part.
        api_url: where the API takes requests; empty without one.
        secured: whether Kafka asks who comes; whoever uses the data folder is its operator.
    """

    data: str
    pid: int
    kafka_bootstrap: str
    dsns: dict[str, str]
    http: dict[str, int] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    api_url: str = ""
    secured: bool = False


def default_data_folder() -> Path:
    """``SETTLE_DATA``, or a folder in the user's data directory."""
    return Path(os.environ.get("SETTLE_DATA") or DATA_FOLDER)


def write(state: State) -> None:
    """Replace ``stack.json`` in one step: a reader sees the old or the new one, never a part."""
    folder = Path(state.data)
    descriptor, name = tempfile.mkstemp(prefix=FILE_NAME, dir=folder)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(state), file, indent=2)
        os.replace(name, folder / FILE_NAME)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def read_state(data: Path) -> State | None:
    """The state of the last stack on this folder, running or not; None if no readable file exists."""
    try:
        return State(**json.loads((data / FILE_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def was_secured(data: Path) -> bool:
    """Whether a data folder is that of a secured stack, which it stays, even if its secrets are lost."""
    state = read_state(data)
    return secured.has_secrets(data) or (state is not None and state.secured)


def running(data: Path) -> State:
    """The stack that runs on this folder.

    Raises:
        NotRunning: there is none.
    """
    state = read_state(data)
    if state is None or not is_held(data):
        raise NotRunning(f"no stack is running on {data}: start one with `settle up --data {data}`")
    return state


def last_ports(data: Path) -> dict[str, int]:
    """The port of each part in the last stack on this folder; empty if there was none."""
    state = read_state(data)
    if state is None:
        return {}
    servers = {SERVERS[name]: urlsplit(dsn).port or 0 for name, dsn in state.dsns.items() if name in SERVERS}
    api = {API_LISTENS: urlsplit(state.api_url).port or 0} if state.api_url else {}
    return {"kafka": int(state.kafka_bootstrap.rpartition(":")[2]), **servers, **state.http, **api}


def environment(state: State, dsns: Mapping[str, str] | None = None, user: str = OPERATOR) -> dict[str, str]:
    """The environment variables with which a program connects to this stack.

    Args:
        dsns: other URLs of its databases.
        user: who it is for Kafka, where that is secured.
    """
    variables = {f"SETTLE_{name.upper()}_DSN": dsn for name, dsn in (dsns or state.dsns).items()}
    identity = secured.user_variables(Path(state.data), user) if state.secured else {}
    api = {"SETTLE_API_URL": state.api_url} if state.api_url else {}
    if api and state.secured:
        api["SETTLE_API_CA"] = secured.ca_file(Path(state.data))
    return {
        "SETTLE_KAFKA_BOOTSTRAP": state.kafka_bootstrap,
        **identity,
        **variables,
        **api,
        # Empty is not set: what a shell has exported for another system would open accounts there.
        TREASURER_DSN: "",
        TREASURER_DSN + FILE: "",
        "SETTLE_DATA": state.data,
    }
