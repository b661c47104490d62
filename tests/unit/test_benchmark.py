"""The benchmark's own arithmetic: bounded load, and ratios of figures taken in one run."""

import threading
from itertools import count
from types import SimpleNamespace

from lab.benchmarks.load import bounded
from lab.benchmarks.pipeline import _beside_monolith, _growth


class Watch:
    """Completes everything but the last ten."""

    def __init__(self):
        self.passed = 0
        self.asked = 0

    def completed(self):
        self.asked += 1
        return max(self.passed - 10, 0)


def test_load_is_bounded_and_ends_when_told_to():
    watch, ended, most = Watch(), threading.Event(), 0
    for number in bounded(count(), watch, ended, under_way_max=100):
        watch.passed = number + 1
        if number == 10_000:
            ended.set()
        most = max(most, number)
    assert most < 10_000 + 64
    stuck = SimpleNamespace(completed=lambda: 0)
    ended = threading.Event()
    passed = []
    for number in bounded(count(), stuck, ended, under_way_max=100):
        passed.append(number)
        if number == 100:
            ended.set()  # or the next look would wait for ever
    assert len(passed) <= 128


def test_growth_leaves_out_the_broker_and_the_load_generator():
    few, many = (SimpleNamespace(cost_us=costs) for costs in ({"saga": 10, "kafka": 50}, {"saga": 11, "kafka": 5}))
    assert _growth(few, many) == {"growth_ratio": 1.1, "growth_us": [10, 11]}
    assert _growth(None, None) == {}


def test_throughput_by_the_monolith_spans_the_worst_and_the_best():
    found = _beside_monolith([50, 100, 75], [100, 200])
    assert found["monolith_ratio"] == 0.5
    assert found["monolith_ratio_spread"] == [0.25, 1.0]
