"""Until a partition's leader knows the producer, one record of the partition is on its way at a time."""

from confluent_kafka import KafkaError

from outbox_relay.first_batches import ANY_PARTITION, FirstBatches, murmur2

PARTITIONS = 3


class Kafka:
    """It acknowledges what is on its way when it is waited for, and refuses records of the key ``refuses``."""

    def __init__(self):
        self.sent, self.waits, self.refuses = [], 0, None
        self.batches = FirstBatches(lambda topic: PARTITIONS if topic == "t" else 0, self.answer)

    def send(self, key, topic="t", at=ANY_PARTITION):
        if topic in self.batches.complete:
            return ANY_PARTITION
        partition, delivered = self.batches.admit(topic, key, at, lambda error, message: None)
        self.sent.append((key, delivered))
        return partition

    def answer(self):
        self.waits += 1
        sent, self.sent = self.sent, []
        for key, delivered in sent:
            delivered(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE) if key == self.refuses else None, None)


def key_of(partition, number=0):
    """A key that belongs to a partition."""
    keys = (f"{partition}-{number}-{salt}".encode() for salt in range(1_000))
    return next(key for key in keys if murmur2(key) % PARTITIONS == partition)


def test_the_hash_is_javas():
    # Of Kafka's own test, UtilsTest.testMurmur2.
    hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    assert {key: murmur2(key) for key in hashes} == {key: number & 0x7FFFFFFF for key, number in hashes.items()}


def test_the_second_record_of_a_partition_waits_for_the_first():
    kafka = Kafka()
    kafka.send(key_of(0))
    kafka.send(key_of(1))
    assert kafka.waits == 0
    kafka.send(key_of(0, 1))
    assert kafka.waits == 1
    kafka.send(key_of(0, 2))
    assert kafka.waits == 1  # what follows may be many at a time


def test_the_record_after_a_refused_one_is_a_first_one_again():
    kafka = Kafka()
    kafka.refuses = key_of(0)
    kafka.send(key_of(0))
    kafka.send(key_of(0, 1))
    kafka.send(key_of(0, 2))
    assert kafka.waits == 2


def test_a_topic_whose_partitions_all_have_a_record_is_complete_until_that_is_forgotten():
    kafka = Kafka()
    for partition in range(PARTITIONS):
        assert "t" not in kafka.batches.complete
        kafka.send(key_of(partition))
    kafka.answer()
    assert kafka.batches.complete == {"t"}
    kafka.batches.forget()
    assert not kafka.batches.complete
    kafka.send(key_of(0))
    kafka.send(key_of(0, 1))
    assert kafka.waits == 2


def test_records_without_a_key_go_to_partitions_that_have_none_on_its_way():
    kafka = Kafka()
    assert {kafka.send(None) for _ in range(PARTITIONS)} == set(range(PARTITIONS))
    assert kafka.waits == 0


def test_a_record_whose_row_names_the_partition_waits_for_the_first_one_there():
    kafka = Kafka()
    kafka.send(key_of(0))
    assert kafka.send(key_of(1), at=0) == 0
    assert kafka.waits == 1
    assert kafka.send(key_of(0, 1), at=2) == 2
    assert kafka.waits == 1


def test_a_topic_that_does_not_exist_is_left_to_the_delivery_report():
    kafka = Kafka()
    assert {kafka.send(b"key", "missing") for _ in range(3)} == {ANY_PARTITION}
    assert kafka.waits == 0
