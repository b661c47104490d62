"""Nothing that anybody can put on a topic stops a service, or the tools that look at what it refused."""

import asyncio
import os
import subprocess
import sys
from contextlib import closing
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from broker.deliver import deliver
from broker.records import Record
from broker.scan import scan
from contracts import headers
from contracts.topics import WITHDRAWAL_REQUESTS
from operations.dead_letters.letters import Letter, letter_of, read_letters
from operations.dead_letters.redrive import send_back
from processors.runtime.consumer import BATCH_BYTES, BatchConsumer
from processors.runtime.dead_letters import DeadLetters
from processors.runtime.messages import DeadLetter
from tests.conftest import Settle, wait_until

ID, TYPE = (headers.ID, b"1"), (headers.EVENT_TYPE, b"WithdrawalRequested")
REQUESTS = WITHDRAWAL_REQUESTS.name


def new_topic(settle: Settle, ending: str = "", **config: str) -> str:
    name = f"foreign-{uuid4().hex}{ending}"
    admin = AdminClient(settle.kafka())
    options = {key.replace("_", "."): value for key, value in config.items()}
    (made,) = admin.create_topics([NewTopic(name, 1, 1, config=options)]).values()
    made.result(30)
    return name


def send(settle: Settle, topic: str, value: bytes | None, key: str, codec: str = "none", fields=(ID, TYPE)) -> str:
    """Write one record; its place."""
    placed = []
    config = {"message.max.bytes": 200_000_000, "compression.type": codec, "partitioner": "murmur2_random"}
    producer = Producer({**settle.kafka(), **config})
    producer.produce(topic, value, key, headers=list(fields), on_delivery=lambda *result: placed.append(result))
    producer.flush(60)
    ((error, message),) = placed
    assert error is None
    return f"{message.topic()}/{message.partition()}@{message.offset()}"


def letters_of(settle: Settle, places: dict[str, str]) -> dict[str, Letter]:
    """The dead letters of some records, once each is there, by the same names."""

    def found() -> dict[str, Letter] | None:
        known = {letter.id: letter for letter in read_letters(settle.bootstrap)}
        wanted = {name: known[place] for name, place in places.items() if place in known}
        by_both = all({one.service for one in x.refusals} == {"account", "saga"} for x in wanted.values())
        return wanted if by_both and len(wanted) == len(places) else None

    return wait_until(found, "account and saga have refused them all")


def test_junk_of_any_size_and_compression_is_a_dead_letter_and_stops_nobody(settle: Settle):
    account = settle.open_account()
    noise = os.urandom(1_048_400)  # with its key and headers as much as the topic takes
    places = {
        "noise": send(settle, REQUESTS, noise, account),
        "key": send(settle, REQUESTS, None, account + "k" * 1_000_000),
        "header": send(settle, REQUESTS, b"{}", account, fields=[ID, TYPE, ("h", noise[:1_000_000])]),
        "headers": send(settle, REQUESTS, b"{}", account, fields=[ID, TYPE] + [("h", None)] * 100_000),
        "gzip": send(settle, REQUESTS, b"\0" * 20_000_000, account, "gzip"),
        "lz4": send(settle, REQUESTS, b"\0" * 20_000_000, account, "lz4"),
        "zstd": send(settle, REQUESTS, b"\0" * 120_000_000, account, "zstd"),
    }
    after = settle.client.request(account, "1.00")
    assert settle.finished(after.payment_id).state == "completed"

    letters = letters_of(settle, places)
    whole = {"noise", "key", "header", "headers"}
    assert {name for name, letter in letters.items() if letter.record.lacks is None} == whole
    assert letters["noise"].record.value == noise
    assert len(letters["header"].record.headers[-1][1] or b"") == 1_000_000
    for name in ("gzip", "lz4"):
        assert set(letters[name].record.value or b"") == {0}
        assert "it has 20000000 bytes" in letters[name].refusals[0].reason
        assert letters[name].event_type == "WithdrawalRequested"
    assert letters["zstd"].record.value is None
    assert "cannot be read" in letters["zstd"].refusals[0].reason

    done = send_back(settle.bootstrap, [letters[name] for name in ("gzip", "noise", "lz4", "zstd")])
    assert list(done.places) == [letters["noise"].id]
    assert set(done.stay) == {letters[name].id for name in ("gzip", "lz4", "zstd")}
    assert all("not all of its message" in why for why in done.stay.values())
    still_open = {letter.id for letter in read_letters(settle.bootstrap) if letter.open}
    assert {name for name, place in places.items() if place not in still_open} == {"noise"}
    settle.audit()


def published(settle: Settle, letters: list[DeadLetter]) -> dict[int, Letter]:
    """What the dead-letter topic holds after these were published, by the offsets of the originals."""
    asyncio.run(DeadLetters(settle.bootstrap, "test").publish(letters))
    found = map(letter_of, scan(settle.bootstrap, [letters[0].record.topic + ".dlq"]))
    return {letter.record.offset: letter for letter in found}


