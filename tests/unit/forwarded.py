"""A source, as a forwarder sees it, whose session nothing disturbs."""

from collections import deque
from types import SimpleNamespace


def undisturbed() -> SimpleNamespace:
    return SimpleNamespace(
        leftovers=deque(),
        progress=lambda: None,
        control=SimpleNamespace(is_called=False),
        handled=SimpleNamespace(uuids=True),
        expects_leftovers=False,
    )
