"""A trace says what went wrong, and its spans carry what the OpenTelemetry conventions ask for."""

import asyncio
from collections import Counter

import psycopg
import pytest
from opentelemetry.trace import SpanKind, StatusCode

from broker.records import Record
from contracts import headers
from contracts.events import PaymentFailed, WithdrawalRequested, encode, follow
from processors.notification.decide import Notification
from processors.notification.mailer import NotTried as MailNotTried
from processors.notification.mailer import Refused, SmtpMailer, Undelivered
from processors.notification.processor import NotificationProcessor
from processors.payment.decide import Payment
from processors.payment.gateway import Charge, Declined, NotTried, Paid, Unavailable
from processors.payment.processor import PaymentProcessor
from processors.payment.provider.http import HttpProvider
from processors.runtime import pipeline
from processors.runtime.database import Database
from processors.runtime.hops import transaction_spans
from processors.runtime.messages import Emitted
from processors.runtime.pipeline import Pipeline
from processors.runtime.settings import ServiceSettings
from tests.unit.messages import NOW, after, request
from tests.unit.test_http_provider import ask, says
from tracing import LINKS_MAX, TraceContext
from tracing.attributes import brokers

TOPIC = "withdrawal.requests"


def parent(number, sampled=True):
    return TraceContext(f"00-{number + 1:032x}-{number + 1:016x}-0{int(sampled)}")


def record(number, *, value=None, event=None, sampled=True):
    context = parent(number, sampled)
    event = event or request()
    fields = [
        (headers.EVENT_TYPE, type(event).__name__.encode()),
        (headers.ID, f"00000000-0000-7000-8000-{number:012x}".encode()),
        (headers.TRACEPARENT, context.traceparent.encode()),
    ]
    return Record(event.topic, 0, number, b"acc-1", value if value is not None else encode(event), fields)


class Service:
    """A processor that refuses, fails and compensates where it is told to, and publishes nothing."""

    name = "account"
    handles = (WithdrawalRequested,)

    def __init__(self, fails=(), errors=(), emits=None, keeps=False):
        self.fails, self.errors, self.emits, self.keeps = set(fails), list(errors), emits, keeps

    async def process(self, batch):
        if self.errors:
            raise self.errors.pop(0)
        for message in batch.messages:
            if message.record.offset in self.fails:
                raise ZeroDivisionError("a bug")
        if self.emits:
            batch.emitted += [Emitted(self.emits(message.event), message.context) for message in batch.messages]

    async def keep(self, _message, _error):
        return self.keeps

    async def publish(self, letters):
        """Taken."""


@pytest.fixture
def run(spans, monkeypatch):
    """Run a service over records; the spans that it left, by name."""
    monkeypatch.setattr(pipeline, "BATCH_RETRY_S", (0.0,))

    def run(service, *records):
        asyncio.run(Pipeline(service, service, brokers("kafka-1:9092")).run(records))
        return [span for span in spans() if span.name != "transaction account"]

    return run


def named(found, name):
    (span,) = [span for span in found if span.name == name]
    return span


def trace_id(number):
    return number + 1


def test_one_message_is_one_process_span_below_its_sender(run):
    (span,) = run(Service(), record(7))
    assert (span.name, span.kind) == ("process withdrawal.requests", SpanKind.CONSUMER)
    assert (span.context.trace_id, span.parent.span_id) == (trace_id(7), 8)
    assert dict(span.attributes) | {"settle.payment_id": "any"} == {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": TOPIC,
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 7,
        "messaging.kafka.message.key": "acc-1",
        "messaging.message.id": "00000000-0000-7000-8000-000000000007",
        "messaging.consumer.group.name": "settle-account",
        "messaging.client.id": "settle-account",
        "server.address": "kafka-1",
        "server.port": 9092,
        "settle.payment_id": "any",
        "settle.event_type": "WithdrawalRequested",
    }
    assert span.status.status_code is StatusCode.UNSET


def test_a_batch_links_every_message_that_it_carries_and_each_of_them_the_batch(run):
    found = run(Service(), *(record(number) for number in range(200)), record(999, sampled=False))
    batch = named(found, "process batch withdrawal.requests")
    assert batch.attributes["messaging.batch.message_count"] == 201
    assert batch.attributes["messaging.operation.name"] == "process batch"
    assert {link.context.trace_id for link in batch.links} == {trace_id(number) for number in range(200)}
    messages = [span for span in found if span is not batch]
    assert len(messages) == 200
    for span in messages:
        assert [link.context.span_id for link in span.links] == [batch.context.span_id]
        assert "messaging.batch.message_count" not in span.attributes


