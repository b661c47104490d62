"""The reference for latency: five times commit a row, produce a record, consume it, in a plain loop."""

import statistics
import time
from uuid import uuid4

from confluent_kafka import TopicPartition
from confluent_kafka.cimpl import NewTopic

from broker.clients import admin, idempotent_producer, reader
from contracts.postgres import session

HOPS = 5
"""A withdrawal's: request, deduction, payment, notification or saga, completion."""

TIMEOUT_S = 30.0


def chain_ms(dsn: str, bootstrap: str, rounds: int = 200) -> float:
    """The median time of :data:`HOPS` hops, milliseconds.

    Args:
        dsn: of a database; a table is made there and dropped.
        bootstrap: Kafka; a topic is made there and deleted.
        rounds: chains to measure, after a tenth of that to warm up.
    """
    name = f"bench-chain-{uuid4()}"
    topics = admin(bootstrap)
    topics.create_topics([NewTopic(name, num_partitions=1)])[name].result(TIMEOUT_S)
    producer = idempotent_producer(bootstrap, {"linger.ms": 0})
    consumer = reader(bootstrap, "bench-chain")
    consumer.assign([TopicPartition(name, 0, 0)])
    try:
        with session(dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE bench_chain (id uuid PRIMARY KEY)")
            try:
                took_s = []
                for _ in range(rounds + rounds // 10):
                    began = time.perf_counter()
                    for _ in range(HOPS):
                        one = uuid4()
                        connection.execute("INSERT INTO bench_chain VALUES (%s)", (one,))
                        producer.produce(name, one.bytes)
                        producer.flush(TIMEOUT_S)
                        message = consumer.poll(TIMEOUT_S)
                        assert message is not None and message.value() == one.bytes
                    took_s.append(time.perf_counter() - began)
            finally:
                connection.execute("DROP TABLE bench_chain")
    finally:
        consumer.close()
        topics.delete_topics([name])[name].result(TIMEOUT_S)
    return statistics.median(took_s[rounds // 10 :]) * 1e3
