"""The commands of control: ``outbox-relay pause|resume|rewind|skip|status|acts|dead|slot``."""

import getpass
import json
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any

import typer

from contracts.redaction import hide
from outbox_relay.control import acts
from outbox_relay.control.acts import Asked, Result, SourceStatus
from outbox_relay.control.table import Act
from outbox_relay.errors import RefusedError, RelayError
from outbox_relay.options import NOT_DONE, Settings, with_settings
from outbox_relay.plan import plan
from outbox_relay.source_settings import SourceSettings

WAIT_S = 5.0
"""How long a command waits by default for a relay to do what was asked."""
LOOK_S = 0.1
ACTS_SHOWN = 50

_PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "no_args_is_help": True}
app = typer.Typer(help="Control of a relay that runs.", **_PLAIN)
dead_app = typer.Typer(help="Quarantined rows: those that can never be published, or were skipped.", **_PLAIN)
slot_app = typer.Typer(help="The slot, for which the server keeps its log.", **_PLAIN)
app.add_typer(dead_app, name="dead")
app.add_typer(slot_app, name="slot")

OnlyOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which source, as `status` calls it; not needed for one alone.")
]
ReasonOption = Annotated[str | None, typer.Option(help="Why; for whoever finds it later.")]
ByOption = Annotated[str | None, typer.Option(help="Who asks. Default: the user and the host.")]
WaitOption = Annotated[float, typer.Option(min=0, help="How long to wait until a relay has done it, seconds.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RowsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ROW]...", help="As `dead list` shows them.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="All rows that are dead now.")]


def pause(
    settings: Settings,
    only: OnlyOption = None,
    reason: ReasonOption = None,
    by: ByOption = None,
    wait: WaitOption = WAIT_S,
    as_json: JsonOption = False,
) -> None:
    """Publish nothing more until `resume`, whatever restarts or takes over; the slot keeps its place."""
    source = _one(settings, only)
    _report(source, lambda: acts.pause(source, _asked(by, reason)), wait, as_json)


def resume(
    settings: Settings,
    only: OnlyOption = None,
    reason: ReasonOption = None,
    by: ByOption = None,
    wait: WaitOption = WAIT_S,
    as_json: JsonOption = False,
) -> None:
    """Go on from where the source was paused."""
    source = _one(settings, only)
    _report(source, lambda: acts.resume(source, _asked(by, reason)), wait, as_json)


def rewind(
    settings: Settings,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Rows written then or later, as 2026-11-28T10:00:00Z.")
    ] = None,
    row: Annotated[str | None, typer.Option(metavar="ID", help="This row, and those after it.")] = None,
    only: OnlyOption = None,
    reason: ReasonOption = None,
    by: ByOption = None,
    wait: WaitOption = WAIT_S,
    as_json: JsonOption = False,
) -> None:
    """Publish rows again that the table still holds, in their order and with their IDs."""
    source = _one(settings, only)
    _report(
        source, lambda: acts.rewind(source, _asked(by, reason), since=as_time(since), row_id=row), wait, as_json
    )


def skip(
    settings: Settings,
    row: Annotated[str, typer.Argument(metavar="ID", help="Of the row.", show_default=False)],
    only: OnlyOption = None,
    reason: ReasonOption = None,
    by: ByOption = None,
    wait: WaitOption = WAIT_S,
    as_json: JsonOption = False,
) -> None:
    """Quarantine a row instead of publishing it, also one at which the source is stuck."""
    source = _one(settings, only)
    _report(source, lambda: acts.skip(source, _asked(by, reason), row), wait, as_json)


def status(settings: Settings, only: OnlyOption = None, as_json: JsonOption = False) -> None:
    """Show each source: state, position, lag, and what is asked of it."""
    found = [acts.status(one) for one in _some(settings, only)]
    if as_json:
        _print_json(found)
    else:
        typer.echo(hide("\n".join(line for one in found for line in lines(one))))
    if any(one.outbox is None for one in found):
        raise typer.Exit(NOT_DONE)


def acts_(settings: Settings, only: OnlyOption = None, as_json: JsonOption = False) -> None:
    """Show what was asked of a source, by whom and why, and what came of it; the newest first."""
    found = acts.history(_one(settings, only), ACTS_SHOWN)
    if as_json:
        _print_json(found)
        return
    for one in found:
        typer.echo(hide(act_line(one)))


def list_(settings: Settings, only: OnlyOption = None, as_json: JsonOption = False) -> None:
    """List the quarantined rows, the oldest first."""
    found = acts.dead_rows(_one(settings, only))
    if as_json:
        _print_json([{"name": one.name, **asdict(one)} for one in found])
        return
    for one in found:
        typer.echo(hide(f"{one.name}  {_time(one.died_at)}  {one.reason}"))


def retry(
    settings: Settings,
    rows: RowsArgument = None,
    everything: AllOption = False,
    only: OnlyOption = None,
    reason: ReasonOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put rows back at the end of the outbox: they are published, with their IDs."""
    source = _one(settings, only)
    _report(source, lambda: acts.retry(source, _asked(by, reason), _chosen(rows, everything)), 0, as_json)


def discard(
    settings: Settings,
    rows: RowsArgument = None,
    everything: AllOption = False,
    only: OnlyOption = None,
    reason: ReasonOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete rows for good."""
    source = _one(settings, only)
    _report(source, lambda: acts.discard(source, _asked(by, reason), _chosen(rows, everything)), 0, as_json)


def drop(
    settings: Settings,
    only: OnlyOption = None,
    reason: ReasonOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop a slot that no relay reads any more, so that the server can remove its log."""
    source = _one(settings, only)
    _report(source, lambda: acts.drop_slot(source, _asked(by, reason)), 0, as_json)


for _command, _in, _name in (
    (pause, app, "pause"),
    (resume, app, "resume"),
    (rewind, app, "rewind"),
    (skip, app, "skip"),
    (status, app, "status"),
    (acts_, app, "acts"),
    (list_, dead_app, "list"),
    (retry, dead_app, "retry"),
    (discard, dead_app, "discard"),
    (drop, slot_app, "drop"),
):
    _in.command(_name)(with_settings(_command))


@dataclass(frozen=True)
class Ended:
    """What a command reports: the act, and what came of it as far as it was waited for."""

    source: str
    act: int | None
    state: str
    text: str


def as_time(text: str | None) -> datetime | None:
    """A time with its zone.

    Raises:
        RelayError: it is none.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise RelayError("that is no time such as 2026-11-28T10:00:00Z") from None
    if found.tzinfo is None:
        raise RelayError("the time has no zone, as in 2026-11-28T10:00:00Z")
    return found


def lines(one: SourceStatus) -> Iterable[str]:
    """Where a source stands, for people."""
    if one.outbox is None:
        yield f"{one.source}: cannot be asked: {one.trouble}"
        return
    found = one.outbox
    kept = f"{found.retained_bytes:,} bytes of log kept" if found.retained_bytes is not None else "no slot"
    behind = f"{found.lag_bytes:,} bytes behind" if found.lag_bytes is not None else "position not known"
    oldest = f", the oldest {one.oldest_s:,.0f} s old" if one.oldest_s is not None else ""
    yield (
        f"{one.source}: {one.state}; {found.confirmed_lsn or 'no position'}, {behind}, {kept}; "
        f"{found.rows:,} rows{oldest}; {found.dead_rows:,} dead"
    )
    if one.paused is not None:
        yield f"  paused at {_time(one.paused.at)} by {one.paused.by}"
    for act in one.pending:
        yield f"  waits for a relay that reads: {act_line(act)}"
    for text in (found.gap, one.trouble):
        if text is not None:
            yield f"  {text}"


def act_line(one: Act) -> str:
    """An act and what came of it, for people."""
    about = one.row_id or (_time(one.since) if one.since is not None else None)
    what = one.act if about is None else f"{one.act} {about}"
    return f"{one.number}  {_time(one.at)}  {what}, by {one.by} ({one.role}): {one.outcome or 'not yet'}"


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%F %T} UTC"


def _asked(by: str | None, reason: str | None) -> Asked:
    return Asked(by if by is not None else _user(), reason)


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # in a container without a name for the user
        name = "somebody"
    return f"{name}@{socket.gethostname()}"


def _some(settings: Settings, only: str | None) -> Sequence[SourceSettings]:
    sources = plan(settings()).sources
    if only is None:
        return sources
    found = [one for one in sources if one.name == only]
    if not found:
        raise RelayError(f"there is no source of that name; there are: {_names(sources)}")
    return found


def _one(settings: Settings, only: str | None) -> SourceSettings:
    found = _some(settings, only)
    if len(found) > 1:
        raise RelayError(f"which source? Say --only NAME, of: {_names(found)}")
    return found[0]


def _names(sources: Sequence[SourceSettings]) -> str:
    return ", ".join(str(one.name) for one in sources)


def _chosen(rows: list[str] | None, everything: bool) -> list[str] | None:
    if bool(rows) == everything:
        raise RelayError("name the rows as `dead list` shows them, or pass --all")
    return rows or None


def _report(source: SourceSettings, do: Callable[[], Result], wait_s: float, as_json: bool) -> None:
    """Do it, wait a little for a relay to do its part, and say what came of it."""
    try:
        result = do()
    except RefusedError as error:
        if not as_json:
            raise
        _print_json(Ended(str(source.name), None, "refused", str(error)))
        raise typer.Exit(NOT_DONE) from None
    act = _awaited(source, result, wait_s)
    text = result.text
    if act is not None and act.outcome is not None:
        ended = Ended(result.source, result.act, act.ended or result.state, act.outcome)
    elif result.state == "asked":
        ended = Ended(result.source, result.act, result.state, f"{text}: no relay that reads has done it yet")
    else:
        ended = Ended(result.source, result.act, result.state, text)
    if as_json:
        _print_json(ended)
    else:
        typer.echo(hide(f"{ended.source}: {ended.text}" + (f" ({text})" if ended.text != text else "")))
    if ended.state == "refused":
        raise typer.Exit(NOT_DONE)


def _awaited(source: SourceSettings, result: Result, wait_s: float) -> Act | None:
    give_up = time.monotonic() + wait_s
    while result.act is not None and result.state == "asked":
        act = acts.find(source, result.act)
        if (act is not None and act.ended is not None) or time.monotonic() >= give_up:
            return act
        time.sleep(LOOK_S)
    return None


def _print_json(what: object) -> None:
    def plain(value: object) -> object:
        if isinstance(value, datetime):
            return value.astimezone(UTC).isoformat()
        if isinstance(value, Enum):
            return value.value
        return asdict(value)  # type: ignore[call-overload]

    typer.echo(hide(json.dumps(what, indent=2, default=plain)))
