"""The demonstration of ``outbox-relay demo``: an outbox, a real Kafka, and a relay that is killed at work.

PostgreSQL and Kafka are those of a stack, without its topics, schemas and services, on a folder that is gone
afterwards.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import psycopg
from confluent_kafka import KafkaException, Message, TopicPartition
from confluent_kafka.cimpl import NewTopic

from broker.clients import admin, reader
from contracts import headers
from contracts.postgres import session
from stack.errors import StackError
from stack.jars import kafka_jars
from stack.kafka import Kafka
from stack.part import Part
from stack.ports import choose
from stack.postgres import Clusters, Postgres
from stack.process import Child, Home, start

DATABASE = "orders"
TOPIC = "orders.events"
PARTITIONS = 3
ORDERS = 20
ROWS = 20_000
ROWS_EACH = 100
KILLS = 3
PREPARED_S = 60.0
PUBLISHED_S = 120.0
POLL_S = 0.05
STOP_S = 10.0

CREATE = """\
CREATE TABLE outbox (
    id            uuid PRIMARY KEY DEFAULT uuidv7(),
    aggregatetype text NOT NULL,
    aggregateid   text NOT NULL,
    type          text NOT NULL,
    payload       json NOT NULL
);"""
_INSERT = """
INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
SELECT 'orders', 'order-' || n %% %(orders)s, 'OrderChanged', json_build_object('number', n)
FROM generate_series(%(first)s::int, %(last)s) AS n
"""


class Servers(NamedTuple):
    """The two servers: where their processes belong, a database's URL, and Kafka's ``host:port``."""

    home: Home
    dsn: str
    bootstrap: str


def demo(say: Callable[[str], None]) -> None:
    """Run it, some 20 seconds.

    Args:
        say: called with each line for a person.

    Raises:
        StackError: a server does not start, or the topic is not as promised.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    say("Starting PostgreSQL and Apache Kafka, on a folder that is gone afterwards …")
    with tempfile.TemporaryDirectory(prefix="outbox-relay-demo-") as folder, servers(Path(folder)) as found:
        say(f"An outbox in the database {DATABASE}:\n\n{indent(CREATE, '    ')}\n")
        say(
            f"{ROWS:,} rows of {ORDERS} orders are committed, {ROWS_EACH} at a time, as the relay publishes.\n"
            f"It is killed (SIGKILL) {KILLS} times, and started again:\n\n"
            "    outbox-relay --source postgresql://…/orders --bootstrap 127.0.0.1:…\n"
        )
        _write_and_publish(found, say)
        records = read(found.bootstrap)
        say(_verdict(records))
        say(f"The last record, as consumers see it:\n\n{_shown(records[-1])}\n")
    say("Both servers have ended. Next: outbox-relay --help, docs/relay.md.")


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """PostgreSQL with a database, and Kafka with a topic, for as long as this lasts.

    Raises:
        StackError: one does not start.
    """
    with open(folder / "children", "wb") as children:
        home = Home(folder, children.fileno())
        taken: set[int] = set()
        kafka = Kafka(home, kafka_jars(print), choose(taken=taken), choose(taken=taken))
        postgres = Postgres(home, DATABASE, choose(taken=taken), {})
        clusters = Clusters(home, [DATABASE])
        running: list[Child] = []
        try:
            # Taken one by one, so that each is ended if the next one is interrupted.
            running.extend(child for one in (kafka, clusters) if (child := one.prepare()) is not None)
            for child in running:
                if not child.wait(PREPARED_S) or child.exit_code():
                    raise StackError(f"{child.name} failed: {child.last_log_line()}")
            clusters.prepared()
            running.extend(part.launch() for part in (kafka, postgres))
            for part in (kafka, postgres):
                _await(part)
            postgres.create_database()
            with session(postgres.dsn, autocommit=True) as owner:
                owner.execute(CREATE.encode())
            new = NewTopic(TOPIC, PARTITIONS, replication_factor=1)
            client = admin(kafka.address)
            client.create_topics([new])[TOPIC].result(PREPARED_S)
            yield Servers(home, postgres.dsn, kafka.address)
        finally:
            for child in running:
                child.signal(signal.SIGKILL)  # nothing of it is kept
            for child in running:
                child.wait(STOP_S)


