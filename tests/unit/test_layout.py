"""The code reads as its map says: imports flow down without cycles, and no file is long."""

import ast
import re
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LINES_MAX = 430
"""About 400: a file answers one question."""

PACKAGES = sorted(folder.parent.name for folder in ROOT.glob("*/__init__.py") if folder.parent.name != "tests")
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


LAYERS = (
    {"cli"},
    {"lab"},
    {"api", "stack"},
    {"operations"},
    {"producers", "processors", "outbox_relay"},
    {"broker"},
    {"contracts", "tracing"},
)
"""Imports go down, and never sideways."""

MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES
}


@cache
def imported(module: str) -> set[str]:
    """The modules of ours that one imports, wherever in its code, be it for types alone."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys() or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & MODULES.keys()) - {module}


def imported_by(package: str) -> set[str]:
    """The packages of ours that one imports."""
    inside = [module for module in MODULES if module.partition(".")[0] == package]
    return {name.partition(".")[0] for module in inside for name in imported(module)} - {package}


def test_every_package_is_installed_and_all_but_the_lab_goes_into_the_image():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert sorted(name.removesuffix("*") for name in build["include"]) == PACKAGES
    context = (ROOT / ".dockerignore").read_text().splitlines()
    assert [name for name in PACKAGES if f"!{name}" not in context] == ["lab"]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_down(package):
    (own,) = (place for place, layer in enumerate(LAYERS) if package in layer)
    assert imported_by(package) <= set().union(*LAYERS[own + 1 :])


def test_no_module_is_imported_by_what_it_imports():
    TopologicalSorter({module: imported(module) for module in MODULES}).prepare()  # raises where there is a cycle


@pytest.mark.parametrize("service", ["account", "payment", "notification", "saga"])
def test_deciding_knows_no_database_no_kafka_and_no_faust(service):
    text = (ROOT / "processors" / service / "decide.py").read_text()
    imports = {
        name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert not {name.partition(".")[0] for name in imports} & {"psycopg", "sqlalchemy", "confluent_kafka", "faust"}


def test_no_file_is_long():
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


def test_kafka_is_spoken_to_by_clients_of_one_module():
    naming = {
        file
        for file in FILES
        if re.search(r"bootstrap\.servers|\b(Producer|Consumer|AdminClient)\(", file.read_text())
    }
    # Security refuses that property to others, and tries the rest on a client that connects nowhere.
    naming.discard(ROOT / "outbox_relay" / "debezium" / "imported.py")  # it reads the settings of others
    naming.discard(ROOT / "lab" / "connect.py")  # and this one writes those of Kafka Connect
    assert naming == {ROOT / "broker" / "clients.py", ROOT / "broker" / "security.py"}


def test_postgresql_is_spoken_to_by_connections_of_one_module():
    connecting = re.compile(
        r"psycopg\.connect\b|from psycopg\S* import[^\n]*\bconnect\b|[Cc]onnection(_class)?\.connect\("
        r"|create_(async_)?engine\((?![^)]*creator=)"
    )
    assert {file for file in FILES if connecting.search(file.read_text())} == {ROOT / "contracts" / "postgres.py"}


def test_answers_of_kafkas_administration_are_waited_for_by_our_own_clock():
    """A late one to a request that librdkafka has given up may abort the process (:mod:`broker.answers`)."""
    limits = {limit for file in FILES for limit in re.findall(r"request_timeout=(\w+)", file.read_text())}
    assert limits == {"REQUEST_S"}
