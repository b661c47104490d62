"""Kafka Connect with the real Debezium, where it can be had."""

from pathlib import Path

import pytest

from lab import connect
from stack.errors import StackError


class Connect(connect.Connect):
    """The same; a test that needs it is skipped where it cannot be fetched."""

    def __init__(self, stack, folder: Path, flush_ms: int = 300):
        try:
            super().__init__(stack.admin_bootstrap, folder, flush_ms)
        except StackError as error:
            pytest.skip(f"the real Debezium cannot be had here: {error}")
