"""Which rows of a table that keeps them are taken for unpublished, by what their topics still hold."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from outbox_relay import initial, published
from outbox_relay.errors import SetupError, StopRequestedError
from outbox_relay.first_batches import murmur2
from outbox_relay.initial import IfTopicComplete
from outbox_relay.outbox import OUTBOX, Additional, ColumnNames, Outbox
from outbox_relay.published import NEVER_US
from outbox_relay.row import OutboxRow
from outbox_relay.shape import Shape
from outbox_relay.source_settings import SourceSettings

NOW_US = 1_000
SINCE_US = [100, NEVER_US]
KEYS = [next(key for key in (b"%d" % n for n in range(100)) if murmur2(key) % 2 == one) for one in (0, 1)]


def rule(monkeypatch, outbox=OUTBOX, times_us=SINCE_US, **given):
    monkeypatch.setattr(initial, "complete_since_us", lambda *_: times_us)
    return IfTopicComplete(SourceSettings("dbname=x", "nowhere:1", outbox), NOW_US, **given)


def row(key):
    return OutboxRow(b"1", b"orders", key, b"T", b"{}")


@pytest.mark.parametrize(
    "outbox",
    [
        Outbox(),
        Outbox(additional=(Additional("tenant"),)),
        Outbox(columns=ColumnNames(type=None)),
    ],
    ids=["standard", "further headers", "no type"],
)
def test_a_row_is_judged_by_the_partition_of_its_key(monkeypatch, outbox):
    wants = rule(monkeypatch, outbox).wants
    assert [wants(row(KEYS[0]), at_us) for at_us in (99, 100)] == [False, True]
    assert [wants(row(KEYS[1]), at_us) for at_us in (999, 1_000)] == [False, True]


@pytest.mark.parametrize(
    ("outbox", "key"),
    [
        (Outbox(), None),
        (Outbox(additional=(Additional("shard", "partition"),)), KEYS[0]),
        (Outbox(shape=Shape()), KEYS[0]),
    ],
    ids=["no key", "a partition of its own", "a shape"],
)
def test_a_row_whose_partition_is_not_known_is_judged_by_all_of_them(monkeypatch, outbox, key):
    wants = rule(monkeypatch, outbox).wants
    assert [wants(row(key), at_us) for at_us in (999, 1_000)] == [False, True]


def test_a_person_is_asked_where_compaction_may_have_taken_records_of_published_rows(monkeypatch):
    wants = rule(monkeypatch, times_us=None).wants
    assert wants(row(KEYS[0]), NOW_US)
    for at_us in (NOW_US - 1, None):
        with pytest.raises(SetupError, match=r"compacted.*--initial all or none"):
            wants(row(KEYS[0]), at_us)


def test_a_row_that_may_lack_a_mark_alone_stays_without_one_where_nobody_can_decide_on_it(monkeypatch):
    kept = rule(monkeypatch, times_us=None, for_marks=True)
    assert [kept.wants(row(KEYS[0]), at_us) for at_us in (None, NOW_US - 1, NOW_US)] == [False, False, True]
    said = []
    initial.tell(kept, lambda line, **context: said.append((line, context)), "")
    assert said == [(initial._UNDECIDED, {"rows": 2})]


def told(found):
    """Kafka's administration, as it tells the configuration of a topic."""
    asked = Future()
    (asked.set_exception if isinstance(found, Exception) else asked.set_result)(found)
    return SimpleNamespace(describe_configs=lambda resources, request_timeout: {resources[0]: asked})


@pytest.mark.parametrize(
    ("found", "is_compacted"),
    [
        ({"cleanup.policy": SimpleNamespace(value="delete")}, False),
        ({"cleanup.policy": SimpleNamespace(value="compact")}, True),
        ({"cleanup.policy": SimpleNamespace(value="compact,delete")}, True),
        ({}, None),
        (KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)), None),
    ],
    ids=["delete", "compact", "both", "not told", "no right"],
)
def test_kafka_tells_whether_a_topic_is_compacted_or_nothing(monkeypatch, found, is_compacted):
    monkeypatch.setattr(published, "admin", lambda _: told(found))
    assert published._is_compacted("nowhere:1", "orders.events") is is_compacted


