"""A trace as a tree of its spans, drawn in the terminal."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text
    from rich.tree import Tree

    from tracing.collector import CollectedSpan

_SHOWN = {"settle.event_type": "{}", "settle.outbox.wait_ms": "waited {} ms", "settle.reason": "{}"}


def as_tree(spans: Sequence[CollectedSpan]) -> Tree:
    """Draw spans below their parents; a span whose parent is missing stands at the top, marked as an orphan.

    Args:
        spans: of one trace.
    """
    from rich.tree import Tree

    from cli.screen import lines, styled

    start_ns = min(span.start_ns for span in spans)
    known = {span.span_id for span in spans}
    children: dict[str | None, list[CollectedSpan]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start_ns):
        children[span.parent_id if span.parent_id in known else None].append(span)

    def grow(tree: Tree, parent_id: str | None) -> None:
        for span in children[parent_id]:
            grow(tree.add(_label(span, start_ns)), span.span_id)

    services = sorted({span.service for span in spans})
    title = styled((f"trace {spans[0].trace_id}", "bold"))
    tree = Tree(lines(title, f"{len(spans)} spans of {len(services)} services"), guide_style="dim")
    grow(tree, None)
    for span in children[None]:
        if span.parent_id is not None:
            missing = f": parent {span.parent_id} of {span.name} is missing"
            tree.add(styled(("orphan", "bold red"), missing))
    return tree


def _label(span: CollectedSpan, start_ns: int) -> Text:
    from cli.screen import lines, styled

    service = span.service.removeprefix("settle-")
    at_ms, took_ms = (span.start_ns - start_ns) / 1e6, (span.end_ns - span.start_ns) / 1e6
    details = [f"+{at_ms:.1f} ms", f"took {took_ms:.1f} ms"]
    shown = {key: _rounded(span.attributes[key]) for key in _SHOWN if key in span.attributes}
    details += [_SHOWN[key].format(value) for key, value in shown.items()]
    details += span.events
    error = (f" {span.error}" if span.error else "", "bold red")
    return lines(styled((service, "bold"), f" {span.name}", error), styled((", ".join(details), "dim")))


def _rounded(value: object) -> object:
    """A number, rounded; any other attribute value unchanged."""
    return f"{value:.1f}" if isinstance(value, float) else value
