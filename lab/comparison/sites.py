"""An approach set up on a stack, with databases, a topic and workers of its own."""

from collections.abc import Mapping, Sequence
from typing import LiteralString, Self
from uuid import UUID

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.cimpl import NewTopic

from broker.clients import admin, reader
from contracts.events import WithdrawalRequested
from contracts.postgres import session
from lab.approaches import event_sourcing, outbox, recovery, tables
from lab.approaches.connections import connect
from lab.approaches.withdrawal import Approach
from lab.comparison import parts
from lab.comparison.books import Books
from lab.comparison.databases import Server
from lab.comparison.process import Process, death_job, worker_job
from lab.comparison.specs import SPECS, Spec
from processors.account import accounts as pipeline_accounts
from stack.supervisor import Stack

TOPIC_S = 15.0
PARTITIONS = 4


class SurvivedError(Exception):
    """A failpoint was not reached."""


class Site:
    """An approach on a stack, from ``start`` to ``stop``; a context manager.

    Args:
        spec: which.
        stack: a running stack.
        poll_every_s: of a polling worker, seconds.
    """

    def __init__(self, spec: Spec, stack: Stack, poll_every_s: float = outbox.POLL_EVERY_S) -> None:
        self.spec = spec
        self.stack = stack
        self.server = Server(stack.state.dsns["account"])
        self.addresses = {"kafka": stack.state.kafka_bootstrap, "aggregate": f"approaches.{spec.name}"}
        self.addresses |= {role: self.server_of(role).dsn(self.database(role)) for role in spec.databases}
        self.addresses["poll_every_s"] = str(poll_every_s)
        self._workers: dict[str, Process] = {}
        self._lag: Consumer | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def books(self) -> Books:
        """Where its money is."""
        roles = self.addresses
        return Books(roles.get("account") or roles["everything"], roles.get("payment") or roles["everything"])

    def database(self, role: str) -> str:
        """The name of one of its databases."""
        return f"compare_{self.spec.name}_{role}"

    def server_of(self, role: str) -> Server:  # noqa: ARG002
        """The server of one of its databases: all are on one, but those of the pipeline."""
        return self.server

    def written(self, query: LiteralString) -> int:
        """The sum of a query on the statistics of its servers."""
        servers = {server.address: server for server in map(self.server_of, self.spec.databases)}
        return sum(int(server.ask(query)) for server in servers.values())

    def start(self) -> None:
        """Empty databases, topic, workers; returns when all are ready."""
        self.server.create({self.database(r): schema for r, schema in self.spec.schemas.items()}, fresh=True)
        if self.spec.workers:
            aggregate, bootstrap = self.addresses["aggregate"], self.addresses["kafka"]
            _ensure_topic(bootstrap, f"{aggregate}.events")
            self._lag = reader(bootstrap, aggregate)
        started = {name: self._launch(name) for name in self.spec.workers}
        for process in started.values():
            process.wait_ready()

    def stop(self) -> None:
        """End the workers. The databases stay, to be looked at; a slot, which would keep the log, goes."""
        for process in self._workers.values():
            process.stop()
        if self._lag is not None:
            self._lag.close()
        if "relay" in self.spec.workers:
            self.server.drop_slots(self.database("account"))

    def client(self) -> Approach:
        """A client, for one thread."""
        return parts.client(self.spec.name, self.addresses)

    def open_accounts(self, names: Sequence[str], balance_minor: int) -> None:
        """Open accounts, minor units each."""
        with connect(self.books.account_dsn) as db:
            tables.open_accounts(db, names, balance_minor)

    def die(self, deaths: Mapping[str, WithdrawalRequested]) -> None:
        """Begin withdrawals, each by a client that dies at a failpoint of it; returns when all are dead."""
        with Process(death_job(self.spec.name, self.addresses, deaths), silent=True) as process:
            if code := process.wait_dead():
                raise SurvivedError(f"{self.spec.title}: a client did not die where it should ({code})")

    def recover(self) -> None:
        """The recovery that has to be run after a crash, by hand or by a timer; none by default."""

    def kill_worker(self, name: str) -> None:
        """SIGKILL."""
        self._workers[name].kill()

    def start_worker(self, name: str, failpoint: str | None = None) -> Process:
        """Start a worker that is dead; returns when it is ready."""
        self._workers[name].stop()
        process = self._launch(name, failpoint)
        process.wait_ready()
        return process

    def quiet(self) -> bool:
        """Whether its payment service has read all that was published; always, if there is none of its own."""
        if self._lag is None:
            return True
        return all(
            self._lag.get_watermark_offsets(place, timeout=TOPIC_S)[1] in (max(place.offset, 0), 0)
            for place in self._lag.committed(self._places(), TOPIC_S)
        )

    def published(self) -> int:
        """How many records its topic has."""
        if self._lag is None:
            return 0
        return sum(self._lag.get_watermark_offsets(p, timeout=TOPIC_S)[1] for p in self._places())

    def _places(self) -> list[TopicPartition]:
        topic = f"{self.addresses['aggregate']}.events"
        return [TopicPartition(topic, number) for number in range(PARTITIONS)]

    def finished_at(self, since: UUID) -> dict[UUID, float]:
        """When each withdrawal from a payment ID on was finished: epoch seconds of the database's clock."""
        with session(self._finished_dsn()) as connection:
            return dict(connection.execute(self._FINISHED_AT, (since,)).fetchall())

    _FINISHED_AT: LiteralString = """
        SELECT payment_id, extract(epoch FROM decided_at)::float8 FROM payments WHERE payment_id >= %s"""

    def _finished_dsn(self) -> str:
        return self.books.payment_dsn

    def _launch(self, name: str, failpoint: str | None = None) -> Process:
        process = self._workers[name] = Process(worker_job(name, self.addresses), failpoint)
        return process


