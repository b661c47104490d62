"""The Python of the documentation: what it imports from here is there."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("api", "broker", "contracts", "operations", "outbox_relay", "processors", "producers", "stack", "tracing")
PLACES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    (path.name, number, block)
    for path in PLACES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S))
]


def test_there_is_some():
    assert len(BLOCKS) > 1


@pytest.mark.parametrize(("place", "number", "block"), BLOCKS, ids=[f"{place}-{n}" for place, n, _ in BLOCKS])
def test_what_it_imports_is_there(place, number, block):
    try:
        tree = ast.parse(block)
    except SyntaxError:
        pytest.skip("it is a part of a program")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OURS:
            module = import_module(node.module)
            assert not [name.name for name in node.names if not hasattr(module, name.name)], node.module