def test_a_batch_of_several_topics_names_none_and_its_links_are_bounded(run):
    numbers = range(LINKS_MAX + 5)
    events = (request(), after(request(), PaymentFailed))
    service = Service()
    service.handles = tuple(map(type, events))
    found = run(service, *(record(number, event=events[number % 2]) for number in numbers))
    batch = named(found, "process batch")
    assert "messaging.destination.name" not in batch.attributes
    assert len(batch.links) == LINKS_MAX
    assert all(span.links for span in found)


def test_brokers_are_named_only_where_there_is_one():
    assert brokers("[::1]:9092") == {"server.address": "[::1]", "server.port": 9092}
    assert brokers("a:1,b:2") == brokers("a") == {}


def test_a_retry_is_seen_in_the_trace_and_what_succeeds_is_no_error(run):
    (span,) = run(Service(errors=[psycopg.OperationalError("the database is away")]), record(1))
    (event,) = span.events
    assert (event.name, dict(event.attributes)) == (
        "retry",
        {"error.type": "OperationalError", "settle.reason": "the database is away"},
    )
    assert span.status.status_code is StatusCode.UNSET


def test_a_dead_letter_is_an_error_that_says_why_and_its_sending_is_a_span(run):
    found = run(Service(fails={1}), record(0), record(1))
    refused, fine = sorted(
        (span for span in found if span.name == "process withdrawal.requests"),
        key=lambda span: span.status.status_code is not StatusCode.ERROR,
    )
    assert refused.context.trace_id == trace_id(1)
    assert refused.attributes["error.type"] == "ZeroDivisionError"
    assert refused.status.description.startswith("fails each time it is tried: ZeroDivisionError: a bug (")
    (event,) = [event for event in refused.events if event.name == "dead letter"]
    assert event.attributes["messaging.destination.name"] == "withdrawal.requests.dlq"
    assert event.attributes["settle.reason"].startswith("ZeroDivisionError: a bug")
    send = named(found, "send withdrawal.requests.dlq")
    assert (send.kind, send.parent.span_id) == (SpanKind.PRODUCER, refused.context.span_id)
    assert send.attributes["messaging.operation.type"] == "send"
    assert fine.status.status_code is StatusCode.UNSET
    assert not [event for event in fine.events if event.name == "dead letter"]


def test_a_record_that_cannot_be_read_is_seen_in_its_trace(run):
    found = run(Service(), record(3, value=b"{"))
    span = named(found, "process withdrawal.requests")
    assert span.context.trace_id == trace_id(3)
    assert span.attributes["error.type"] == "unreadable"
    assert "body is not JSON" in span.status.description
    assert named(found, "send withdrawal.requests.dlq").parent.span_id == span.context.span_id


def test_what_a_service_keeps_is_to_be_tried_again(run):
    (span,) = run(Service(fails={1}, keeps=True), record(1))
    assert (
        "ZeroDivisionError: a bug" in [e for e in span.events if e.name == "retry"][-1].attributes["settle.reason"]
    )
    assert span.status.status_code is StatusCode.UNSET


def test_a_failure_that_is_compensated_says_so_where_it_was_decided(run):
    def emits(event):
        return follow(PaymentFailed, event, NOW, reason="account_closed")

    (span,) = run(Service(emits=emits), record(1))
    assert [(event.name, dict(event.attributes)) for event in span.events] == [
        ("PaymentFailed", {"settle.reason": "account_closed"})
    ]


def test_a_transaction_says_which_database_and_how_it_failed(spans):
    database = Database("postgresql://u:secret@db-1:5433/account_live", "account")
    with (
        pytest.raises(psycopg.errors.DeadlockDetected),
        transaction_spans("account", database, [parent(1), parent(2, sampled=False)]) as hops,
    ):
        assert list(hops) == [0]
        raise psycopg.errors.DeadlockDetected("deadlock detected")
    (span,) = spans()
    assert (span.name, span.kind, span.parent.span_id) == ("transaction account", SpanKind.CLIENT, 2)
    assert dict(span.attributes) == {
        "db.system.name": "postgresql",
        "db.namespace": "account_live",
        "db.operation.name": "transaction",
        "server.address": "db-1",
        "server.port": 5433,
        "settle.messages": 2,
        "error.type": "DeadlockDetected",
        "db.response.status_code": "40P01",
    }
    assert span.status.description == "deadlock detected"


