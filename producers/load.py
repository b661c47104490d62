"""A load generator: sends messages at full speed or at a rate, and counts their outcomes."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from contracts import events
from producers.client import Receipt, WithdrawalClient
from producers.errors import InvalidRequestError, NotDeliveredError
from producers.plan import Planned

TICK_S = 0.004
"""Under a rate, messages leave in groups this far apart: 250 wake-ups a second, not one per message."""

PAUSE_MAX_S = 0.1
PROGRESS_EVERY_S = 0.1
CHECK_EVERY = 64

HIGH_RATE = 1_000.0
"""Messages a second from which larger batches are worth their delay."""

FAILURES_IN_A_ROW_MAX = 1_000
"""Consecutive failures after which Kafka counts as unavailable, and sending stops."""


class Latencies:
    """How long deliveries took, in buckets 2% wide: bounded, however many there are."""

    _WIDTH = math.log(1.02)

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one."""
        self._buckets[int(math.log(max(seconds, 1e-6)) / self._WIDTH)] += 1

    def percentile(self, share: float) -> float | None:
        """The latency in seconds that ``share`` of them do not exceed, to 2%; None without any."""
        rank = math.ceil(share * self._buckets.total())
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return math.exp(bucket * self._WIDTH)
        return None


class LoadReport:
    """The outcome of a load so far.

    Attributes:
        sent: messages handed to Kafka's client, repeats among them.
        repeats: messages that had been sent before.
        delivered: messages that Kafka confirmed.
        failed: messages that it did not.
        first_failure: why the first of them failed.
        elapsed_s: from the first message to the last report, seconds.
        latencies: from sending to confirmation.
    """

    def __init__(self) -> None:
        self.sent = self.repeats = self.delivered = self.failed = 0
        self.first_failure: NotDeliveredError | None = None
        self.elapsed_s = 0.0
        self.latencies = Latencies()
        self._failed_in_a_row = 0

    @property
    def per_second(self) -> float:
        """Deliveries a second."""
        return self.delivered / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def hopeless(self) -> bool:
        """Whether so many failed in a row that the rest need not be tried."""
        return self._failed_in_a_row >= FAILURES_IN_A_ROW_MAX

    def on_delivery(self, outcome: Receipt | NotDeliveredError) -> None:
        """Count the outcome of one message."""
        if isinstance(outcome, NotDeliveredError):
            self.failed += 1
            self._failed_in_a_row += 1
            self.first_failure = self.first_failure or outcome
        else:
            self.delivered += 1
            self._failed_in_a_row = 0
            self.latencies.add(outcome.latency_s)


def check_rate(rate: float | None) -> None:
    """Validate a rate.

    Raises:
        InvalidRequestError: not a positive number.
    """
    if rate is not None and not 0 < rate < math.inf:
        raise InvalidRequestError(f"rate {rate:g} must be more than 0 messages a second")


def run_load(
    client: WithdrawalClient,
    messages: Iterable[Planned],
    *,
    currency: str = "USD",
    rate: float | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[LoadReport], None] = lambda _: None,
) -> LoadReport:
    """Send messages and wait for the delivery report of each.

    Args:
        client: where to.
        messages: what to send.
        currency: ISO 4217 code, of all of them.
        rate: messages a second; None for as fast as possible. A late message is not dropped, the next ones
            follow at shorter intervals.
        stop: set from outside to send no more.
        on_progress: called about every 0.1 s, and at the end.

    Raises:
        InvalidRequestError: the rate is not positive; nothing was sent.
    """
    check_rate(rate)
    run = _Run(client, rate, stop or threading.Event(), on_progress)
    report = run.report
    for planned in messages:
        if not run.may_send():
            break
        client.send(_request(planned, currency), report.on_delivery)
        report.sent += 1
        report.repeats += planned.repeat
    client.flush()
    run.report_progress()
    return report


class _Run:
    """Paces the messages and reports progress."""

    def __init__(
        self,
        client: WithdrawalClient,
        rate: float | None,
        stop: threading.Event,
        on_progress: Callable[[LoadReport], None],
    ) -> None:
        self.report = LoadReport()
        self._client = client
        self._rate = rate
        self._stop = stop
        self._on_progress = on_progress
        self._started = self._reported = time.monotonic()

    def may_send(self) -> bool:
        """Wait until the next message is due; False to send no more."""
        sent = self.report.sent
        if self._rate is None:
            return sent % CHECK_EVERY != 0 or self._goes_on()
        due = self._started + sent / self._rate
        while goes_on := self._goes_on():
            early_s = due - time.monotonic()
            if early_s <= 0:
                break
            # Not in the client's poll: it would wake up for every delivery report.
            time.sleep(min(max(early_s, TICK_S), PAUSE_MAX_S))
            self._client.poll()
        return goes_on

    def report_progress(self) -> None:
        """Call ``on_progress`` with the report so far."""
        self._reported = time.monotonic()
        self.report.elapsed_s = self._reported - self._started
        self._on_progress(self.report)

    def _goes_on(self) -> bool:
        if time.monotonic() - self._reported >= PROGRESS_EVERY_S:
            self.report_progress()
        return not (self._stop.is_set() or self.report.hopeless)


def _request(planned: Planned, currency: str) -> events.WithdrawalRequested:
    return events.WithdrawalRequested(
        payment_id=planned.payment_id,
        account_id=planned.account_id,
        amount_minor=planned.amount_minor,
        currency=currency,
        occurred_at=datetime.now(UTC),
    )