def test_a_dead_letter_that_kafka_does_not_take_is_cut_until_it_does(settle: Settle):
    # As an older version, or an operator, may have set it.
    topic = new_topic(settle, ".dlq", max_message_bytes="100000").removesuffix(".dlq")
    noise = os.urandom(300_000)
    many = [(f"h{number}", noise[number : number + 50]) for number in range(5_000)]
    found = published(
        settle,
        [
            DeadLetter(Record(topic, 7, 1, b"a", b"small", [ID]), "a reason"),
            DeadLetter(Record(topic, 7, 2, b"a", noise, [ID, TYPE]), "a large body", "x" * 100_000),
            DeadLetter(Record(topic, 7, 3, noise, None, [ID]), "a large key"),
            DeadLetter(Record(topic, 7, 4, None, b"body", [("h", noise), ID, *many, TYPE]), "large headers"),
            DeadLetter(Record(topic, 7, 5, b"a", b"small", [ID]), "\ud800 is no text"),
        ],
    )
    assert {offset: letter.record.lacks is None for offset, letter in found.items()} == {
        1: True,
        2: False,
        3: False,
        4: False,
        5: True,
    }
    assert [letter.record.partition for letter in found.values()] == [7] * 5
    assert found[1].record == Record(topic, 7, 1, b"a", b"small", [ID])
    body = found[2].record.value
    assert len(body) > 20_000
    assert noise.startswith(body)
    assert found[2].record.headers == [ID, TYPE]
    assert found[2].record.lacks == f"holds {len(body)} of 300000 bytes of the body, 2 of 2 headers"
    assert len(found[2].refusals[0].error) < 1_100
    assert found[3].record.lacks.endswith(", no key")
    assert found[4].record.value == b"body"
    assert found[4].record.headers[0] == ID
    assert found[5].refusals[0].reason == r"\ud800 is no text"


def test_a_producers_own_headers_of_a_dead_letter_are_not_taken_for_what_the_service_says(settle: Settle):
    """As of a dead letter that somebody has copied back to its topic; it says that it is not whole."""
    foreign = [("dlq.cut", b"holds its place only"), ("dlq.error", b"OldError"), ("dlq.more", b"x"), ID, TYPE]
    partition, offset = settle.send(REQUESTS, b"nothing", settle.open_account(), **dict(foreign))
    letter = letters_of(settle, {"copied": f"{REQUESTS}/{partition}@{offset}"})["copied"]
    assert (letter.record.lacks, letter.record.headers) == (None, [ID, TYPE])
    assert {refusal.error for refusal in letter.refusals} == {None}
    assert send_back(settle.bootstrap, [letter]).stay == {}


def test_a_dead_letter_that_kafka_takes_in_no_size_leaves_its_place(settle: Settle):
    topic = new_topic(settle, ".dlq", cleanup_policy="compact").removesuffix(".dlq")
    keyless = DeadLetter(Record(topic, 0, 4, None, b"a body", [ID]), "it has no key")
    found = published(settle, [keyless, DeadLetter(Record(topic, 0, 5, b"k", b"a body", [ID]), "it has one")])
    assert found[4].record == Record(topic, 0, 4, b"%s/0@4" % topic.encode(), None, [], "holds its place only")
    assert found[5].record.lacks is None


def test_a_dead_letter_waits_where_no_size_would_help(settle: Settle):
    letter = DeadLetter(Record("in valid", 0, 1, b"k", b"v", []), "its topic has no dead-letter topic")
    with pytest.raises(KafkaException):
        asyncio.run(DeadLetters(settle.bootstrap, "test").publish([letter]))


def test_a_redrive_takes_a_message_back_to_where_only_compression_let_it_in(settle: Settle):
    account = settle.open_account()
    place = send(settle, REQUESTS, b"\0" * 1_500_000, account, "gzip")
    letter = letters_of(settle, {"zeros": place})["zeros"]
    assert letter.record.lacks is None
    assert send_back(settle.bootstrap, [letter]).stay == {}


def test_a_redrive_is_not_stopped_by_a_letter_that_its_topic_no_longer_takes(settle: Settle):
    topic = new_topic(settle, max_message_bytes="100000")
    noise = os.urandom(200_000)
    records = [Record(topic, 0, n, b"k", value, [ID]) for n, value in enumerate([b"a", noise, b"b"])]
    letters = [Letter(record.place, record, []) for record in records]
    done = send_back(settle.bootstrap, letters, also_unverified=True)
    assert list(done.places) == [letters[0].id, letters[2].id]
    ((name, why),) = done.stay.items()
    assert name == f"{topic}/0@1"
    assert "size too large" in why
    assert [message.value() for message in scan(settle.bootstrap, [topic])] == [b"a", b"b"]


