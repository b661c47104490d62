"""What the integration tests share: one real stack with every service, and what they ask of it."""

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import hypothesis
import psycopg
import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from uuid_utils.compat import uuid7
from xdist.scheduler import LoadScopeScheduling

import tracing
from broker import security
from broker.offsets import Offsets
from contracts.events import WithdrawalRequested, encode
from contracts.services import TOPICS
from contracts.topics import consumer_group
from lab.chaos.arming import Arming
from operations.audit.run import Audit
from operations.audit.run import run as run_audit
from operations.lag import consumer_lag
from processors.account.accounts import open_accounts, show_account
from processors.saga.status import Status, status_of
from producers.client import WithdrawalClient
from stack.provision import migrate
from stack.supervisor import SERVICES, Stack
from tracing.collector import SpanCollector
from tracing.setup import TracingSettings

WAIT_S = 60.0
SECURE = bool(os.environ.get("SETTLE_TEST_SECURE"))
"""Whether the stacks that tests share, and those of the relay's and of chaos, are secured ones."""
OWN_STACKS = (
    "relay",
    "test_chaos.py",
    "api",
    "retries",
    "browser",
    "relay/test_faults.py",
    "relay/test_cluster.py",
    "relay/test_demo.py",
    "relay/test_debezium.py",
    "console",
    "test_stack.py",
    "test_secured.py",
    "test_republish.py",
    "test_grants.py",
    "test_postgres_tls.py",
    "test_versions.py",
    "test_demo.py",
    "test_add_a_service.py",
    "test_classic_groups.py",
    "test_kafka_security.py",
    "test_kafka_oauth.py",
)
"""What runs on a stack of its own comes first, the longest soonest: none of it is left over at the end, and each
worker's shared stack, which costs something at rest too, starts when it is needed."""
LONGEST_SHARED = ("test_faults.py", "test_crashes.py", "test_compare.py")
OPENING_MINOR = 1_000_000
PATIENT_EXPORT = {"OTEL_EXPORTER_OTLP_TIMEOUT": f"{WAIT_S:g}"}
"""Spans that the collector does not take in time are lost: one test has it hang while withdrawals pass."""

# No broker here lives long enough for Java's optimizing compiler to give back what it takes.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

# How long an example takes says something about the machine: nothing is timed.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

T = TypeVar("T")


def scope_of(nodeid: str) -> str:
    """What tests must stay together with, as they share a stack: a file, or those of a folder."""
    path = nodeid.partition("::")[0].removeprefix("tests/").removeprefix("integration/")
    folder = path.partition("/")[0]
    return folder if folder in OWN_STACKS and path not in OWN_STACKS else path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = (*OWN_STACKS, "unit", *LONGEST_SHARED)
    places = {scope: place for place, scope in enumerate(order)}

    def place(item: pytest.Item) -> int:
        scope = scope_of(item.nodeid)
        return places.get("unit" if scope.startswith("unit/") else scope, len(places))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What is there now stays. To look at it again would take a quarter of a second after each module."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def clients_are_gone() -> Iterator[None]:
    """Kafka's clients end when they are collected, which is late: each has threads, and looks for its broker."""
    yield
    gc.collect()


class ByFile(LoadScopeScheduling):
    """Hands each worker what must stay together."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
    """Ask again and again until the answer is true; the answer."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}; last answer {answer!r}"
        time.sleep(0.05)
    return answer


def kafka(stack: Stack, **properties: Any) -> dict[str, Any]:
    """Properties of a client of a test's own, which may do everything."""
    address = stack.admin_bootstrap
    return {"bootstrap.servers": address, **security.properties(address), **properties}


