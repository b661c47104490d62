"""The drawing of docs/trace.png from what Jaeger says of a trace: python docs/trace.py TRACE_ID [JAEGER_URL]."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

from tracing.collector import CollectedSpan
from tracing.jaeger import traces

FILE = Path(__file__).with_suffix(".png")
INK, QUIET, LINE = "#1f2933", "#7b8794", "#d9dee3"
COLOURS = {
    "producer": "#444b59",
    "account": "#2a6fbb",
    "relay": "#c2571a",
    "payment": "#2f8f5b",
    "notification": "#8e4fa8",
    "saga": "#b08a1e",
}
INCHES_PER_SPAN = 0.285
NAMES_AT, DEEPER, OPERATION_AT = -0.69, 0.016, 0.14
"""Where the words of a span stand, in widths of the plot."""


def draw(spans: Sequence[CollectedSpan]) -> None:
    """A line for each span below its parent, a bar for its time."""
    began_ns, ended_ns = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    whole_ms = (ended_ns - began_ns) / 1e6
    figure, plot = pyplot.subplots(figsize=(12, INCHES_PER_SPAN * len(spans) + 1), dpi=110)
    figure.subplots_adjust(left=0.41, right=0.985, top=0.93, bottom=0.055)
    beside: dict[str, Any] = {"transform": plot.get_yaxis_transform(), "va": "center", "fontsize": 8.5}
    for line, (span, depth) in enumerate(_below(spans, None, 0)):
        service = span.service.removeprefix("settle-")
        at_ms, took_ms = (span.start_ns - began_ns) / 1e6, (span.end_ns - span.start_ns) / 1e6
        plot.barh(line, max(took_ms, whole_ms / 500), left=at_ms, height=0.62, color=COLOURS[service])
        plot.text(
            at_ms + took_ms + whole_ms / 160, line, f"{took_ms:.1f} ms", va="center", fontsize=7.5, color=QUIET
        )
        left = NAMES_AT + DEEPER * depth
        plot.text(left, line, service, color=COLOURS[service], fontweight="bold", **beside)
        plot.text(left + OPERATION_AT, line, span.name, color=INK, **beside)
    plot.set_ylim(len(spans) - 0.4, -0.6)
    plot.set_xlim(0, whole_ms * 1.08)
    plot.set_yticks([])
    plot.xaxis.tick_top()
    plot.tick_params(labelsize=8, length=0)
    plot.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} ms")
    plot.grid(axis="x", color=LINE, linewidth=0.8)
    plot.set_axisbelow(True)
    for side in plot.spines.values():
        side.set_visible(False)
    said = f"one withdrawal: {len(spans)} spans of {len({s.service for s in spans})} processes, {whole_ms:.0f} ms"
    figure.text(0.012, 0.015, said, fontsize=8.5, color=QUIET)
    figure.savefig(FILE)


def _below(
    spans: Sequence[CollectedSpan], parent_id: str | None, depth: int
) -> Iterator[tuple[CollectedSpan, int]]:
    for span in spans:
        if span.parent_id == parent_id:
            yield span, depth
            yield from _below(spans, span.span_id, depth + 1)


if __name__ == "__main__":
    trace_id, url = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:16686"
    draw(traces(url, [trace_id])[trace_id] or ())
