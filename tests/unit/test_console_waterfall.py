"""The waterfall of a trace: a tree in the order of time, bars within one scale, whatever the spans claim."""

import pytest

from api.console.waterfall import BAR_MIN, DEPTH_MAX, SPANS_MAX, WIDTH, waterfall
from api.traces import Span

MS = 1_000_000


def span(name: str, parent: str | None, begin_ms: float, end_ms: float, error: str | None = None) -> Span:
    begin, end = int(begin_ms * MS), int(end_ms * MS)
    return Span("t", name, parent, f"of-{name}", name, "internal", begin, end, {}, [], error, [])


def names(*spans: Span) -> list[tuple[int, str]]:
    return [(row.depth, row.name) for row in waterfall(spans).rows]


def test_children_are_below_their_parent_in_the_order_of_time():
    root, early, late, deep = (
        span("root", None, 0, 10),
        span("early", "root", 1, 2),
        span("late", "root", 5, 9),
        span("deep", "early", 6, 7),
    )
    assert names(late, deep, root, early) == [(0, "root"), (1, "early"), (2, "deep"), (1, "late")]


def test_bars_are_on_one_scale_and_none_is_too_short_to_be_seen():
    picture = waterfall([span("a", None, 100, 300), span("b", "a", 200, 250), span("c", "a", 300, 300)])
    assert [(row.x, row.width) for row in picture.rows] == [(0, 1000), (500, 250), (WIDTH - BAR_MIN, BAR_MIN)]
    assert [(row.after_ms, row.took_ms) for row in picture.rows] == [(0, 200), (100, 50), (200, 0)]
    assert (picture.total_ms, picture.services) == (200, 3)


def test_an_orphan_and_an_error_are_marked():
    rows = waterfall([span("a", None, 0, 1, "declined"), span("b", "lost", 0, 1)]).rows
    assert [(row.depth, row.is_orphan, row.error) for row in rows] == [(0, False, "declined"), (0, True, None)]


@pytest.mark.parametrize(
    "spans",
    [
        [span("a", "b", 0, 1), span("b", "a", 0, 1)],
        [span("a", "a", 0, 1)],
        [span("a", None, 0, 1), span("a", None, 0, 1)],
        [span("a", None, 5, 1)],
        [],
    ],
)
def test_each_span_is_there_once_whatever_it_claims(spans):
    picture = waterfall(spans)
    assert len(picture.rows) == len(spans)
    assert all(0 <= row.x <= row.x + row.width <= WIDTH for row in picture.rows)


def test_a_long_chain_is_indented_so_far_and_shown_so_far():
    chain = [span(str(n), str(n - 1) if n else None, n, n + 1) for n in range(SPANS_MAX + 20)]
    picture = waterfall(chain)
    assert (len(picture.rows), picture.left_out) == (SPANS_MAX, 20)
    assert [row.depth for row in picture.rows[:14]] == [*range(DEPTH_MAX + 1), DEPTH_MAX]
