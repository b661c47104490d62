"""``settle dead-letters list|show|redrive|discard``: dead letters, listed, redriven and discarded."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cli import settings
from cli.confirm import YesOption
from cli.errors import BadInputError
from cli.remote import LONG_S, NAMED, PAGE, ApiOption, WhyOption, ask, entries, portions
from cli.remote import reason as because
from cli.settings import DataOption
from cli.text import plain, say, say_json
from operations.dead_letters.warning import UNVERIFIED

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from cli.screen import Screen
    from operations.dead_letters.actions import Action, Done
    from operations.dead_letters.letters import Wanted
    from operations.dead_letters.pages import State
    from operations.dead_letters.view import DeadLetter

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

PATH = "/v1/dead-letters"

CONTENTS_PAGE = 20
"""Letters of a page with their contents, each some 1 MiB at the most."""

KINDS_MAX = 20
"""Pairs of topic and reason that the confirmation prompt lists; the rest is counted."""
REASON_MAX = 200
BODY_MAX = 64 * 1024
"""Characters of a value that ``show`` prints; ``--json`` prints all of it."""
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
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """List the dead letters that wait for someone, the oldest first."""
    from cli.screen import Screen
    from operations.dead_letters.pages import ALL, OPEN

    state: State = ALL if everything else OPEN
    found = _find(_wanted(ids, topic, event_type, reason), state, limit, data, api, contents=as_json)
    if as_json:
        say_json([as_fields(letter) for letter in found.letters])
        return
    console = Screen()
    if found.letters:
        _print_table(found.letters, console)
    hidden = f"; the newest {limit} are shown, --limit shows more" if found.total > limit else ""
    handled = f", {found.handled:,} handled" if not everything else ""
    wait = "" if everything else f" that {'waits' if found.total == 1 else 'wait'}"
    console.print(f"{counted(found.total)}{wait}{handled}{hidden}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="As `list` names it.", show_default=False)],
    as_json: JsonOption = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Show all that is known of a dead letter: why, where, when, headers and body."""
    from operations.dead_letters.pages import ALL

    for letter in _find(_wanted([name], None, None, None), ALL, None, data, api, contents=True).letters:
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
    unverified: Annotated[bool, typer.Option("--unverified", help=UNVERIFIED)] = False,
    yes: YesOption = False,
    api: ApiOption = None,
    why: WhyOption = None,
    data: DataOption = None,
) -> None:
    """Send originals back to their partition, each once, and put that on record; asks unless IDs are named."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from cli.screen import Screen
    from contracts import failpoints

    failpoints.arm_from_environment()
    note = because(why) if api is not None else None
    warning = UNVERIFIED if unverified else None
    names = _agreed("redrive", _wanted(ids, topic, event_type, reason), everything, yes, data, api, warning)
    console = Screen()
    columns = (TextColumn("redriving"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(names))
        done = _act(
            "redrive", names, note, data, api, lambda count: progress.advance(task, count), unverified=unverified
        )
    earlier = sum(one.earlier for one in done)
    console.print(
        f"{counted(sum(one.error is None for one in done) - earlier)} redriven"
        + (f"; {earlier:,} had been sent by a redrive that was interrupted" if earlier else "")
    )
    _refuse_errors(done)


@app.command()
def discard(
    ids: IdsArgument = None,
    topic: TopicOption = None,
    event_type: TypeOption = None,
    reason: ReasonOption = None,
    everything: AllOption = False,
    note: Annotated[str | None, typer.Option("--note", "--why", help="Why; kept on record.")] = None,
    yes: YesOption = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Put on record that nobody needs to look at these; they stay where they are, and can be redriven yet."""
    if api is not None:
        note = because(note)
    names = _agreed("discard", _wanted(ids, topic, event_type, reason), everything, yes, data, api)
    done = _act("discard", names, note, data, api)
    say(f"{counted(sum(one.error is None for one in done))} discarded")
    _refuse_errors(done)


def counted(number: int) -> str:
    """A number of dead letters, as text."""
    return f"{number:,} dead letter{'' if number == 1 else 's'}"


def as_fields(letter: DeadLetter) -> object:
    """What ``--json`` prints of a letter."""
    import msgspec

    return msgspec.to_builtins(letter)


class _Found(NamedTuple):
    """Dead letters, the oldest first; how many match, and how many of those are handled."""

    letters: list[DeadLetter]
    total: int
    handled: int


def _wanted(ids: list[str] | None, topic: str | None, event_type: str | None, reason: str | None) -> Wanted:
    from operations.dead_letters.letters import Wanted

    return Wanted(tuple(ids or ()), topic, event_type, reason)


def _find(
    wanted: Wanted, state: State, limit: int | None, data: Path | None, api: str | None, *, contents: bool = False
) -> _Found:
    """The newest dead letters that match; without a limit, all of them."""
    from operations.dead_letters.pages import page
    from operations.dead_letters.view import view

    if api is not None:
        return _find_by_api(api, wanted, state, limit, contents)
    found = page(settings.kafka_bootstrap(data), wanted, state, limit)
    letters = [view(letter, contents=contents) for letter in reversed(found.letters)]
    return _Found(letters, found.total, found.handled)


