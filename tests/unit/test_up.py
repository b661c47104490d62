"""What ``settle up`` shows of its parts fits a terminal of 80 columns."""

import errno
import io

import pytest

from cli import up
from cli.screen import Screen
from contracts.services import DATABASES, NAMES
from stack.part import PartStatus

PARTS = [*(f"postgres-{name}" for name in DATABASES), "kafka", "relay", *NAMES]


@pytest.mark.parametrize("state", ["ready", "restarting"])
def test_the_table_of_parts_fits_80_columns(state):
    shown = io.StringIO()
    statuses = tuple(PartStatus(name, "http://127.0.0.1:65535", state, 1234, 4194304, None) for name in PARTS)

    Screen(file=shown, width=80).print(up._table(statuses))

    head, _, *rows = [line for line in shown.getvalue().splitlines() if line.strip()]
    assert head.split() == ["part", "state", "listens", "on", "process", "restarts"]
    assert [row.split() for row in rows] == [
        [name, state, "http://127.0.0.1:65535", "4194304", "1234"] for name in PARTS
    ]


class Full(io.StringIO):
    """A file on a disk without room."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_lines_that_cannot_be_printed_are_dropped():
    screen, roomy = up._Lasting(file=Full(), width=80), io.StringIO()
    screen.print("nobody reads this")
    screen.print(up._table(()))
    screen.file = roomy
    screen.print("there is room again")
    assert roomy.getvalue() == "there is room again\n"
