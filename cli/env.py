"""``settle env``: the variables to connect to the embedded stack."""

import shlex
from urllib.parse import urlsplit

from cli.settings import DataOption
from cli.text import say_to_shell
from stack import state as stack_json
from stack.ports import HOST


def env(data: DataOption = None) -> None:
    """Print the variables by which a program joins the running stack: eval "$(settle env)"."""
    state = stack_json.running((data or stack_json.default_data_folder()).expanduser().resolve())
    variables = stack_json.environment(state)
    # So that plain `psql account` works as well.
    server = urlsplit(state.dsns["account"])
    variables |= {"PGHOST": str(server.hostname), "PGPORT": str(server.port)}
    variables |= {"PGUSER": str(server.username), "PGPASSWORD": str(server.password)}
    # For curl and kill; a part that was restarted has another process ID.
    variables |= {f"SETTLE_{name.upper()}_HTTP": f"http://{HOST}:{port}" for name, port in state.http.items()}
    variables |= {f"SETTLE_{name.upper().replace('-', '_')}_PID": str(pid) for name, pid in state.pids.items()}
    variables |= {"SETTLE_UP_PID": str(state.pid)}
    for name, value in variables.items():
        say_to_shell(f"export {name}={shlex.quote(value)}")
    say_to_shell('# psql "$SETTLE_ACCOUNT_DSN"')
    say_to_shell('# kcat -b "$SETTLE_KAFKA_BOOTSTRAP" -L')