def _find_by_api(api: str, wanted: Wanted, state: State, limit: int | None, contents: bool) -> _Found:
    import msgspec

    from operations.dead_letters.pages import ALL, HANDLED

    most = limit if limit is not None else sys.maxsize
    if len(wanted.ids) <= NAMED:
        return _listed(api, wanted, state, most, contents)
    every: dict[str, DeadLetter] = {}
    for ids in portions(wanted.ids, NAMED):
        some = _listed(api, msgspec.structs.replace(wanted, ids=ids), ALL, sys.maxsize, contents)
        every |= {letter.id: letter for letter in some.letters}
    handled = {letter.id for letter in every.values() if letter.handled is not None and letter.handled.final}
    letters = [one for one in every.values() if state == ALL or (one.id in handled) == (state == HANDLED)]
    return _Found(letters[-most:], len(letters), len(handled))


def _listed(api: str, wanted: Wanted, state: State, most: int, contents: bool) -> _Found:
    """The newest dead letters of a list that one request can ask for."""
    import msgspec

    from operations.dead_letters.view import DeadLetter

    asked = {
        "id": wanted.ids or None,
        "topic": wanted.topic,
        "event_type": wanted.event_type,
        "reason": wanted.reason,
        "state": state,
        "contents": contents,
    }
    size = CONTENTS_PAGE if contents else PAGE
    found, first = entries(api, PATH, "dead_letters", most, size, patience_s=LONG_S, **asked)
    letters = msgspec.convert(found, list[DeadLetter])
    return _Found(letters[::-1], first["total"], first["handled"])


def _act(
    action: Action,
    names: list[str],
    note: str | None,
    data: Path | None,
    api: str | None,
    progress: Callable[[int], None] = lambda _: None,
    *,
    unverified: bool = False,
) -> list[Done]:
    """What came of each of these letters; no other is touched."""
    import msgspec

    from operations.dead_letters.actions import Done, act

    if api is None:
        return act(settings.kafka_bootstrap(data), action, names, note, progress, unverified=unverified)
    more = {"unverified": True} if unverified else {}
    found: list[Any] = []
    for some in portions(names):
        asked = {"ids": some, "reason": note, **more}
        found += ask(api, "POST", f"{PATH}/{action}", asked, patience_s=LONG_S)["results"]
        progress(len(some))
    return msgspec.convert(found, list[Done])


def _refuse_errors(done: list[Done]) -> None:
    """End with the first error of those that were not done."""
    if wrong := [one for one in done if one.error is not None]:
        more = f"; nor were {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise BadInputError(f"dead letter {wrong[0].id}: {wrong[0].error}{more}")


def _agreed(
    verb: str,
    wanted: Wanted,
    everything: bool,
    yes: bool,
    data: Path | None,
    api: str | None,
    warning: str | None = None,
) -> list[str]:
    """The letters to act on: those named, or the open ones that match, once a person has confirmed.

    Args:
        verb: the action.
        wanted: the filter.
        everything: whether it may be empty.
        yes: whether it was confirmed on the command line.
        data: of the local stack.
        api: URL of the API that is asked instead.
        warning: what has to be confirmed also of letters that are named.
    """
    from cli.confirm import confirm
    from operations.dead_letters.errors import DeadLetterError
    from operations.dead_letters.pages import ALL, OPEN

    if wanted.anything and not everything:
        raise DeadLetterError("say which dead letters: IDs, --topic, --type, --reason, or --all")
    letters = _find(wanted, ALL if wanted.ids else OPEN, None, data, api).letters
    if not letters or yes or (wanted.ids and warning is None):
        return [letter.id for letter in letters]
    _print_summary(letters)
    if warning is not None:
        say(warning)
    confirm(f"{verb} {counted(len(letters))}", yes=yes)
    if wanted.ids:
        return [letter.id for letter in letters]
    # Newer letters were not shown; those that somebody else has handled since are not touched again.
    still_open = {letter.id for letter in _find(wanted, OPEN, None, data, api).letters}
    return [letter.id for letter in letters if letter.id in still_open]


def _print_summary(letters: list[DeadLetter]) -> None:
    """Print counts by topic and reason, the most frequent first."""
    from cli.screen import Grid, Screen

    table = Grid()
    table.add_column("dead letters", justify="right")
    table.add_column("topic", overflow="fold")
    table.add_column("why", overflow="fold", ratio=1)
    kinds = Counter((letter.topic, letter.refusals[0].reason[:REASON_MAX]) for letter in letters)
    for (topic, reason), count in kinds.most_common(KINDS_MAX):
        table.add_row(f"{count:,}", topic, reason)
    if len(kinds) > KINDS_MAX:
        rest = sum(count for _, count in kinds.most_common()[KINDS_MAX:])
        table.add_row(f"{rest:,}", "", f"of {len(kinds) - KINDS_MAX:,} more kinds")
    Screen().print(table)


def _print_table(letters: list[DeadLetter], console: Screen) -> None:
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


def _print_letter(letter: DeadLetter) -> None:
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
    line("key", letter.key)
    for name, value in letter.headers:
        line("header", f"{name}: {value}")
    if (pretty := _pretty(letter.body)) is None:
        line("body", letter.body)
    else:
        say("body")
        for one in pretty.splitlines():
            say(one)


def in_utc(at: datetime) -> str:
    """A time for a table whose head says that it is UTC."""
    from processors.runtime import utc

    return f"{utc.in_utc(at):%Y-%m-%d %H:%M:%S}"


def _pretty(body: str | None) -> str | None:
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
