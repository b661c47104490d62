"""``python -m cli``: the same as ``settle``."""

from cli import start

start()