class _TwoPhaseSite(Site):
    def recover(self) -> None:
        recovery.recover(self.addresses)


class _EventSite(Site):
    def open_accounts(self, names: Sequence[str], balance_minor: int) -> None:
        with connect(self.addresses["account"]) as db:
            event_sourcing.open_accounts(db, names, balance_minor)

    def recover(self) -> None:
        store = event_sourcing.EventSourced(self.addresses["account"], self.addresses["payment"])
        try:
            store.resume()
        finally:
            store.close()


class _PollingSite(Site):
    _FINISHED_AT = """
        SELECT (payload->>'payment_id')::uuid, extract(epoch FROM published_at)::float8 FROM outbox
        WHERE (payload->>'payment_id')::uuid >= %s AND published_at IS NOT NULL"""

    def _finished_dsn(self) -> str:
        return self.addresses["account"]


class _SagaSite(Site):
    """The stack's own services and databases; nothing to set up, nothing to drop."""

    _FINISHED_AT = """
        SELECT payment_id, extract(epoch FROM finished_at)::float8 FROM withdrawals
        WHERE payment_id >= %s AND finished_at IS NOT NULL"""

    @property
    def books(self) -> Books:
        return Books(
            self.addresses["account"],
            self.addresses["payment"],
            balances="SELECT opening_balance_minor, balance_minor FROM accounts WHERE account_id = ANY(%s)",
            paid="""
                SELECT payment_id, amount_minor FROM payments
                WHERE account_id = ANY(%s) AND status = 'processed'""",
            gone="SELECT payment_id FROM saga_log WHERE payment_id >= %s AND status = 'deducted'",
            arrived="SELECT payment_id FROM payments WHERE payment_id >= %s AND status = 'processed'",
        )

    def database(self, role: str) -> str:
        return role

    def server_of(self, role: str) -> Server:
        return Server(self.stack.state.dsns[role])

    def open_accounts(self, names: Sequence[str], balance_minor: int) -> None:
        pipeline_accounts.open_accounts(self.addresses["account"], names, balance_minor, "USD")

    def kill_worker(self, name: str) -> None:
        running = {status.name for status in self.stack.statuses() if status.pid is not None}
        if name in running:  # else it is dead already
            self.stack.kill(name)

    def _finished_dsn(self) -> str:
        return self.addresses["saga"]


def _ensure_topic(bootstrap: str, name: str) -> None:
    client = admin(bootstrap)
    if name in client.list_topics(timeout=TOPIC_S).topics:
        return
    for future in client.create_topics([NewTopic(name, PARTITIONS, 1)], operation_timeout=TOPIC_S).values():
        future.result(timeout=TOPIC_S)


_KINDS: dict[str, type[Site]] = {
    "two_phase_commit": _TwoPhaseSite,
    "saga": _SagaSite,
    "event_sourcing": _EventSite,
    "outbox_polling": _PollingSite,
}


def site(name: str, stack: Stack, poll_every_s: float = outbox.POLL_EVERY_S) -> Site:
    """The approach of that name, to be started on a stack."""
    return _KINDS.get(name, Site)(SPECS[name], stack, poll_every_s)
