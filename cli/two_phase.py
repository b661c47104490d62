"""``settle 2pc withdraw|in-doubt|recover``: two-phase commit, its transactions in doubt, and recovery.

Settle does not use two-phase commit; this is to try it. Its four databases (``two_phase_account``
and so on) are made beside the account database when they are first needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import settings
from cli.environment import InProductionOption, refuse_production
from cli.errors import BadInputError, CommandError
from cli.settings import DataOption
from cli.text import say, say_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.approaches.recovery import InDoubt

app = typer.Typer(help="Try two-phase commit, and its trouble: transactions in doubt.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

BALANCE_MINOR = 1_000_000


@app.command()
def withdraw(
    account: Annotated[str, typer.Option(help="Account ID; opened with 10,000.00 if it is new.")],
    amount: Annotated[str, typer.Option(help="Such as 100.00.")],
    die_at: Annotated[
        str | None,
        typer.Option("--die-at", metavar="POINT", help="Let the coordinator die there; any word lists them."),
    ] = None,
    in_production: InProductionOption = False,
    data: DataOption = None,
) -> None:
    """Withdraw by two-phase commit; with --die-at, leave participants in doubt. Not in production."""
    from contracts import failpoints
    from lab.approaches import tables
    from lab.approaches.connections import connect
    from lab.approaches.two_phase_commit import TwoPhaseCommit
    from lab.approaches.withdrawal import TryAgainError
    from producers.requests import new_request

    request = new_request(account, amount)
    if die_at is not None:
        prefix = "two-phase-commit."
        points = [name.removeprefix(prefix) for name in failpoints.FAILPOINTS if name.startswith(prefix)]
        if die_at not in points:
            raise BadInputError(f"--die-at {die_at}: not a point; it is one of {', '.join(points)}")
        failpoints.arm(prefix + die_at)
    refuse_production("settle 2pc withdraw makes databases and transactions in doubt", anyway=in_production)
    dsns = _databases(data)
    with connect(dsns["account"]) as db:
        tables.open_accounts(db, [account], BALANCE_MINOR)
    coordinator = TwoPhaseCommit(dsns)
    try:
        outcome = coordinator.withdraw(request)
    except TryAgainError as error:
        raise CommandError(f"{error}; `settle 2pc in-doubt` shows who waits for a decision") from None
    finally:
        coordinator.close()
    say(f"{request.payment_id}: {outcome.state}" + (f" ({outcome.reason})" if outcome.reason else ""))


@app.command(name="in-doubt")
def in_doubt(as_json: JsonOption = False, data: DataOption = None) -> None:
    """List prepared transactions that nobody has ended: since when, and how many requests wait for them."""
    from lab.approaches import recovery

    dsns = _databases_that_exist(data)
    _print(recovery.in_doubt(dsns) if dsns else [], as_json)


@app.command()
def recover(
    older_than: Annotated[
        float, typer.Option(min=0, help="Leave younger ones to their coordinator, seconds.")
    ] = 5.0,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Commit what the log says was decided, abort what it does not know; fail if something is left."""
    from lab.approaches import recovery

    dsns = _databases_that_exist(data)
    found = recovery.recover(dsns, older_than) if dsns else recovery.Recovered([], [])
    if as_json:
        settled = [_as_dict(one) | {"decision": decision} for one, decision in found.settled]
        say_json({"settled": settled, "unreachable": found.unreachable})
    else:
        for one, decision in found.settled:
            ended = "committed" if decision == "commit" else "aborted"
            say(f"{one.transaction_id} at {one.participant}: {ended} after {one.age_s:.1f} s in doubt")
        left = len(recovery.in_doubt(dsns)) if dsns else 0
        say(f"{len(found.settled)} settled, {left} left" + (f" (younger than {older_than:g} s)" if left else ""))
    if found.unreachable:
        raise CommandError(
            f"{' and '.join(found.unreachable)} did not answer, and may hold more; run this again when they do"
        )


def _databases(data: Path | None) -> dict[str, str]:
    """The databases' URLs by role, once all are there."""
    from lab.approaches.two_phase_commit import SCHEMAS
    from lab.comparison.databases import Server

    server = Server(settings.dsn("account", data))
    server.create({_database(role): schema for role, schema in SCHEMAS.items()}, fresh=False)
    return {role: server.dsn(_database(role)) for role in SCHEMAS}


def _databases_that_exist(data: Path | None) -> dict[str, str]:
    """The databases' URLs by role; empty where nobody has ever withdrawn like this."""
    from lab.approaches.two_phase_commit import SCHEMAS
    from lab.comparison.databases import Server

    server = Server(settings.dsn("account", data))
    if not server.any_exists([_database(role) for role in SCHEMAS]):
        return {}
    return {role: server.dsn(_database(role)) for role in SCHEMAS}


def _database(role: str) -> str:
    return f"two_phase_{role}"


def _print(found: Sequence[InDoubt], as_json: bool) -> None:
    from cli.screen import Grid, Screen

    if as_json:
        say_json([_as_dict(one) for one in found])
        return
    if not found:
        say("nothing is in doubt")
        return
    table = Grid(padding=(0, 1, 0, 0))
    table.add_column("transaction", style="bold", no_wrap=True)
    table.add_column("at", no_wrap=True)
    table.add_column("for", justify="right")
    table.add_column("waits", justify="right")
    table.add_column("log")
    for one in found:
        table.add_row(
            str(one.transaction_id),
            one.participant,
            f"{one.age_s:.1f} s",
            str(one.waiting),
            one.decision or "–",
        )
    console = Screen()
    console.print(table)
    console.print("Their locks stay until somebody decides: `settle 2pc recover`.")


def _as_dict(one: InDoubt) -> dict[str, object]:
    return one._asdict() | {"transaction_id": str(one.transaction_id), "prepared_at": one.prepared_at.isoformat()}
