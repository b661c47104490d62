"""``settle chaos``: load, faults by a seeded plan, and checks afterwards that the promises held."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from cli.errors import FAILED, BadInputError
from cli.signals import on_end
from contracts.services import READ_BY

if TYPE_CHECKING:
    from cli.screen import Screen
    from lab.chaos.plan import Options
    from lab.chaos.run import Report

PARTS = ("broker", "database", "relay", *READ_BY)


def chaos(
    minutes: Annotated[float, typer.Option(help="How long the load runs.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same plan.")] = 1,
    kill: Annotated[
        str,
        typer.Option(
            help=f"Who suffers: {', '.join(PARTS)}.",
            show_default="all of them",
        ),
    ] = ",".join(PARTS),
    pause: Annotated[bool, typer.Option("--pause", help="Also freeze parts (SIGSTOP, SIGCONT).")] = False,
    provider_faults: Annotated[
        bool, typer.Option("--provider-faults", help="A slow provider that often does not answer.")
    ] = False,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Requests twice, and records of any topic again.")
    ] = False,
    rolling: Annotated[
        bool, typer.Option("--rolling", help="No faults: restart every service in turn; p99 must stay under 2 s.")
    ] = False,
    operators: Annotated[
        bool,
        typer.Option("--operators", help="Also what people do: to tables, slots, rights, topics and clocks."),
    ] = False,
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 100.0,
    secure: Annotated[bool, typer.Option("--secure", help="On a secured stack, as `up --secure`.")] = False,
    through_api: Annotated[
        bool,
        typer.Option("--through-api", help="Requests through the HTTP API, which is hit too."),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.", dir_okay=False)
    ] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Print the plan and do nothing.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data folder; a run that fails keeps it.")] = False,
) -> None:
    """Break a stack of its own under load, wait until all is quiet, and prove that nothing was lost or doubled."""
    from cli.screen import Screen
    from lab.chaos.plan import ALIASES, Options

    names = (name.strip() for name in kill.split(",") if name.strip())
    parts = tuple(dict.fromkeys(ALIASES.get(name, name) for name in names))
    options = Options(
        minutes, seed, parts, pause, duplicates, provider_faults, rolling, operators, rate, secure, through_api
    )
    console = Screen()
    if json_file is not None and not json_file.resolve().parent.is_dir():
        raise BadInputError(f"{json_file} cannot be written: there is no folder {json_file.resolve().parent}")
    _print_plan(options, console)
    if only_plan:
        return
    on_end()
    folder = Path(tempfile.mkdtemp(prefix="settle-chaos-"))
    keeps = keep
    try:
        report = _run(options, folder, console)
        keeps = keep or not report.ok
        _print_report(report, console)
        if json_file is not None:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    except Exception:  # keep the logs, which show the cause; not after Ctrl-C
        keeps = True
        raise
    finally:
        if keeps:
            console.print(f"data and logs are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if not report.ok:
        raise typer.Exit(FAILED)


def _print_plan(options: Options, console: Screen) -> None:
    from cli.screen import Grid, styled
    from lab.chaos.plan import plan

    faults = plan(options)
    load = f"{options.minutes:g} minutes at {options.rate:g} requests a second"
    console.print(styled(("chaos", "bold"), f", seed {options.seed}: {load}, {len(faults)} faults planned"))
    table = Grid()
    table.add_column("at", justify="right")
    table.add_column("fault", overflow="fold")
    for fault in faults:
        table.add_row(f"{fault.at_s:.1f} s", fault.in_words())
    console.print(table)


def _run(options: Options, folder: Path, console: Screen) -> Report:
    from lab.chaos.run import Note, run

    def on_note(note: Note) -> None:
        console.print(f"{note.at_s:8.1f} s  {note.text}")

    console.print()
    console.print("starting a stack of its own", style="dim")
    return run(options, folder, on_note)


def _print_report(report: Report, console: Screen) -> None:
    from cli.screen import Grid, styled

    faults = Grid()
    faults.add_column("at", justify="right")
    faults.add_column("fault", style="bold", overflow="fold")
    faults.add_column("completing again after", justify="right")
    for one in report.faults:
        recovered = "never" if one.recovery_s is None else f"{one.recovery_s:.1f} s"
        faults.add_row(f"{one.fault.at_s:.1f} s", one.fault.in_words(), recovered)
    checks = Grid()
    checks.add_column("check", style="bold")
    checks.add_column("")
    checks.add_column("what was found", overflow="fold")
    for check in report.checks:
        checks.add_row(check.name, styled(("ok", "green") if check.ok else ("OFF", "bold red")), check.detail)
    console.print(faults)
    console.print(checks)
    outcomes = ", ".join(f"{count:,} {state}" for state, count in sorted(report.audit.outcomes.items()))
    latency = report.latency
    console.print(f"{report.audit.withdrawals:,} withdrawals ({outcomes}); {report.deaths} processes died")
    console.print(
        f"from request to end: p50 {latency.p50_s:.2f} s, p99 {latency.p99_s:.2f} s, longest {latency.max_s:.1f} s"
    )
    kept = ("the promises hold", "green") if report.ok else ("a promise is broken", "bold red")
    console.print(styled(f"seed {report.options.seed}: ", kept))
