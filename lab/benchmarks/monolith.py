"""The reference for throughput: a monolith, one transaction a withdrawal, by pgbench on a server of its own."""

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.postgres import session
from stack import ports
from stack.errors import StackError
from stack.postgres import Clusters, Postgres, programs
from stack.process import Child, Home

SCRIPT = Path(__file__).with_suffix(".sql")

CLIENTS = 16
THREADS = 2
START_S_MAX = 60.0

_SCHEMA = """
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint, updated_at timestamptz);
INSERT INTO accounts SELECT number, 1000000000000, now() FROM generate_series(0, 999) AS number;
CREATE TABLE withdrawals (
    payment_id uuid PRIMARY KEY, account_id int, amount bigint, status text, at timestamptz DEFAULT now());
CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload text);
"""
_RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


def monolith_per_second(seconds: float) -> float:
    """Withdrawals a second of the monolith, on a new server that is gone afterwards.

    Args:
        seconds: how long to measure, after a fifth of that to warm up.

    Raises:
        StackError: PostgreSQL or pgbench does not do its work.
    """
    with tempfile.TemporaryDirectory(prefix="settle-monolith-") as folder, _server(Path(folder)) as dsn:
        with session(dsn, autocommit=True) as connection:
            connection.execute(_SCHEMA.encode())
        _pgbench(dsn, max(1, round(seconds / 5)))
        return _pgbench(dsn, round(seconds))


def _pgbench(dsn: str, seconds: int) -> float:
    command = [programs() / "pgbench", "-n", "-M", "prepared", "-f", SCRIPT, "-c", CLIENTS, "-j", THREADS]
    run = subprocess.run(
        [str(word) for word in (*command, "-T", seconds, dsn)], capture_output=True, text=True, check=False
    )
    rate = _RATE.search(run.stdout)
    if run.returncode != 0 or rate is None:
        raise StackError(f"pgbench fails: {run.stderr.strip()[-500:]}")
    return float(rate[1])


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """A server with the settings of the stack's and the memory of all of them; its database as a URL."""
    folder.chmod(0o755)  # PostgreSQL gives up its rights as root and must still reach its folder
    (folder / "logs").mkdir()
    with (folder / "lock").open("w") as lock:
        home, name = Home(folder, lock.fileno()), "monolith"
        clusters = Clusters(home, [name])
        if (initdb := clusters.prepare()) is not None and not (
            initdb.wait(START_S_MAX) and initdb.exit_code() == 0
        ):
            raise StackError(f"initdb fails: {initdb.last_log_line()}")
        clusters.prepared()
        server = Postgres(
            home, name, ports.choose(taken=set()), {"shared_buffers": "256MB", "max_wal_size": "4GB"}
        )
        child = server.launch()
        try:
            _wait_ready(server, child)
            server.create_database()
            yield server.dsn
        finally:
            child.signal(server.stop_signal)
            child.wait(server.stop_timeout_s)


def _wait_ready(server: Postgres, child: Child) -> None:
    give_up = time.monotonic() + START_S_MAX
    while (reason := server.waits_for()) is not None:
        if child.exit_code() is not None or time.monotonic() > give_up:
            raise StackError(f"PostgreSQL does not start: {reason}")
        time.sleep(0.05)