def test_more_records_than_a_producer_queues_are_delivered(settle: Settle):
    topic = new_topic(settle)
    producer = Producer({**settle.kafka(), "queue.buffering.max.messages": 10})
    records = [Record(topic, 0, 0, None, b"%d" % n, []) for n in range(25)]
    assert [message.value() for message in deliver(producer, records)] == [one.value for one in records]


def taken(settle: Settle, topic: str, count: int) -> list[list[Record]]:
    """All records of a topic, by the batches in which a consumer takes them."""
    consumer = BatchConsumer(settle.bootstrap, f"test-{uuid4().hex}", [topic], 8_000, 0)
    batches: list[list[Record]] = []
    with closing(consumer):
        wait_until(lambda: batches.append(consumer.take()) or sum(map(len, batches)) >= count, "all are taken")
    return batches


def test_a_batch_is_bounded_in_bytes_too(settle: Settle):
    topic = new_topic(settle)
    for _ in range(12):
        send(settle, topic, b"\0" * 2_000_000, "k", "gzip")
    batches = taken(settle, topic, 12)
    assert [record.offset for batch in batches for record in batch] == list(range(12))
    most = max(sum(len(record.value) for record in batch) for batch in batches)
    assert most <= BATCH_BYTES


def test_ignored_types_become_no_record_and_are_confirmed(settle: Settle):
    topic, group = new_topic(settle), f"test-{uuid4().hex}"
    ignored, wanted = (headers.EVENT_TYPE, b"BalanceChecked"), (headers.EVENT_TYPE, b"MoneyDeducted")
    for fields in (
        (ID, ignored),
        (ID, wanted),
        (ID, ignored, wanted),
        (ID, wanted, ignored),
        (ID,),
        (ID, ignored),
    ):
        send(settle, topic, b"{}", "k", fields=[ID, *fields])
    consumer = BatchConsumer(settle.bootstrap, group, [topic], 8_000, 0, ignored=["BalanceChecked"])
    found: list[int] = []
    with closing(consumer):

        def all_read() -> bool:
            found.extend(record.offset for record in consumer.take())
            consumer.store_offsets()
            try:
                return consumer.lag(ask_kafka=True) == {topic: 0}
            except KafkaException:  # it takes longer to answer than a service waits for it
                return False

        wait_until(all_read, "all are taken")
    with closing(Consumer({**settle.kafka(), "group.id": group})) as member:
        (place,) = member.committed([TopicPartition(topic, 0)], 10)
    assert (found, place.offset) == ([1, 2, 4], 6)


def test_a_compressed_batch_that_cannot_be_read_is_passed_over_record_by_record(settle: Settle):
    topic = new_topic(settle)
    send(settle, topic, b"before", "k")
    producer = Producer(
        {
            **settle.kafka(),
            "compression.type": "zstd",
            "message.max.bytes": 200_000_000,
            "batch.size": 200_000_000,
            "linger.ms": 60_000,  # ends with flush: however slow the machine, all three are one batch
            "enable.idempotence": True,  # and stay one when the broker asks to send it again
        }
    )
    for _ in range(3):  # each is small enough, the batch is not
        producer.produce(topic, b"\0" * 15_000_000, "k")
    producer.flush(60)
    send(settle, topic, b"after", "k")
    records = [record for batch in taken(settle, topic, 5) for record in batch]
    assert [(record.offset, record.value) for record in records] == [
        (0, b"before"),
        (1, None),
        (2, None),
        (3, None),
        (4, b"after"),
    ]
    assert all("cannot be read" in (record.lacks or "") for record in records[1:4])


def test_a_header_whose_name_is_no_text_makes_a_dead_letter_and_ends_nothing(settle: Settle):
    """confluent-kafka can neither hand it out nor make it, so it is written by another client."""
    account = settle.open_account()
    environment = {**os.environ, "AIOKAFKA_NO_EXTENSIONS": "1"}
    command = [sys.executable, "-c", WITH_A_BAD_HEADER, settle.bootstrap, REQUESTS, account]
    place = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    letter = letters_of(settle, {"name": place})["name"]
    assert "the name of a header is not UTF-8" in letter.refusals[0].reason
    assert (letter.record.value, letter.record.key) == (b"a body", account.encode())
    assert settle.finished(settle.client.request(account, "1.00").payment_id).state == "completed"


WITH_A_BAD_HEADER = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

class Name(str):
    def encode(self, *_):
        return b"\\xff"

async def main(bootstrap, topic, account):
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        sent = await producer.send_and_wait(topic, b"a body", account.encode(), headers=[(Name("n"), b"v")])
        print(f"{sent.topic}/{sent.partition}@{sent.offset}")

asyncio.run(main(*sys.argv[1:]))
"""
