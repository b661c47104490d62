"""``settle env``: the variables to connect to the embedded stack, the databases' passwords included."""

import shlex
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

import typer

from cli.errors import BadInputError
from cli.settings import DataOption
from cli.text import say_to_shell
from contracts.rights import OPERATOR, kafka_users
from stack import state as stack_json
from stack.names import PASSFILE
from stack.ports import HOST

UserOption = Annotated[
    str, typer.Option(help="Who to be at a secured stack's Kafka: operator, viewer, producer, or a service.")
]


def env(user: UserOption = OPERATOR, data: DataOption = None) -> None:
    """Print the variables by which a program joins the running stack: eval "$(settle env)"."""
    users = [one.name for one in kafka_users()]
    if user not in users:
        raise BadInputError(f"there is no user {user!r}: it is one of {', '.join(users)}")
    state = stack_json.running((data or stack_json.default_data_folder()).expanduser().resolve())
    variables = stack_json.environment(state, user=user)
    # So that plain `psql account` works as well.
    server = urlsplit(state.dsns["account"])
    variables |= {"PGHOST": str(server.hostname), "PGPORT": str(server.port)}
    variables |= {"PGUSER": str(server.username), "PGPASSFILE": str(Path(state.data, PASSFILE))}
    variables |= {f"PG{name.upper()}": value for name, value in parse_qsl(server.query)}
    # For curl and kill; a part that was restarted has another process ID.
    variables |= {f"SETTLE_{name.upper()}_HTTP": f"http://{HOST}:{port}" for name, port in state.http.items()}
    variables |= {f"SETTLE_{name.upper().replace('-', '_')}_PID": str(pid) for name, pid in state.pids.items()}
    variables |= {"SETTLE_UP_PID": str(state.pid)}
    for name, value in variables.items():
        say_to_shell(f"export {name}={shlex.quote(value)}")
    say_to_shell('# psql "$SETTLE_ACCOUNT_DSN"')
    say_to_shell('# kcat -b "$SETTLE_KAFKA_BOOTSTRAP" -L')
