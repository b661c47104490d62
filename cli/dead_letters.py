"""``settle dead-letters list|show|redrive|discard``: dead letters, listed, redriven and discarded."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from cli import settings
from cli.confirm import YesOption
from cli.settings import DataOption
from cli.text import plain, say, say_json

if TYPE_CHECKING:
    from datetime import datetime

    from cli.screen import Screen
    from operations.dead_letters.letters import Letter, Wanted

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

KINDS_MAX = 20
"""Pairs of topic and reason that the confirmation prompt lists; the rest is counted."""
REASON_MAX = 200
BODY_MAX = 64 * 1024
"""Bytes of a value that ``show`` prints; ``--json`` prints all of it."""
PRETTY_MAX = 4 * BODY_MAX


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
    from cli.screen import Screen

    chosen = _chosen(_wanted(ids, topic, event_type, reason), data)
    found = [letter for letter in chosen if everything or letter.open]
    if as_json:
        say_json([as_fields(letter) for letter in found[-limit:]])
        return
    console = Screen()
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
    for letter in _chosen(_wanted([name], None, None, None), data):
        if as_json:
            say_json(as_fields(letter))
        else:
            _print_letter(letter)


@app.command()
def redrive(
    ids: IdsArgument = None,
    topic: TopicOption = None,
    event_type: TypeOption = None,
    reason: ReasonOption = None,
    everything: AllOption = False,
    yes: YesOption = False,
    data: DataOption = None,
) -> None:
    """Send originals back to their partition, each once, and put that on record; asks unless IDs are named."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from cli.screen import Screen
    from contracts import failpoints
    from operations.dead_letters.redrive import redrive as send_back

    failpoints.arm_from_environment()
    letters = _agreed("redrive", _wanted(ids, topic, event_type, reason), everything, yes, data)
    console = Screen()
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
    yes: YesOption = False,
    data: DataOption = None,
) -> None:
    """Put on record that nobody needs to look at these; they stay where they are, and can be redriven yet."""
    from operations.dead_letters.redrive import discard as give_up

    letters = _agreed("discard", _wanted(ids, topic, event_type, reason), everything, yes, data)
    give_up(settings.kafka_bootstrap(data), letters, note)
    say(f"{counted(len(letters))} discarded")


def counted(number: int) -> str:
    """A number of dead letters, as text."""
    return f"{number:,} dead letter{'' if number == 1 else 's'}"


def as_fields(letter: Letter) -> object:
    """What ``--json`` prints of a letter."""
    import msgspec

    from operations.dead_letters.view import view

    return msgspec.to_builtins(view(letter))


def _wanted(ids: list[str] | None, topic: str | None, event_type: str | None, reason: str | None) -> Wanted:
    from operations.dead_letters.letters import Wanted

    return Wanted(tuple(ids or ()), topic, event_type, reason)


def _chosen(wanted: Wanted, data: DataOption) -> list[Letter]:
    from operations.dead_letters.letters import choose, read_letters

    return choose(read_letters(settings.kafka_bootstrap(data)), wanted)


def _agreed(verb: str, wanted: Wanted, everything: bool, yes: bool, data: DataOption) -> list[Letter]:
    """The letters to act on: those named, or the open ones that match, once a person has confirmed."""
    from cli.confirm import confirm
    from operations.dead_letters.errors import DeadLetterError
    from operations.dead_letters.letters import still_open

    if wanted.anything and not everything:
        raise DeadLetterError("say which dead letters: IDs, --topic, --type, --reason, or --all")
    chosen = _chosen(wanted, data)
    if wanted.ids:
        return chosen
    letters = [letter for letter in chosen if letter.open]
    if not letters or yes:
        return letters
    _print_summary(letters)
    confirm(f"{verb} {counted(len(letters))}", yes=yes)
    # Newer letters were not shown; those that somebody else has handled since are not touched again.
    return still_open(settings.kafka_bootstrap(data), letters)


def _print_summary(letters: list[Letter]) -> None:
    """Print counts by topic and reason, the most frequent first."""
    from cli.screen import Grid, Screen

    table = Grid()
    table.add_column("dead letters", justify="right")
    table.add_column("topic", overflow="fold")
    table.add_column("why", overflow="fold", ratio=1)
    kinds = Counter((letter.record.topic, letter.refusals[0].reason[:REASON_MAX]) for letter in letters)
    for (topic, reason), count in kinds.most_common(KINDS_MAX):
        table.add_row(f"{count:,}", topic, reason)
    if len(kinds) > KINDS_MAX:
        rest = sum(count for _, count in kinds.most_common()[KINDS_MAX:])
        table.add_row(f"{rest:,}", "", f"of {len(kinds) - KINDS_MAX:,} more kinds")
    Screen().print(table)


def _print_table(letters: list[Letter], console: Screen) -> None:
    from cli.screen import Grid, lines, styled

    table = Grid()
    table.add_column("dead letter", overflow="fold")
    table.add_column("refused (UTC)", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=1)
    for letter in letters:
        first = letter.refusals[0]
        services = ", ".join(dict.fromkeys(refusal.service for refusal in letter.refusals))
        why = [styled(f"{services}: {first.reason}")]
        if first.error:
            why.append(styled((first.error, "dim")))
        if letter.handled is not None:
            why.append(styled((f"{letter.handled.action} {in_utc(letter.handled.at)}", "green")))
        name = lines(styled((letter.id, "bold")), styled((letter.event_type or "no type", "dim")))
        table.add_row(name, lines(*in_utc(first.at).split()) if first.at else "unknown", lines(*why))
    console.print(table)


def _print_letter(letter: Letter) -> None:
    from operations.dead_letters.view import text

    def line(name: str, value: str | None) -> None:
        say(f"{name:<12}{plain(value, BODY_MAX) if value else '–'}")

    line("dead letter", letter.id)
    line("type", letter.event_type)
    line("payment", letter.payment_id)
    line("message", letter.message_id)
    line("trace", letter.trace_id)
    for refusal in letter.refusals:
        at = f", {in_utc(refusal.at)} UTC" if refusal.at else ""
        line("refused by", f"{refusal.service}{at}: {refusal.reason}")
        if refusal.error:
            line("", refusal.error)
    done = letter.handled
    if done is None:
        line("state", "open")
    else:
        to = f" to {done.place}" if done.place else ""
        note = f": {done.note}" if done.note else ""
        line("state", f"{done.action} {in_utc(done.at)} UTC{to}{note}")
    line("key", text(letter.record.key))
    for name, value in letter.record.headers:
        line("header", f"{name}: {text(value)}")
    if (pretty := _pretty(letter.record.value)) is None:
        line("body", text(letter.record.value))
    else:
        say("body")
        for one in pretty.splitlines():
            say(one)


def in_utc(at: datetime) -> str:
    """A time for a table whose head says that it is UTC."""
    from processors.runtime import utc

    return f"{utc.in_utc(at):%Y-%m-%d %H:%M:%S}"


def _pretty(body: bytes | None) -> str | None:
    """A JSON body, indented; None where that would lose something, or be far longer."""
    if not body or len(body) > BODY_MAX:
        return None
    pretty, size = [], 0
    try:
        for part in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(body)):
            pretty.append(part)
            size += len(part)
            if size > PRETTY_MAX:
                return None
    except (ValueError, RecursionError):
        return None
    return "".join(pretty)