def _await(part: Part) -> None:
    give_up = time.monotonic() + part.start_timeout_s
    while (why := part.waits_for()) is not None:
        if time.monotonic() > give_up:
            raise StackError(f"{part.name} does not start: {why}")
        time.sleep(POLL_S)


def _write_and_publish(found: Servers, say: Callable[[str], None]) -> None:
    relay = _relay(found)
    try:
        with session(found.dsn, autocommit=True) as writer:
            for first in range(1, ROWS + 1, ROWS_EACH):
                values = {"orders": ORDERS, "first": first, "last": first + ROWS_EACH - 1}
                writer.execute(_INSERT, values)
                if first % (ROWS // (KILLS + 1)) == 1 and first > 1:
                    _published(found, first // 2)  # it is in the middle of its work
                    relay.signal(signal.SIGKILL)
                    relay.wait(STOP_S)
                    say(f"    killed when {first - 1:>6,} rows were committed")
                    relay = _relay(found)
            _published(found, ROWS)
            # Published rows leave the table: what is left would be published again by a relay with a bad memory.
            _until(lambda: _left(writer) == 0, "the table is not emptied")
    finally:
        relay.signal(signal.SIGTERM)
        relay.wait(STOP_S)


def _relay(found: Servers) -> Child:
    # In a variable: every user can read a process's arguments, and the URL has a password.
    environment = {"SETTLE_RELAY_SOURCES": found.dsn, "SETTLE_KAFKA_BOOTSTRAP": found.bootstrap}
    return start(found.home, "relay", [sys.executable, "-P", "-m", "outbox_relay"], environment=environment)


def _left(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM outbox").fetchone()
    return row[0] if row is not None else 0


def _published(found: Servers, rows: int) -> None:
    _until(lambda: sum(end - first for first, end in _bounds(found.bootstrap)) >= rows, f"not {rows:,} published")


def _until(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + PUBLISHED_S
    while not _is_so(condition):
        if time.monotonic() > give_up:
            raise StackError(f"after {PUBLISHED_S:.0f} s, {what}")
        time.sleep(POLL_S)


def _is_so(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except KafkaException:  # it does not answer in time, on a busy machine
        return False


def _bounds(bootstrap: str) -> Sequence[tuple[int, int]]:
    with reader(bootstrap, "outbox-relay-demo") as consumer:
        places = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
        return [consumer.get_watermark_offsets(place, timeout=STOP_S) for place in places]


def read(bootstrap: str) -> Sequence[Message]:
    """All records of the topic, of each partition in order."""
    wanted = sum(end - first for first, end in _bounds(bootstrap))
    found: list[Message] = []
    with reader(bootstrap, "outbox-relay-demo") as consumer:
        consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(PARTITIONS)])
        give_up = time.monotonic() + PUBLISHED_S
        while len(found) < wanted and time.monotonic() < give_up:
            found += [message for message in consumer.consume(1_000, timeout=1) if message.error() is None]
    return found


def _verdict(records: Sequence[Message]) -> str:
    numbers: dict[bytes, list[int]] = {}
    for record in records:
        key, value = record.key(), record.value()
        number = int((value or b"").split(b":")[1].strip(b" }"))
        numbers.setdefault(key if isinstance(key, bytes) else b"", []).append(number)
    every = sorted(number for of_one in numbers.values() for number in of_one)
    if every != list(range(1, ROWS + 1)) or any(of_one != sorted(of_one) for of_one in numbers.values()):
        raise StackError(f"the topic is not as promised: {len(records):,} records of {ROWS:,} rows")
    return f"\nThe topic {TOPIC} has {len(records):,} records: each row once, each order in order.\n"


def _shown(record: Message) -> str:
    shown = [f"{name}={(value or b'').decode()}" for name, value in headers.of(record) or ()]
    key, value = record.key(), record.value()
    lines = {
        "topic": f"{record.topic()}, partition {record.partition()}, offset {record.offset()}",
        "key": key.decode() if isinstance(key, bytes) else "",
        "value": (value or b"").decode(),
    }
    first, *others = shown
    return "\n".join(
        [f"    {name:<8}{text}" for name, text in lines.items()]
        + [f"    headers {first}", *(f"            {other}" for other in others)]
    )