class Settle:
    """A running stack, as a test sees it."""

    def __init__(self, stack: Stack, arming: Arming, collector: SpanCollector, client: WithdrawalClient) -> None:
        self.stack = stack
        self.arming = arming
        self.collector = collector
        self.client = client
        self.bootstrap = stack.state.kafka_bootstrap
        self.dsns = stack.state.dsns
        self._connections: dict[str, psycopg.Connection] = {}
        self._producer = Producer(self.kafka(partitioner="murmur2_random"))

    def kafka(self, **properties: Any) -> dict[str, Any]:
        """Properties of a client of a test's own, in which _ stands for a dot; it may do everything."""
        return kafka(self.stack, **{name.replace("_", "."): value for name, value in properties.items()})

    def open_account(self, balance_minor: int = OPENING_MINOR, currency: str = "USD") -> str:
        """A new account of its own for a test."""
        name = f"acc-{uuid7()}"
        open_accounts(self.dsns["account"], [name], balance_minor, currency)
        return name

    def balance(self, account: str) -> int:
        row = show_account(self.dsns["account"], account)
        assert row is not None
        return row.balance_minor

    def status(self, payment_id: UUID) -> Status | None:
        return self._on("saga", lambda connection: status_of(connection, payment_id))

    def finished(self, payment_id: UUID, timeout_s: float = WAIT_S) -> Status:
        """The status of a withdrawal, once it is finished."""

        def ended() -> Status | None:
            status = self.status(payment_id)
            return status if status and status.finished else None

        return wait_until(ended, f"withdrawal {payment_id} finished", timeout_s)  # type: ignore[return-value]

    def events(self, payment_id: UUID) -> list[str]:
        status = self.status(payment_id)
        return [step.event for step in status.steps] if status else []

    def audit(self) -> Audit:
        """The audit, once all is quiet; it must hold."""
        audit = run_audit(self.dsns, self.bootstrap, WAIT_S)
        assert audit.ok, [check for check in audit.checks if not check.ok]
        return audit

    def all_read(self) -> None:
        """Wait until every service has read, and done, all that is on its topics."""
        wait_until(lambda: not consumer_lag(self.bootstrap), "everything is read")

    def mail(self, payment_id: UUID, template: str) -> str:
        """A mail, once it is sent: what ends a withdrawal and the mail about it do not wait for each other."""
        path = self.stack.data / "mail" / f"{payment_id}.{template}.eml"
        wait_until(path.exists, f"mail {path.name}")
        return path.read_text()

    def query(self, database: str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._on(database, lambda connection: connection.execute(sql, values or None).fetchall())  # type: ignore[arg-type]

    def _on(self, database: str, ask: Callable[[psycopg.Connection], T]) -> T:
        """Ask on a connection that is kept: twenty new ones a second would keep a core busy."""
        kept = self._connections.get(database)
        if kept is not None and not kept.closed:
            with suppress(psycopg.OperationalError):  # a test may have ended the server since
                return ask(kept)
            kept.close()
        self._connections[database] = psycopg.connect(self.dsns[database], autocommit=True)
        return ask(self._connections[database])

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def execute(self, database: str, *statements: str) -> None:
        """Change something behind a service's back."""
        with psycopg.connect(self.dsns[database]) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[call-overload]

    def new_database(self, kind: str, name: str) -> str:
        """The URL of another database of a kind (``saga``, ``provider``, …) that no service works on."""
        with psycopg.connect(self.dsns[kind], autocommit=True) as server:
            server.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        dsn = f"{self.dsns[kind].rpartition('/')[0]}/{name}"
        migrate(kind, dsn)
        return dsn

    def counts(self) -> dict[str, int]:
        """How many rows each table, and records each topic of events, has that a repeated message could add to."""
        tables = {
            "account": ("saga_log", "ledger"),
            "payment": ("payments",),
            "notification": ("notifications",),
            "saga": ("event_store", "withdrawals"),
            "provider": ("charges",),
        }
        rows = {
            f"{database}.{table}": self.query(database, f"SELECT count(*) FROM {table}")[0][0]
            for database, names in tables.items()
            for table in names
        }
        return rows | {topic.name: self.length(topic.name) for topic in TOPICS if topic.name.endswith(".events")}

    def length(self, topic: str) -> int:
        """How many records a topic has ever had."""
        consumer = Consumer(self.kafka(group_id="test"))
        try:
            partitions = consumer.list_topics(topic, 10).topics[topic].partitions
            places = [TopicPartition(topic, partition) for partition in partitions]
            return sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
        finally:
            consumer.close()

    def send(self, topic: str, value: bytes, key: str, **headers: str | bytes) -> tuple[int, int]:
        """Write any record; its partition and offset."""
        placed: list[Message] = []
        self._producer.produce(
            topic,
            value,
            key=key,
            headers=list(headers.items()),
            on_delivery=lambda error, message: placed.append(message) if error is None else None,
        )
        self._producer.flush(WAIT_S)
        return placed[0].partition(), placed[0].offset()

    def send_request(self, request: WithdrawalRequested) -> None:
        """A request as a foreign producer would write it: with a message ID of its own."""
        self.send(
            "withdrawal.requests",
            encode(request),
            request.account_id,
            id=str(uuid7()),
            eventType="WithdrawalRequested",
        )

    def find(self, topic: str, wanted: Callable[[Message], bool]) -> Message:
        """Wait for a record on a topic."""
        with self.reader(topic) as consumer:
            return wait_until(
                lambda: next((m for m in consumer.consume(500, 0.2) if not m.error() and wanted(m)), None),
                f"a record on {topic}",
            )

    def set_offsets(self, service: str, places: Sequence[TopicPartition]) -> None:
        """Have a service that is stopped go on somewhere else."""
        admin = AdminClient(self.kafka())
        request = ConsumerGroupTopicPartitions(consumer_group(service), list(places))

        def is_set() -> bool:
            # Refused while the group still counts its old member.
            (future,) = admin.alter_consumer_group_offsets([request]).values()
            try:
                return all(place.error is None for place in future.result(timeout=WAIT_S).topic_partitions)
            except KafkaException:
                return False

        wait_until(is_set, f"{service} goes on somewhere else")

    def committed(self, service: str, topic: str) -> dict[tuple[str, int], int]:
        """From where on each partition a service would go on if it started now."""
        confirmed = Offsets(self.bootstrap).confirmed(consumer_group(service), [topic])
        return {place: max(offset, 0) for place, offset in confirmed.items()}

    @contextmanager
    def reader(self, topic: str) -> Iterator[Consumer]:
        """A consumer of a whole topic from its beginning, in no group."""
        consumer = Consumer(self.kafka(group_id="test", enable_auto_commit=False))
        partitions = consumer.list_topics(topic, 10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        try:
            yield consumer
        finally:
            consumer.close()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Sequence[ReadableSpan]]]:
    """Every withdrawal of this process traced into memory; ask for the finished spans.

    What the shared stack's tests export is set aside meanwhile, not shut down.
    """
    monkeypatch.setattr(tracing.setup, "_recorder", None)
    monkeypatch.setattr(tracing.setup, "_ratio", 0.0)
    exporter = InMemorySpanExporter()
    tracing.configure("test", settings=TracingSettings(traces_sampler_arg=1), exporter=exporter)

    def finished() -> Sequence[ReadableSpan]:
        tracing.shutdown()
        return exporter.get_finished_spans()

    yield finished
    tracing.shutdown()