class Gateway:
    """Answers a charge with what it is told."""

    round_s_max = 1.0

    def __init__(self, outcome):
        self.outcome = outcome

    async def charge(self, charges, *, probe):
        return {charge.payment_id: self.outcome for charge in charges}


@pytest.mark.parametrize(
    ("outcome", "kind", "error", "events"),
    [
        (Paid("r"), "paid", None, []),
        (Declined("no_money"), "declined", "the provider declined: no_money", []),
        (Unavailable("provider_timeout"), "unavailable", "no answer: provider_timeout; it is", ["retry"]),
        (NotTried(), "not tried", None, ["not tried"]),
    ],
)
def test_a_charge_says_what_the_provider_answered(spans, outcome, kind, error, events):
    processor = PaymentProcessor(ServiceSettings(), Gateway(outcome))
    one = request()
    payment = Payment(one.payment_id, one.account_id, one.amount_minor, one.currency, parent(4))
    asyncio.run(processor._charge([payment], probe=False))
    (span,) = spans()
    assert (span.name, span.kind, span.parent.span_id) == ("charge provider", SpanKind.CLIENT, 5)
    assert span.attributes["settle.provider.outcome"] == kind
    assert (span.status.description or "").startswith(error or "")
    assert (
        (span.status.status_code is StatusCode.ERROR) == ("error.type" in span.attributes) == (error is not None)
    )
    assert [event.name for event in span.events] == events


@pytest.mark.parametrize("status", [200, 503])
def test_a_call_over_http_is_a_span_below_the_charge(spans, status):
    charge = Charge(request().payment_id, "acc-1", 100, "USD", parent(9))
    bodies = []

    async def answer(received):
        bodies.append(await received.json())
        return await says(status, {"status": "paid", "reference": "r"})(received)

    async def wanted(provider):
        return await provider.charge([charge], probe=True)

    ask(answer, wanted)
    (span,) = spans()
    about = dict(span.attributes)
    port = about.pop("server.port")
    assert (span.name, span.kind, span.parent.span_id) == ("POST /charges", SpanKind.CLIENT, 10)
    failed = {"error.type": "503"} if status == 503 else {}
    assert about == {
        "http.request.method": "POST",
        "http.response.status_code": status,
        "url.full": f"http://127.0.0.1:{port}/charges",
        "url.template": "/charges",
        "server.address": "127.0.0.1",
        **failed,
    }
    assert set(bodies[0]) == {"payment_id", "account_id", "amount_minor", "currency"}


def test_no_span_shows_the_providers_password(spans):
    provider = HttpProvider(ServiceSettings(provider_url="https://user:secret@bank.example/v1/"))
    with provider._call("/charges", Charge(request().payment_id, "acc-1", 100, "USD", parent(9))):
        pass
    (span,) = spans()
    assert span.attributes["url.full"] == "https://bank.example/v1/charges"
    assert span.attributes["server.port"] == 443


def test_a_call_without_an_answer_says_so(spans):
    charge = Charge(request().payment_id, "acc-1", 100, "USD", parent(9))

    async def answer(_request):
        await asyncio.sleep(5)

    async def wanted(provider):
        return await provider.charge([charge], probe=True)

    ask(answer, wanted, provider_timeout_s=0.05)
    (span,) = spans()
    assert span.attributes["error.type"] == "TimeoutError"
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("delivery", "error", "events"),
    [
        (Refused("550 no such user"), "the mail was refused: 550 no such user", []),
        (Undelivered("451 later"), "the mail did not leave: 451 later", ["retry"]),
        (MailNotTried("it rests"), None, ["not tried"]),
    ],
)
def test_a_mail_says_to_whom_it_was_given_and_how_it_fared(spans, delivery, error, events):
    mailer = SmtpMailer("mail-1", 2525, "settle@localhost", 1.0, (1.0,))

    async def send(mails, *, probe):
        return [delivery] * len(mails)

    mailer.send = send
    processor = NotificationProcessor(ServiceSettings(), mailer)
    one = request()
    mail = Notification(one.payment_id, "withdrawal_paid", "acc-1", 100, "USD", "acc-1@localhost", parent(4))
    asyncio.run(processor._attempt([mail], probe=False))
    (span,) = spans()
    about = dict(span.attributes)
    assert (span.name, span.kind) == ("send mail", SpanKind.CLIENT)
    assert (about["server.address"], about["server.port"], about["network.protocol.name"]) == (
        "mail-1",
        2525,
        "smtp",
    )
    assert about["settle.mail.template"] == "withdrawal_paid"
    assert span.status.description == error
    assert Counter(event.name for event in span.events) == Counter(events)
