"""What could not be handled, and what to do about it? ``settle dead-letters list|show|redrive|discard``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli import settings
from cli.settings import DataOption

if TYPE_CHECKING:
    from rich.console import Console

    from dead_letters.letters import Letter, Wanted

app = typer.Typer(help="See what could not be handled, send it back or give it up.", no_args_is_help=True)

IdsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ID]...", help="TOPIC/PARTITION@OFFSET, message ID or payment ID.", show_default=False
    ),
]
TopicOption = Annotated[str | None, typer.Option(help="Only those of this topic (the original's).")]
TypeOption = Annotated[str | None, typer.Option("--type", help="Only those of this event type.")]
ReasonOption = Annotated[str | None, typer.Option(help="Only those whose reason or error contains this.")]
AllOption = Annotated[bool, typer.Option("--all", help="All that are open.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(name="list")
def list_(
    ids: IdsArgument = None,
    topic: TopicOption = None,
    event_type: TypeOption = None,
    reason: ReasonOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are redriven or discarded.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at the most, the newest.")] = 50,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List the dead letters that wait for someone, the oldest first."""
    from rich.console import Console

    chosen = _chosen(_wanted(ids, topic, event_type, reason), data)
    found = [letter for letter in chosen if everything or letter.open]
    if as_json:
        print(json.dumps([as_fields(letter) for letter in found[-limit:]], indent=2))
        return
    console = Console(highlight=False)
    if found:
        _print_table(found[-limit:], console)
    hidden = f"; the newest {limit} are shown, --limit shows more" if len(found) > limit else ""
    handled = f", {len(chosen) - len(found):,} handled" if not everything else ""
    wait = "" if everything else f" that {'waits' if len(found) == 1 else 'wait'}"
    console.print(f"{counted(len(found))}{wait}{handled}{hidden}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="As `list` names it.", show_default=False)],
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Show all that is known of a dead letter: why, where, when, headers and body."""
    from rich.console import Console

    for letter in _chosen(_wanted([name], None, None, None), data):
        if as_json:
            print(json.dumps(as_fields(letter), indent=2))
        else:
            _print_letter(letter, Console(highlight=False, soft_wrap=True))


@app.command()
def redrive(
    ids: IdsArgument = None,
    topic: TopicOption = None,
    event_type: TypeOption = None,
    reason: ReasonOption = None,
    everything: AllOption = False,
    data: DataOption = None,
) -> None:
    """Send originals back to their partition, each once, and put that on record."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    import failpoints
    from dead_letters.redrive import redrive as send_back

    failpoints.arm_from_environment()
    letters = _meant(_wanted(ids, topic, event_type, reason), everything, data)
    console = Console(highlight=False)
    columns = (TextColumn("redriving"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(letters))
        sent = send_back(settings.kafka_bootstrap(data), letters, lambda count: progress.advance(task, count))
    earlier = len(letters) - sent
    console.print(
        f"{counted(sent)} redriven"
        + (f"; {earlier:,} had been sent by a redrive that was interrupted" if earlier else "")
    )


@app.command()
def discard(
    ids: IdsArgument = None,
    topic: TopicOption = None,
    event_type: TypeOption = None,
    reason: ReasonOption = None,
    everything: AllOption = False,
    note: Annotated[str | None, typer.Option(help="Why; kept on record.")] = None,
    data: DataOption = None,
) -> None:
    """Put on record that nobody needs to look at these; they stay where they are, and can be redriven yet."""
    from dead_letters.redrive import discard as give_up

    letters = _meant(_wanted(ids, topic, event_type, reason), everything, data)
    give_up(settings.kafka_bootstrap(data), letters, note)
    print(f"{counted(len(letters))} discarded")


def counted(number: int) -> str:
    """So many dead letters."""
    return f"{number:,} dead letter{'' if number == 1 else 's'}"


def as_fields(letter: Letter) -> dict[str, object]:
    """What ``--json`` prints of a letter."""
    import msgspec

    return {
        "id": letter.id,
        "topic": letter.record.topic,
        "partition": letter.record.partition,
        "offset": letter.record.offset,
        "event_type": letter.event_type,
        "message_id": letter.message_id,
        "payment_id": letter.payment_id,
        "trace_id": letter.trace_id,
        "refusals": msgspec.to_builtins(letter.refusals),
        "state": letter.handled.action if letter.handled else "open",
        "handled": msgspec.to_builtins(letter.handled),
        "key": _text(letter.record.key),
        "headers": [[name, _text(value)] for name, value in letter.record.headers],
        "body": _text(letter.record.value),
    }


def _wanted(ids: list[str] | None, topic: str | None, event_type: str | None, reason: str | None) -> Wanted:
    from dead_letters.letters import Wanted

    return Wanted(tuple(ids or ()), topic, event_type, reason)


def _chosen(wanted: Wanted, data: DataOption) -> list[Letter]:
    from dead_letters.letters import choose, read_letters

    return choose(read_letters(settings.kafka_bootstrap(data)), wanted)


def _meant(wanted: Wanted, everything: bool, data: DataOption) -> list[Letter]:
    """Those to act on: what is named, or the open ones that fit."""
    from dead_letters.errors import DeadLetterError

    if wanted.anything and not everything:
        raise DeadLetterError("say which dead letters: IDs, --topic, --type, --reason, or --all")
    chosen = _chosen(wanted, data)
    return chosen if wanted.ids else [letter for letter in chosen if letter.open]


def _print_table(letters: list[Letter], console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("dead letter", overflow="fold")
    table.add_column("refused (UTC)", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=1)
    for letter in letters:
        first = letter.refusals[0]
        services = ", ".join(dict.fromkeys(refusal.service for refusal in letter.refusals))
        why = Text(f"{services}: {_safe(first.reason)}")
        if first.error:
            why.append(f"\n{_safe(first.error)}", style="dim")
        if letter.handled is not None:
            why.append(f"\n{letter.handled.action} {letter.handled.at:%Y-%m-%d %H:%M:%S}", style="green")
        name = Text(letter.id, style="bold").append(
            f"\n{_safe(letter.event_type or 'no type')}", style="not bold dim"
        )
        table.add_row(name, f"{first.at:%Y-%m-%d\n%H:%M:%S}" if first.at else "unknown", why)
    console.print(table)


def _print_letter(letter: Letter, console: Console) -> None:
    from rich.text import Text

    def line(name: str, value: str | None, style: str = "") -> None:
        console.print(Text(f"{name:<12}", style="bold").append(_safe(value or "–"), style=style))

    line("dead letter", letter.id)
    line("type", letter.event_type)
    line("payment", letter.payment_id)
    line("message", letter.message_id)
    line("trace", letter.trace_id)
    for refusal in letter.refusals:
        at = f", {refusal.at:%Y-%m-%d %H:%M:%S} UTC" if refusal.at else ""
        line("refused by", f"{refusal.service}{at}: {refusal.reason}")
        if refusal.error:
            line("", refusal.error, "dim")
    done = letter.handled
    if done is None:
        line("state", "open")
    else:
        to = f" to {done.place}" if done.place else ""
        note = f": {done.note}" if done.note else ""
        line("state", f"{done.action} {done.at:%Y-%m-%d %H:%M:%S} UTC{to}{note}")
    line("key", _text(letter.record.key))
    for name, value in letter.record.headers:
        line("header", f"{name}: {_text(value)}")
    line("body", _pretty(letter.record.value))


def _pretty(value: bytes | None) -> str | None:
    try:
        return "\n" + json.dumps(json.loads(value or b""), indent=2, ensure_ascii=False)
    except ValueError:
        return _text(value)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")


def _safe(text: str) -> str:
    """Nothing that a terminal would obey: a dead letter may hold anything."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
