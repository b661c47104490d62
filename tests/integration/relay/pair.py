"""A PostgreSQL primary with a streaming standby that may be promoted when the primary has died."""

import os
import shutil
import signal
import subprocess
from contextlib import contextmanager

import psycopg

from stack.part import Part
from stack.ports import HOST, choose
from stack.postgres import USER, Clusters, Postgres, programs
from stack.process import Home, chown_to_unprivileged
from tests.integration.relay.outbox import wait_until

DATABASE = "pair"
STANDBY = "standby"
PROMOTED_S = 60


class Pair:
    """Commits wait for the standby, and so does the log's reader: what was published survives the primary.

    Args:
        folder: for the data of both.
        synchronize_slots: whether the standby keeps copies of the primary's failover slots.

    Attributes:
        primary, standby: their parts.
    """

    def __init__(self, folder, *, synchronize_slots):
        self._fd = os.open(folder / "children", os.O_CREAT)
        taken = set()
        ports = [choose(taken=taken), choose(taken=taken)]
        homes = [_home(folder / name, self._fd) for name in ("primary", STANDBY)]
        _initialise(homes[0])
        shutil.copy(homes[0].data / "postgres.password", homes[1].data / "postgres.password")
        self._password = (homes[0].data / "postgres.password").read_text().strip()
        self._homes, self._ports, self._children = homes, ports, []
        self.primary = Postgres(homes[0], DATABASE, ports[0], {"fsync": "off"})
        source = f"host={HOST} port={ports[0]} user={USER} password={self._password} dbname={DATABASE}"
        self.standby = Postgres(
            homes[1],
            DATABASE,
            ports[1],
            {
                "fsync": "off",
                "primary_conninfo": f"{source} application_name={STANDBY}",
                "primary_slot_name": STANDBY,
                "hot_standby_feedback": "on",
                "sync_replication_slots": "on" if synchronize_slots else "off",
            },
        )

    def __enter__(self):
        self._start(self.primary)
        self.primary.create_database()
        with self.session(self._ports[0]) as primary:
            primary.execute("SELECT pg_create_physical_replication_slot(%s)", (STANDBY,))
            self._copy()
            (self._homes[1].data / "postgres-pair" / "standby.signal").touch()
            self._start(self.standby)
            for setting, value in (
                ("synchronous_standby_names", STANDBY),
                ("synchronized_standby_slots", STANDBY),
            ):
                primary.execute(f"ALTER SYSTEM SET {setting} = '{value}'")
            primary.execute("SELECT pg_reload_conf()")
            is_synchronous = "SELECT sync_state = 'sync' FROM pg_stat_replication WHERE application_name = %s"
            wait_until(
                lambda: primary.execute(is_synchronous, (STANDBY,)).fetchone() == (True,), "commits wait for it"
            )
        return self

    def __exit__(self, *_):
        for child in self._children:
            child.signal(signal.SIGKILL)
            child.wait(10)
        os.close(self._fd)

    @property
    def dsn(self):
        """Of the database ``postgres`` on whichever answers first, the primary before the standby."""
        return f"postgresql://{USER}:{self._password}@{HOST}:{self._ports[0]},{HOST}:{self._ports[1]}/postgres"

    def session(self, port, database="postgres"):
        """A session with one of the two."""
        return psycopg.connect(
            host=HOST, port=port, user=USER, password=self._password, dbname=database, autocommit=True
        )

    def session_on_standby(self):
        """A session with the standby."""
        return self.session(self._ports[1])

    def on_standby(self, query, *values):
        """The only row of a query on the standby."""
        with self.session_on_standby() as standby:
            return standby.execute(query, values or None).fetchone()

    def fail_over(self):
        """The primary dies at once, and the standby becomes the primary."""
        self._children[0].signal(signal.SIGKILL)
        self._children[0].wait(10)
        assert self.on_standby("SELECT pg_promote(true, %s)", PROMOTED_S) == (True,)

    def _start(self, part: Part):
        self._children.append(part.launch())
        wait_until(lambda: part.waits_for() is None, f"{part.name} answers")

    def _copy(self):
        folder = self._homes[1].data / "postgres-pair"
        program = programs() / "pg_basebackup"
        command = [program, "-h", HOST, "-p", self._ports[0], "-U", USER, "-D", folder, "-c", "fast", "-w"]
        environment = {**os.environ, "PGPASSWORD": self._password}
        subprocess.run([str(word) for word in command], check=True, env=environment)
        folder.chmod(0o700)
        chown_to_unprivileged(folder)


@contextmanager
def server(folder, settings):
    """The URL of a database on a server of its own."""
    with open(folder / "children", "wb") as children:
        home = _home(folder / "server", children.fileno())
        _initialise(home)
        part = Postgres(home, DATABASE, choose(taken=set()), {"fsync": "off", **settings})
        child = part.launch()
        try:
            wait_until(lambda: part.waits_for() is None, "the server answers")
            part.create_database()
            yield part.dsn
        finally:
            child.signal(signal.SIGKILL)
            child.wait(10)


def _home(folder, fd):
    home = Home(folder, fd)
    home.log("any").parent.mkdir(parents=True)
    return home


def _initialise(home):
    clusters = Clusters(home, [DATABASE])
    initdb = clusters.prepare()
    assert initdb.wait(60) and initdb.exit_code() == 0
    clusters.prepared()