class Records:
    """A consumer of a topic of one partition, which has records at these offsets below its end.

    Args:
        offsets: of its records.
        deleted_until: what retention deletes as soon as it is read.
    """

    END = 7

    def __init__(self, offsets, deleted_until=0):
        self.first, self.deleted_until = 0, deleted_until
        self.records = [
            SimpleNamespace(
                partition=lambda: 0, offset=lambda at=at: at, error=lambda: None, timestamp=lambda at=at: (0, at)
            )
            for at in offsets
        ]
        end = SimpleNamespace(code=lambda: KafkaError._PARTITION_EOF)
        self.records.append(SimpleNamespace(partition=lambda: 0, offset=lambda: self.END, error=lambda: end))

    def list_topics(self, *_):
        found = SimpleNamespace(error=None, partitions={0: SimpleNamespace(leader=1)})
        return SimpleNamespace(topics={"orders.events": found})

    def get_watermark_offsets(self, *_):
        return self.first, self.END

    def assign(self, _):
        self.first = self.deleted_until

    def consume(self, *_):
        return [one for one in self.records if one.offset() >= self.first]

    def close(self):
        """Nothing is open."""


def kept_with(monkeypatch, consumer, told_of_it, **given):
    monkeypatch.setattr(published, "admin", lambda _: told(told_of_it))
    monkeypatch.setattr(published, "reader", lambda *_: consumer)
    return IfTopicComplete(SourceSettings("dbname=x", "nowhere:1"), NOW_US, **given)


@pytest.mark.parametrize(
    "offsets",
    [range(1, 7), (0, 1, 2, 4, 5, 6), range(6), ()],
    ids=["the first", "one between", "the last", "all"],
)
def test_a_topic_that_does_not_tell_how_it_is_cleaned_up_counts_as_compacted_where_records_are_missing(
    monkeypatch, offsets
):
    kept = kept_with(monkeypatch, Records(offsets), {})
    with pytest.raises(SetupError, match=r"do not tell .*DescribeConfigs.*--initial all or none"):
        kept.wants(row(KEYS[0]), 99)
    assert kept.wants(row(KEYS[0]), NOW_US)


def test_a_topic_that_does_not_tell_how_it_is_cleaned_up_and_has_every_record_decides(monkeypatch):
    kept = kept_with(monkeypatch, Records(range(7)), {})
    assert [kept.wants(row(key), 99) for key in KEYS] == [True, True]


def test_what_retention_deletes_while_a_topic_is_read_was_not_taken_by_compaction(monkeypatch):
    kept = kept_with(monkeypatch, Records(range(7), deleted_until=3), {})
    assert [kept.wants(row(KEYS[0]), at_us) for at_us in (NOW_US - 1, NOW_US)] == [False, True]


def test_a_topic_that_tells_how_it_is_cleaned_up_is_not_read_for_that(monkeypatch):
    kept = kept_with(monkeypatch, Records(()), {"cleanup.policy": SimpleNamespace(value="delete")})
    assert kept.wants(row(KEYS[0]), 99)


def test_a_relay_that_is_to_end_does_not_read_a_topic_to_its_end_first(monkeypatch):
    def stop():
        raise StopRequestedError("stopped")

    kept = kept_with(monkeypatch, Records(range(7)), {}, meanwhile=stop)
    with pytest.raises(StopRequestedError):
        kept.wants(row(KEYS[0]), 99)


def test_a_kafka_that_does_not_answer_says_nothing_of_a_topic(monkeypatch):
    monkeypatch.setattr(published, "admin", lambda _: told(KafkaException(KafkaError(KafkaError._TIMED_OUT))))
    with pytest.raises(KafkaException):
        published._is_compacted("nowhere:1", "orders.events")
