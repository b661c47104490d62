"""librdkafka's mock cluster, of which one broker can be taken away: what a real one does not do to order."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka import Producer

_BUNDLED = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
PARTITIONS = 4


class MockCluster:
    """Two brokers and a topic ``t``: the first coordinates the groups, the second leads all partitions."""

    COORDINATOR, LEADER = 1, 2

    def __init__(self, group: str) -> None:
        libraries = [*_BUNDLED.glob("librdkafka*")]
        if not libraries:
            pytest.skip("librdkafka is not bundled with confluent-kafka here")
        self._library = library = ctypes.CDLL(str(libraries[0]))
        for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
            getattr(library, name).restype = ctypes.c_void_p
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        error = ctypes.create_string_buffer(512)
        configuration = ctypes.c_void_p(library.rd_kafka_conf_new())
        self._client = ctypes.c_void_p(library.rd_kafka_new(0, configuration, error, ctypes.c_size_t(512)))
        self._cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(self._client, 2))
        library.rd_kafka_mock_topic_create(self._cluster, b"t", PARTITIONS, 1)
        for number in range(PARTITIONS):
            library.rd_kafka_mock_partition_set_leader(self._cluster, b"t", number, self.LEADER)
        library.rd_kafka_mock_coordinator_set(self._cluster, b"group", group.encode(), self.COORDINATOR)
        self.bootstrap: str = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def write(self, records: int) -> None:
        """Write so many records to each partition."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for partition in range(PARTITIONS):
            for _ in range(records):
                producer.produce("t", b"x", partition=partition)
        assert producer.flush(30) == 0

    def take_away(self, broker: int) -> None:
        self._library.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def bring_back(self, broker: int) -> None:
        self._library.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def close(self) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


@contextmanager
def mock_cluster(group: str) -> Iterator[MockCluster]:
    cluster = MockCluster(group)
    try:
        yield cluster
    finally:
        cluster.close()
