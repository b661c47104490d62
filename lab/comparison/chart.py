"""The chart of a comparison, one picture: speed, time between deduction and payment, effects of the faults."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.comparison.results import Comparison, Fault, Result
from lab.comparison.sheets import is_blocking, is_wrong, median, milliseconds, not_returned, wrong

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, QUIET, LINE = "#1f2933", "#7b8794", "#d9dee3"
FAST, SLOW = "#2a78b5", "#f0a03c"
GOOD, FAIR, BAD = "#d5ecd4", "#fdeac2", "#f6c9c5"
FLOOR_MS = 0.3

_FAULTS = {
    "refused": "payment\nrefused",
    "killed": "killed at\nevery step",
    "worker": "worker\nkilled",
    "repeated": "asked\nfive times",
    "halfway": "dead halfway:\nothers wait",
    "outage": "payment database\naway: accepted",
}


def draw(comparison: Comparison, file: Path) -> None:
    """Write the picture; the file's ending says in which format.

    Raises:
        OSError: the file cannot be written.
    """
    # Imported here: only a chart needs it.
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    results = comparison.results
    style: dict[Any, Any] = {
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": LINE,
        "axes.labelcolor": QUIET,
        "xtick.color": QUIET,
        "ytick.color": INK,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.titlesize": 11,
    }
    with pyplot.rc_context(style):
        figure = pyplot.figure(figsize=(13.4, 9.8), dpi=110, facecolor="white")
        grid = figure.add_gridspec(
            2,
            3,
            height_ratios=[1, 1.1],
            width_ratios=[1.15, 1, 1],
            hspace=0.52,
            wspace=0.11,
            left=0.115,
            right=0.975,
            top=0.87,
            bottom=0.03,
        )
        latency, between, speed = (figure.add_subplot(grid[0, column]) for column in range(3))
        _latency(latency, results)
        _between(between, results)
        _speed(speed, results)
        _faults(figure.add_subplot(grid[1, :]), results)
        load = results[0].load
        figure.text(0.012, 0.957, "Withdraw $100, side by side", fontsize=17, weight="bold")
        figure.text(
            0.012,
            0.927,
            f"{load.withdrawals:,} withdrawals, {load.clients} clients · {comparison.machine} · "
            f"{comparison.at[:10]} · times on logarithmic scales",
            color=QUIET,
        )
        figure.savefig(file)
        pyplot.close(figure)


def _latency(axes: "Axes", results: Sequence[Result]) -> None:
    for place, one in enumerate(results):
        accepted, finished = one.load.accepted, one.load.finished
        known = one.name != "naive"
        if known:
            axes.plot([accepted.p50_ms, finished.p99_ms], [place, place], color=LINE, linewidth=2, zorder=1)
            axes.plot(finished.p99_ms, place, "|", color=SLOW, markersize=11, markeredgewidth=2)
            axes.plot(finished.p50_ms, place, "o", color=SLOW, markersize=10)
            axes.annotate(
                milliseconds(finished.p50_ms),
                (finished.p50_ms, place),
                (0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
                color=INK,
            )
        axes.plot(accepted.p50_ms, place, "o", color=FAST, markersize=6.5)
        if not known:
            axes.annotate(
                "finished? nobody knows",
                (accepted.p50_ms, place),
                (10, -3),
                textcoords="offset points",
                fontsize=8.5,
                color=QUIET,
            )
    axes.plot([], [], "o", color=FAST, markersize=6.5, label="accepted")
    axes.plot([], [], "o", color=SLOW, markersize=10, label="finished, median")
    axes.plot([], [], "|", color=SLOW, markersize=11, markeredgewidth=2, label="p99")
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.45, -0.08),
        ncols=3,
        frameon=False,
        fontsize=8.5,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    _rows(axes, results, "From the call to the end, ms")
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(_plain)


def _between(axes: "Axes", results: Sequence[Result]) -> None:
    longest = max(max(one.consistency.longest_ms for one in results), 10.0)
    for place, one in enumerate(results):
        seen = one.consistency
        if not seen.seen:
            axes.annotate(
                "never", (FLOOR_MS, place), (5, -3), textcoords="offset points", fontsize=9, color="#3b8f3a"
            )
            continue
        axes.barh(place, seen.longest_ms, height=0.5, left=FLOOR_MS, color="#fbe3bd")
        if seen.median_ms > FLOOR_MS:
            axes.barh(place, seen.median_ms - FLOOR_MS, height=0.5, left=FLOOR_MS, color=SLOW)
        axes.annotate(
            f"{median(seen)} · {milliseconds(seen.longest_ms)}",
            (seen.longest_ms, place),
            (7, -3),
            textcoords="offset points",
            fontsize=8.5,
        )
    _rows(axes, results, "Gone, not yet paid, ms: median · longest", names=False)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xlim(FLOOR_MS, longest * 14)
    axes.xaxis.set_major_formatter(_plain)


def _speed(axes: "Axes", results: Sequence[Result]) -> None:
    fastest = max(one.load.per_second for one in results)
    for place, one in enumerate(results):
        axes.barh(place, one.load.per_second, height=0.5, color=FAST)
        axes.annotate(
            f"{one.load.per_second:,.0f}",
            (one.load.per_second, place),
            (6, -3),
            textcoords="offset points",
            fontsize=8.5,
        )
    _rows(axes, results, "Finished a second", names=False)
    axes.set_xlim(0, fastest * 1.18)
    axes.xaxis.set_major_formatter(_plain)


def _rows(axes: "Axes", results: Sequence[Result], title: str, *, names: bool = True) -> None:
    axes.set_title(title, pad=10)
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_yticks(range(len(results)), [one.title for one in results] if names else [""] * len(results))
    axes.tick_params(axis="both", length=0)
    axes.grid(axis="x", color="#eef1f4", linewidth=1)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _faults(axes: "Axes", results: Sequence[Result]) -> None:
    from matplotlib.patches import Rectangle

    for row, one in enumerate(results):
        for column, name in enumerate(_FAULTS):
            colour, text = _cell(name, one.faults[name])
            axes.add_patch(Rectangle((column + 0.03, row + 0.06), 0.94, 0.88, color=colour, linewidth=0))
            weight = "bold" if colour == BAD else "normal"
            axes.text(
                column + 0.5,
                row + 0.5,
                text,
                ha="center",
                va="center",
                fontsize=9,
                weight=weight,
                linespacing=1.25,
            )
    axes.set_title("What each fault does", pad=14)
    axes.set_xlim(0, len(_FAULTS))
    axes.set_ylim(len(results), 0)
    axes.set_xticks([column + 0.5 for column in range(len(_FAULTS))], list(_FAULTS.values()), color=INK)
    axes.set_yticks([row + 0.5 for row in range(len(results))], [one.title for one in results])
    axes.tick_params(axis="both", length=0)
    axes.xaxis.tick_top()
    for spine in axes.spines.values():
        spine.set_visible(False)


def _cell(name: str, fault: Fault | None) -> tuple[str, str]:
    """Colour and words."""
    if fault is None:
        return "#f4f6f8", "–"
    if name == "halfway":
        if is_blocking(fault):
            return (
                BAD,
                f"{fault.waited} of {fault.asked} wait {fault.waited_s_max:.1f} s,\nuntil someone recovers",
            )
        return (BAD, wrong(fault).replace(", ", "\n")) if is_wrong(fault) else (GOOD, "nobody waits")
    if is_wrong(fault):
        text = not_returned(fault) if name == "refused" else wrong(fault)
        return BAD, text.replace(", ", "\n").replace(" not", "\nnot")
    if name == "refused":
        if "compensation" in fault.note:
            return FAIR, f"given back\nafter {milliseconds(fault.away_ms)} ms"
        return GOOD, "rolled back"
    if name == "outage":
        after = "never" if fault.recovery_s is None else f"{fault.recovery_s:.1f} s"
        colour = GOOD if fault.accepted == fault.asked else FAIR
        return colour, f"{fault.accepted} of {fault.asked}\nall paid {after} after"
    if fault.published is not None:
        sent = "once" if fault.published == 1 else f"{fault.published:.0f} times"
        return GOOD, f"sent {sent},\npaid once"
    return GOOD, "no cent off"


def _plain(value: float, _: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
