"""The waterfall of a trace: spans as an indented tree, each with a bar on one scale of time. Pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from api.traces import Span

WIDTH = 1_000
"""Of the scale; an SVG stretches it."""

BAR_MIN = 3
"""A shorter span is drawn so wide."""

DEPTH_MAX = 12
"""What is deeper is indented as this."""

SPANS_MAX = 500
"""A withdrawal has some thirty, unless somebody repeats its messages."""


class Row(NamedTuple):
    """A span of the tree.

    Attributes:
        depth: 0 for a root, and for an orphan.
        after_ms: since the first span began.
        x: of the bar's left edge, with its width, of :data:`WIDTH`.
        error: what the span failed with; None where it did not.
        is_orphan: whether the span that it names as its parent is not there.
    """

    depth: int
    service: str
    name: str
    kind: str
    after_ms: float
    took_ms: float
    x: int
    width: int
    error: str | None
    is_orphan: bool


class Waterfall(NamedTuple):
    """What the template draws; ``left_out`` spans are more than it shows."""

    rows: list[Row]
    total_ms: float
    services: int
    left_out: int


def waterfall(spans: Sequence[Span]) -> Waterfall:
    """The tree in the order of time, children below their parents; each span once, whatever the trace claims."""
    if not spans:
        return Waterfall([], 0.0, 0, 0)
    begin, end = min(one.start_ns for one in spans), max(one.end_ns for one in spans)
    span_ids = {one.span_id for one in spans}
    rows = [
        _row(one, depth, begin, max(end - begin, 1), is_orphan=one.parent_id not in span_ids | {None})
        for depth, one in _tree(spans)
    ]
    services = len({one.service for one in spans})
    return Waterfall(rows[:SPANS_MAX], (end - begin) / 1e6, services, max(len(rows) - SPANS_MAX, 0))


def _tree(spans: Iterable[Span]) -> list[tuple[int, Span]]:
    in_order = sorted(spans, key=lambda one: (one.start_ns, one.end_ns, one.span_id))
    span_ids = {one.span_id for one in in_order}
    children: dict[str | None, list[Span]] = {}
    for one in in_order:
        children.setdefault(one.parent_id if one.parent_id in span_ids else None, []).append(one)
    # What is its own ancestor is below no root: it comes last, as a root.
    found: list[tuple[int, Span]] = []
    seen: set[int] = set()
    for root in (*children.get(None, ()), *in_order):
        _descend(root, children, found, seen)
    return found


def _descend(
    root: Span, children: Mapping[str | None, list[Span]], found: list[tuple[int, Span]], seen: set[int]
) -> None:
    left = [(0, root)]
    while left:
        depth, one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found.append((min(depth, DEPTH_MAX), one))
        left += [(depth + 1, child) for child in reversed(children.get(one.span_id, ()))]


def _row(one: Span, depth: int, begin: int, total: int, *, is_orphan: bool) -> Row:
    width = max(round((one.end_ns - one.start_ns) * WIDTH / total), BAR_MIN)
    x = min(round((one.start_ns - begin) * WIDTH / total), WIDTH - BAR_MIN)
    return Row(
        depth,
        one.service,
        one.name,
        one.kind,
        (one.start_ns - begin) / 1e6,
        (one.end_ns - one.start_ns) / 1e6,
        x,
        min(width, WIDTH - x),
        one.error,
        is_orphan,
    )
