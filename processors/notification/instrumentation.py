"""Spans and metrics of mails: a mailer that wraps the one that sends."""

from collections.abc import Sequence

from opentelemetry.trace import Span, SpanKind

from processors.notification.mailer import Delivery, Mail, Mailer, NotTried, Refused, Undelivered
from processors.runtime import metrics
from processors.runtime.hops import fail, retry, spans
from tracing import attributes as names

TEMPLATE = "settle.mail.template"

MAIL = "mail"
"""The step's label in the retry metrics."""


class InstrumentedMailer:
    """A mailer that adds a span to the trace of each mail."""

    def __init__(self, mailer: Mailer) -> None:
        self._mailer = mailer
        self.attributes = mailer.attributes

    def capacity(self, at_most: int) -> int:
        """How many mails are worth preparing now."""
        return self._mailer.capacity(at_most)

    async def send(self, mails: Sequence[Mail], *, probe: bool = True) -> Sequence[Delivery]:
        """Send each mail; the outcomes in the same order."""
        about = {**self.attributes, names.MESSAGES: len(mails)}
        with spans([mail.context for mail in mails], "send mail", SpanKind.CLIENT, about) as hops:
            deliveries = await self._mailer.send(mails, probe=probe)
            for place, span in hops.items():
                _note(span, mails[place], deliveries[place])
        metrics.RETRIES.labels(MAIL).inc(sum(isinstance(delivery, Undelivered) for delivery in deliveries))
        return deliveries


def _note(span: Span, mail: Mail, delivery: Delivery) -> None:
    """Record a mail's outcome on its span."""
    span.set_attribute(TEMPLATE, mail.template)
    if isinstance(delivery, NotTried):
        span.add_event(names.NOT_TRIED, {names.REASON: delivery.reason})
        return
    span.set_attribute(names.ATTEMPT, mail.attempt)
    if isinstance(delivery, Refused):
        fail(span, "refused", f"the mail was refused: {delivery.reason}")
    elif isinstance(delivery, Undelivered):
        fail(span, "undelivered", f"the mail did not leave: {delivery.reason}")
        retry(span, "undelivered", delivery.reason)
