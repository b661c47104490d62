"""``settle up``: the embedded stack."""

import queue
import shlex
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self

import typer
from rich.live import Live

from api.access import ADMIN
from api.credentials import SIGN_IN, SIGN_IN_S, offer_sign_in
from cli.screen import Grid, Screen, styled
from cli.settings import DataOption
from cli.signals import on_end
from cli.text import complain
from contracts.services import API
from stack import state as stack_json
from stack.errors import AlreadyRunning, StackError
from stack.part import PartStatus
from stack.supervisor import Stack

STATE_STYLES = {"ready": "green", "pending": "dim", "stopped": "dim", "stopping": "yellow", "starting": "yellow"}
OTHER_STYLE = "bold red"
DISPLAY_WAIT_S = 1.0
USER = "terminal"
"""Who has signed in by the link, as the API names its caller."""


SecureOption = Annotated[
    bool, typer.Option("--secure", help="TLS, a password for each service, ACLs; the folder then stays so.")
]


def up(data: DataOption = None, secure: SecureOption = False) -> None:
    """Start Kafka, PostgreSQL, the relay and every processor; keep them running until Ctrl-C."""
    console = _Lasting(soft_wrap=not sys.stdout.isatty())
    on_end()
    folder = data or stack_json.default_data_folder()
    stack = Stack(folder, secure=secure, note=lambda line: console.print(line, style="dim"))
    try:
        with _Display(stack, console) as display:
            _run(stack, console, display, folder)
    except StackError as error:
        _fail(error)
    finally:
        on_end(lambda _number, _frame: None)  # nothing is left to end, and this process goes by itself


def _run(stack: Stack, console: Screen, display: "_Display", folder: Path) -> None:
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    try:
        stack.start()
        # From here on a signal is an entry in a queue: an exception could interrupt anything half-way.
        on_end(lambda number, _frame: asked.put(number))
        display.catch_up()
        how = ", secured" if stack.state.secured else ""
        console.print(styled(("ready", "bold"), f"{how}; data and logs in {stack.data}"))
        if stack.state.api_url:
            console.print(
                f"the console: {_sign_in_link(stack.state)}   (once, within {SIGN_IN_S / 60:.0f} minutes)"
            )
        console.print(f'join it: eval "$({_env_command(folder)})"   stop it: Ctrl-C')
        asked.get()
    except KeyboardInterrupt:
        pass  # while it was starting; what had been started is stopped
    on_end(lambda _number, _frame: stack.hurry())
    console.print("stopping: processors, relay, Kafka, PostgreSQL (Ctrl-C again hurries)")
    stack.stop()
    display.catch_up()
    console.print("everything is stopped")


def _sign_in_link(state: stack_json.State) -> str:
    """A link by which the person at this terminal, and nobody else, gets into the console."""
    return f"{state.api_url}{SIGN_IN}?token={offer_sign_in(state.dsns[API], USER, ADMIN)}"


def _env_command(folder: Path) -> str:
    if folder == stack_json.default_data_folder():
        return "settle env"
    return shlex.join(["settle", "env", "--data", str(folder)])


def _fail(error: StackError) -> NoReturn:
    complain(str(error))
    raise typer.Exit(2 if isinstance(error, AlreadyRunning) else 1)


class _Lasting(Screen):
    """Standard output of a command that a full disk, or a reader that has gone, does not end."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print a line, or a table; what cannot be printed is dropped."""
        try:
            super().print(*objects, **options)
        except OSError:
            with suppress(OSError), self.capture():  # else it would be kept, and printed with the next line
                pass


class _Display:
    """Shows the status of the parts: a live table on a terminal, otherwise a line for each change."""

    def __init__(self, stack: Stack, console: Screen):
        self._stack = stack
        self._console = console
        self._done = threading.Event()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown: tuple[PartStatus, ...] = ()
        self._showing = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="display", daemon=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()

    def catch_up(self) -> None:
        """Show the current status."""
        with self._showing, suppress(OSError):  # a terminal may be gone
            self._show(self._shown, self._stack.statuses())

    def _follow(self) -> None:
        while not self._done.is_set():
            self._stack.wait_changed(self._shown, DISPLAY_WAIT_S)
            self.catch_up()

    def _show(self, known: tuple[PartStatus, ...], present: tuple[PartStatus, ...]) -> None:
        if present == known:
            return
        self._shown = present
        if self._live is not None:
            self._live.update(_table(present), refresh=True)
            return
        before = {status.name: status.state for status in known}
        for status in present:
            if status.state not in (before.get(status.name), "pending"):
                self._console.print(f"{status.name:<22} {status.state:<11} {status.address}")
                if status.state == "waiting" and status.waits_for:
                    self._console.print(f"{'':<22} {status.waits_for}")


def _table(statuses: tuple[PartStatus, ...]) -> Grid:
    table = Grid(collapse_padding=True)  # so that it fits 80 columns
    table.add_column("part", style="bold")
    table.add_column("state", min_width=10)
    table.add_column("listens on", min_width=22)
    table.add_column("process", justify="right", min_width=7)
    table.add_column("restarts", justify="right", min_width=8)
    for status in statuses:
        style = STATE_STYLES.get(status.state, OTHER_STYLE)
        restarts = styled((status.restarts, "bold red" if status.restarts else "dim"))
        table.add_row(
            status.name,
            styled((status.state, style)),
            status.address,
            str(status.pid) if status.pid is not None else styled(("–", "dim")),
            restarts,
        )
    return table
