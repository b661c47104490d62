"""A client that requests withdrawals, each confirmed by Kafka's delivery report.

::

    with WithdrawalClient("127.0.0.1:9092") as client:
        receipt = client.request("acc-1", "100.00")
"""

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self
from uuid import UUID

from confluent_kafka import KafkaError, KafkaException, Message, Producer

import tracing
from broker.clients import SILENT, idempotent_producer
from broker.rotation import Rotation
from broker.security import KafkaSettingsError
from broker.troubles import Troubles, denied
from contracts import events, headers
from contracts.topics import WITHDRAWAL_REQUESTS
from producers.errors import NotDeliveredError
from producers.reasons import reason_of
from producers.requests import check_request, new_request
from producers.settings import DELIVERY_TIMEOUT_S, topic_wait_ms
from producers.spans import RequestSpans
from tracing.attributes import MESSAGING_CLIENT_ID, brokers

CLIENT_ID = "settle-producer"

LINGER_MS = 2.0
LINGER_UNDER_LOAD_MS = 20.0
"""``linger.ms``: how long a message waits for its batch to fill; short for one request, longer for thousands."""

QUEUE_MESSAGES_MAX = 100_000
BATCH_BYTES_MAX = 512 * 1024
WAIT_S = 0.05
FLUSH_GRACE_S = 1.0
POLL_EVERY = 64

SPENT = frozenset((KafkaError._MSG_TIMED_OUT, KafkaError._FATAL))
"""Delivery errors after which a producer is replaced by a new one."""

_EVENT_TYPE = events.WithdrawalRequested.__name__.encode()


class Receipt(NamedTuple):
    """Where Kafka stored a request.

    Attributes:
        payment_id: names the withdrawal from here on.
        trace_id: of its trace, 32 hex digits, whether it is recorded or not.
        topic: of the stored request, with
        partition: and
        offset: in it.
        latency_s: from sending to the delivery report, seconds.
    """

    payment_id: UUID
    trace_id: str
    topic: str
    partition: int
    offset: int
    latency_s: float


_Headers = list[tuple[str, str | bytes | None]]

OnDelivery = Callable[[Receipt | NotDeliveredError], None]
"""Called once for every request sent, from within a later call to the client."""


