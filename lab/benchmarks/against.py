"""This tree and another revision of it, measured in turn: the ratios of their figures, with spread.

Both run on this interpreter and its packages, each with its own code first on the path. They take turns, and the
one that begins changes each round, so what changes on the machine meanwhile meets both.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lab.benchmarks.machine import write

TREE = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "against.json"

MODULES = ("lab.benchmarks.pipeline", "benchmarks.pipeline")
"""The benchmark of the pipeline, by the names it has had."""

HERE, THERE = "this tree", "revision"

Figures = dict[str, float]


class BenchmarkError(Exception):
    """A revision that does not exist or whose benchmark fails; the text is for a person."""


def main(
    revision: Annotated[str, typer.Argument(help="Commit, branch or tag to compare this tree with.")],
    rounds: Annotated[
        int, typer.Option(min=1, help="Runs of each of the two; even, so that each begins as often.")
    ] = 4,
    window: Annotated[float, typer.Option(min=1, help="Length of one window of a run, seconds.")] = 8.0,
    repeats: Annotated[int, typer.Option(min=1, help="Windows of a run.")] = 3,
    warm_up: Annotated[float, typer.Option(min=1, help="Load before the first window, seconds.")] = 20.0,
    latency: Annotated[float, typer.Option(min=5, help="How long to measure latency, seconds.")] = 15.0,
    output: Annotated[Path, typer.Option("--json", help="Where to write the figures.")] = RESULTS,
) -> None:
    """Measure this tree and another revision in turn."""
    console = Console(highlight=False)
    options = [f"--window={window}", f"--repeats={repeats}", f"--warm-up={warm_up}", f"--latency={latency}"]
    found: dict[str, list[Figures]] = {HERE: [], THERE: []}
    with tempfile.TemporaryDirectory(prefix="settle-against-") as folder:
        try:
            unpack(revision, Path(folder))
            for number in range(rounds):
                order = [(HERE, TREE), (THERE, Path(folder))]
                for name, tree in order if number % 2 == 0 else reversed(order):
                    found[name].append(measure(tree, options))
                    figures = ", ".join(f"{figure} {value:,.0f}" for figure, value in found[name][-1].items())
                    console.print(f"round {number + 1} of {rounds}, {name}: {figures}")
        except BenchmarkError as error:
            console.print(f"[red]{error}[/red]")
            raise typer.Exit(1) from None
    by_figure = ratios(found[HERE], found[THERE])
    write(output, {"revision": revision, "ratios": by_figure, **found})
    console.print(_table(revision, found, by_figure))
    console.print(f"written to {output}")


def unpack(revision: str, folder: Path) -> None:
    """Put the files of a revision into a folder that exists.

    Raises:
        BenchmarkError: there is no such revision.
    """
    archive = subprocess.run(
        ["git", "archive", "--format=tar", revision], cwd=TREE, capture_output=True, check=False
    )
    if archive.returncode != 0:
        raise BenchmarkError(f"{revision}: {archive.stderr.decode(errors='replace').strip()}")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)


def measure(tree: Path, options: Sequence[str]) -> Figures:
    """Run a tree's benchmark of the pipeline: withdrawals a second, CPU µs each, latency in ms.

    Raises:
        BenchmarkError: it has none, or it fails.
    """
    module = next((name for name in MODULES if tree.joinpath(*name.split(".")).with_suffix(".py").exists()), None)
    if module is None:
        raise BenchmarkError(f"a revision without a benchmark: it has none of {', '.join(MODULES)}")
    # Its references cancel out between the two; earlier revisions have none.
    folder = tree.joinpath(*module.split(".")).parent
    without = ["--monolith=0", "--chain=0"] if (folder / "monolith.py").exists() else []
    without += ["--turns=0", "--grown=0"] if (folder / "load.py").exists() else []
    with tempfile.NamedTemporaryFile(suffix=".json") as figures:
        command = [sys.executable, "-m", module, "--json", figures.name, *options, *without]
        run = subprocess.run(
            command,
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise BenchmarkError(f"the benchmark of {tree} fails:\n{run.stdout[-2_000:]}{run.stderr[-2_000:]}")
        return figures_of(json.loads(Path(figures.name).read_text()))


def figures_of(result: Mapping[str, Any]) -> Figures:
    """What is compared, of a run's result."""
    return {
        "per second": result["withdrawals_per_second"],
        "CPU µs": sum(result["cpu_us_per_withdrawal"].values()),
        "p50 ms": result["latency_ms"]["p50"],
        "p99 ms": result["latency_ms"]["p99"],
    }


def ratios(here: Sequence[Figures], there: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """This tree's figures by the other's, round by round: median, lowest and highest."""
    found = {}
    for name in here[0]:
        values = [mine[name] / others[name] for mine, others in zip(here, there, strict=True)]
        found[name] = {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
        }
    return found


def _table(
    revision: str, found: Mapping[str, Sequence[Figures]], by_figure: Mapping[str, Mapping[str, float]]
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("median", style="bold")
    for heading in (HERE, revision[:16], "ratio", "lowest to highest"):
        table.add_column(heading, justify="right")
    for name, ratio in by_figure.items():
        here, there = (statistics.median(one[name] for one in found[side]) for side in (HERE, THERE))
        spread = f"{ratio['min']:.2f} to {ratio['max']:.2f}"
        table.add_row(name, f"{here:,.0f}", f"{there:,.0f}", f"{ratio['median']:.2f}", spread)
    return table


if __name__ == "__main__":
    typer.run(main)
