"""Which build of Python the environment is made with."""

import os
import sys
from pathlib import Path

import pytest

from stack import interpreter

NAME = f"python{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put another build on the path, one that says of itself how long it takes."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "own"))
    monkeypatch.setenv("PATH", os.pathsep.join(str(tmp_path / folder) for folder in "ab"))

    def put(place: str, says: str) -> str:
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {says}\n")
        path.chmod(0o755)
        return str(path)

    put("own", "1.0")
    return put


def test_a_much_faster_build_of_the_same_version_is_taken(put):
    put(f"a/{NAME}", "0.7")
    faster = put(f"b/{NAME}", "0.5")
    put("b/python3.999", "0.1")
    assert interpreter.fastest() == faster


@pytest.mark.parametrize("says", ["0.9", "2.0", "nonsense", "; exit 1"])
def test_any_other_is_not(put, says: str):
    put(f"a/{NAME}", says)
    assert interpreter.fastest() == sys.executable


def test_without_any_other_it_is_the_one_that_was_asked(put):
    assert interpreter.fastest() == sys.executable


def test_this_build_can_be_timed():
    assert 0 < interpreter.seconds(sys.executable) < float("inf")