class WithdrawalClient:
    """Writes withdrawal requests to Kafka, each once and in order for its account; may be shared by threads.

    If Kafka did not confirm a request in time, later ones use a new producer, and may arrive before those still
    in flight: the old one may be cut off for good (:mod:`broker.lifeline`). The same applies after a fatal error,
    which the idempotent producer raises rather than write a message twice, and once credentials have changed on
    disk (:mod:`broker.rotation`).

    Args:
        bootstrap: Kafka brokers, ``host:port``, comma-separated.
        delivery_timeout_s: how long Kafka may take to confirm a request, seconds.
        linger_ms: how long a message waits for others to share its batch, milliseconds.
    """

    def __init__(
        self, bootstrap: str, *, delivery_timeout_s: float = DELIVERY_TIMEOUT_S, linger_ms: float = LINGER_MS
    ) -> None:
        self._bootstrap = bootstrap
        self._delivery_timeout_s = delivery_timeout_s
        self._about = {**brokers(bootstrap), MESSAGING_CLIENT_ID: CLIENT_ID}
        self._trouble: str | None = None
        self._troubles = Troubles(bootstrap)
        self._rotation = Rotation(bootstrap)
        self._unpolled = 0
        self._delivered_once = False
        self._config: dict[str, Any] = {
            "client.id": CLIENT_ID,
            "delivery.timeout.ms": int(delivery_timeout_s * 1000),
            "topic.metadata.propagation.max.ms": topic_wait_ms(delivery_timeout_s),
            "linger.ms": linger_ms,
            "batch.size": BATCH_BYTES_MAX,
            "queue.buffering.max.messages": QUEUE_MESSAGES_MAX,
            "compression.type": "lz4",
            "reconnect.backoff.max.ms": 1_000,
            # Errors that matter are raised to the caller, with a text of our own.
            "error_cb": self._note_trouble,
        }
        self._producer = idempotent_producer(self._bootstrap, self._config, SILENT)
        self._spent = False
        self._retired: list[Producer] = []
        self._renewing = threading.Lock()
        self._numbers = itertools.count(1)
        self._under_way: dict[int, None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):  # Ctrl-C: leave now
            self._give_up()
        self.flush()

    def request(
        self,
        account_id: str,
        amount: str | None = None,
        *,
        amount_minor: int | None = None,
        currency: str = "USD",
        payment_id: UUID | str | None = None,
    ) -> Receipt:
        """Ask for a withdrawal and wait until Kafka has the request on every in-sync replica.

        The arguments are those of :func:`producers.requests.new_request`.

        Raises:
            InvalidRequestError: an argument is wrong; nothing was sent.
            NotDeliveredError: Kafka did not confirm it in time; safe to repeat with the same payment ID.
        """
        request = new_request(
            account_id, amount, amount_minor=amount_minor, currency=currency, payment_id=payment_id
        )
        outcomes: list[Receipt | NotDeliveredError] = []
        self.send(request, outcomes.append)
        while not outcomes:
            self._prefetch_metadata()
            self.poll(WAIT_S)
        if isinstance(outcomes[0], NotDeliveredError):
            raise outcomes[0]
        return outcomes[0]

    def send(self, request: events.WithdrawalRequested, on_delivery: OnDelivery) -> None:
        """Queue a request without waiting, unless the queue is full; ``on_delivery`` is called with the outcome.

        Raises:
            InvalidRequestError: a field is wrong; nothing was sent, and ``on_delivery`` will not be called.
        """
        check_request(request)
        message_id = events.request_id(request)
        spans = RequestSpans(request, message_id, self._about) if tracing.sample() else None
        context = spans.context if spans else tracing.new_unsampled()
        carried: _Headers = [
            (headers.ID, message_id),
            (headers.EVENT_TYPE, _EVENT_TYPE),
            (headers.TRACEPARENT, context.traceparent),
        ]
        if context.tracestate:
            carried.append((headers.TRACESTATE, context.tracestate))
        if self._rotation.is_due():
            self._spent = True
        if self._spent:
            self._renew()
        producer, number = self._producer, next(self._numbers)
        self._under_way[number] = None
        trace_id = context.trace_id or ""
        report = partial(self._report, number, producer, request.payment_id, trace_id, spans, on_delivery)
        try:
            self._produce(producer, request.account_id, events.encode(request), carried, report)
        except BufferError:
            report(KafkaError(KafkaError._QUEUE_FULL), None)
        except KafkaException as error:
            report(error.args[0], None)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve delivery reports: those at hand, or wait up to ``timeout_s`` seconds for the first."""
        self._unpolled = 0
        self._serve(self._producer.poll, timeout_s)
        for producer in [*self._retired]:
            self._serve(producer.poll, 0)
            with self._renewing:
                if not len(producer) and producer in self._retired:  # else another thread was first
                    self._retired.remove(producer)

    def flush(self) -> None:
        """Wait for the delivery report of every request sent so far, which the delivery timeout bounds.

        What other threads send meanwhile is not waited for.
        """
        deadline = time.monotonic() + self._delivery_timeout_s + FLUSH_GRACE_S
        latest = next(self._numbers)
        while (len(self._producer) or self._retired) and min([*self._under_way], default=latest) < latest:
            self._serve(self._producer.flush, WAIT_S)
            self.poll(WAIT_S if self._retired else 0.0)
            if time.monotonic() > deadline:
                self._give_up()
                deadline += FLUSH_GRACE_S

    def _serve(self, reports: Callable[[float], int], timeout_s: float) -> None:
        try:
            reports(timeout_s)
        except KafkaException as error:  # fatal: it accepts no more, but still reports on its messages
            self._trouble = denied(error.args[0]) or error.args[0].str()
            self._spent = True

    def _prefetch_metadata(self) -> None:
        """Save the first request half a second.

        An idempotent producer of librdkafka needs an ID from the broker. It asks when metadata arrives, and else
        every 500 ms; the metadata it fetches by itself arrives just before it is connected to the broker.
        """
        if not self._delivered_once:
            with suppress(KafkaException):  # unreachable: the delivery report says so
                self._producer.list_topics(WITHDRAWAL_REQUESTS.name, WAIT_S)

    def _produce(
        self,
        producer: Producer,
        key: str,
        value: bytes,
        carried: _Headers,
        report: Callable[[KafkaError | None, Message | None], None],
    ) -> None:
        self._unpolled += 1
        if self._unpolled >= POLL_EVERY:
            self.poll()
        deadline = None
        while True:
            try:
                producer.produce(
                    WITHDRAWAL_REQUESTS.name, value=value, key=key, headers=carried, on_delivery=report
                )
            except BufferError:
                # A full queue drains as reports are served: sent, or timed out.
                deadline = deadline or time.monotonic() + self._delivery_timeout_s + FLUSH_GRACE_S
                if time.monotonic() > deadline:
                    raise
                self.poll(WAIT_S)
            else:
                self._keep(producer)
                return

    def _keep(self, producer: Producer) -> None:
        """See to the report of what was just queued, if other threads have replaced and dropped its producer."""
        with self._renewing:
            if producer is not self._producer and producer not in self._retired:
                self._retired.append(producer)

    def _renew(self) -> None:
        with self._renewing:
            if not self._spent:
                return
            try:
                producer = idempotent_producer(self._bootstrap, self._config, SILENT)
            except KafkaSettingsError as error:  # of a file that is wrong by now: the producer stays
                self._trouble = str(error)
                return
            self._retired.append(self._producer)
            self._producer = producer
            self._spent = self._delivered_once = False

    def _report(
        self,
        number: int,
        producer: Producer,
        payment_id: UUID,
        trace_id: str,
        spans: RequestSpans | None,
        on_delivery: OnDelivery,
        error: KafkaError | None,
        message: Message | None,
    ) -> None:
        if error is not None and error.code() in SPENT and producer is self._producer:
            self._spent = True
        try:
            if error is not None or message is None:
                on_delivery(self._not_delivered(payment_id, spans, error))
            else:
                on_delivery(self._delivered(payment_id, trace_id, spans, message))
        finally:
            self._under_way.pop(number, None)  # only now: who flushes waits for what on_delivery does

    def _delivered(self, payment_id: UUID, trace_id: str, spans: RequestSpans | None, message: Message) -> Receipt:
        self._trouble, self._delivered_once = None, True
        self._troubles.over()
        partition, offset, latency_s = message.partition(), message.offset(), message.latency()
        assert partition is not None
        assert offset is not None
        assert latency_s is not None
        if spans is not None:
            spans.delivered(partition, offset)
        return Receipt(payment_id, trace_id, WITHDRAWAL_REQUESTS.name, partition, offset, latency_s)

    def _not_delivered(
        self, payment_id: UUID, spans: RequestSpans | None, error: KafkaError | None
    ) -> NotDeliveredError:
        reason = reason_of(error) if error is not None else "no report"
        if spans is not None:
            spans.failed(error.name() if error is not None else "NO_REPORT", reason)
        if error is not None and error.code() == KafkaError._MSG_TIMED_OUT:
            reason = f"no confirmation within {self._delivery_timeout_s:g} s"
        if self._trouble is not None:
            reason = f"{reason} ({self._trouble})"
        return NotDeliveredError(
            f"Kafka at {self._bootstrap} did not take withdrawal {payment_id} "
            f"on {WITHDRAWAL_REQUESTS.name}: {reason}; repeating it with the same payment ID is safe"
        )

    def _note_trouble(self, error: KafkaError) -> None:
        self._troubles.note(error)
        if self._troubles.text is not None:
            self._trouble = self._troubles.text
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:  # follows the error that says why
            self._trouble = error.str().partition(" (after ")[0]

    def _give_up(self) -> None:
        for producer in (self._producer, *self._retired):
            producer.purge()