def trace_requests(collector: SpanCollector) -> None:
    """Have this process send the spans of its requests where the services send theirs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PATIENT_EXPORT.items():
            patch.setenv(name, value)
        tracing.configure("producer", settings=TracingSettings(exporter_otlp_endpoint=collector.endpoint))


@pytest.fixture(autouse=True)
def requests_are_traced(request: pytest.FixtureRequest) -> None:
    """Whatever a test of tracing itself did before in this process."""
    if "settle" in request.fixturenames:
        settle: Settle = request.getfixturevalue("settle")
        if not tracing.enabled():
            trace_requests(settle.collector)


@pytest.fixture(scope="session")
def settle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settle]:
    """Everything running, every withdrawal traced."""
    with running(tmp_path_factory.mktemp("stack")) as settle:
        yield settle


@contextmanager
def running(data: Path, **variables: str) -> Iterator[Settle]:
    """A stack on a folder, with further variables."""
    with SpanCollector() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **PATIENT_EXPORT, **variables}
        arming = Arming()
        with Stack(data, services=SERVICES, environment=environment, command=arming, secure=SECURE) as stack:
            trace_requests(collector)
            # Patient: some tests take the broker away.
            with (
                WithdrawalClient(stack.state.kafka_bootstrap, delivery_timeout_s=WAIT_S) as client,
                closing(Settle(stack, arming, collector, client)) as settle,
            ):
                yield settle
            tracing.shutdown()
            stack.hurry()  # how it stops in order is a test's of its own; nobody needs what is in it any more
