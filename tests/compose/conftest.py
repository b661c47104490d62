"""What the tests of the compose stack share: a project of its own, beside whatever runs here, gone afterwards."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest

from stack.ports import choose

ROOT = Path(__file__).parents[2]
PORTS = ("JAEGER_PORT", "MAILPIT_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
UP_S = 900
COMMAND_S = 300


def _no_engine():
    """Why there is nothing to test with; None where there is."""
    for command in (["docker", "compose", "version"], ["docker", "info"]):
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except FileNotFoundError:
            return "there is no docker"
        if result.returncode:
            return f"`{' '.join(command)}` fails: {(result.stderr or result.stdout).strip().splitlines()[0]}"
    return None


class Compose:
    """A project of ``docker-compose.yml``, and what a test asks of it."""

    def __init__(self, project, **variables):
        self.project = project
        taken = set()
        self.ports = {name: str(choose(taken=taken)) for name in PORTS}
        # Nothing of the person's own .env counts here.
        self._command = ["docker", "compose", "--project-name", project, "--env-file", os.devnull]
        self._environment = os.environ | self.ports | variables

    def run(self, *arguments, timeout=COMMAND_S):
        """The result of ``docker compose …``, whatever it is."""
        return subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def __call__(self, *arguments, timeout=COMMAND_S):
        """What ``docker compose …`` prints; it must succeed."""
        result = self.run(*arguments, timeout=timeout)
        assert result.returncode == 0, f"docker compose {' '.join(arguments)}: {result.stdout}{result.stderr}"
        return result.stdout

    def up(self, *arguments):
        """As a user starts it."""
        self("up", "--build", "--detach", "--wait", *arguments, timeout=UP_S)

    def settle(self, *arguments):
        """What a command prints in the tool container."""
        return self("run", "--rm", "--no-TTY", "settle", *arguments)

    def begin(self, *arguments):
        """A command in the tool container that goes on meanwhile."""
        # Patient: it outlasts a broker that is away.
        patient = ("--env", "SETTLE_DELIVERY_TIMEOUT_S=120")
        command = [*self._command, "run", "--rm", "--no-TTY", *patient, "settle", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, text=True)

    def audit(self):
        """The verdict, which must be that all is well; every withdrawal has ended."""
        verdict = json.loads(self.settle("audit", "--json", "--wait=120"))
        assert verdict["ok"]
        return verdict

    def query(self, database, sql):
        """One value, as text."""
        psql = ("psql", "--username=postgres", f"--dbname={database}", "--tuples-only", "--no-align")
        return self("exec", "--no-TTY", f"postgres-{database}", *psql, f"--command={sql}").strip()

    def containers(self):
        """Every container, as Docker sees it."""
        ids = self("ps", "--all", "--quiet").split()
        return json.loads(docker("inspect", *ids)) if ids else []

    def ids(self, service):
        """The containers of a service."""
        return self("ps", "--quiet", service).split()

    def get(self, port, path):
        """What a published port answers, read as JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=30) as answer:
            return json.load(answer)


def docker(*arguments):
    """What ``docker …`` prints; it must succeed."""
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="session", autouse=True)
def engine():
    if reason := _no_engine():
        pytest.skip(f"the compose stack is not tested: {reason}")


@pytest.fixture(scope="session")
def compose(engine):
    """The whole system, up; with 100 accounts."""
    compose = Compose(f"settle-test-{os.getpid()}")
    try:
        compose.up()
        compose.settle("accounts", "open")
        yield compose
    finally:
        compose("down", "--volumes", "--timeout=5")
