"""Cancellation of a withdrawal: a request to the payment service, which decides."""

from datetime import UTC, datetime

from uuid_utils.compat import uuid7

import tracing
from contracts import headers
from contracts.events import CancelRequested, Withdrawal, encode, follow
from contracts.topics import PAYMENT_REQUESTS
from producers.publish import Outgoing, publish
from producers.settings import DELIVERY_TIMEOUT_S


def request_cancel(bootstrap: str, withdrawal: Withdrawal, timeout_s: float = DELIVERY_TIMEOUT_S) -> None:
    """Request a cancellation; returns when Kafka has acknowledged it. Repeating it is harmless.

    Args:
        bootstrap: Kafka brokers, ``host:port``, comma-separated.
        withdrawal: to cancel; the payment service refuses a request whose contents differ from the payment's.
        timeout_s: how long Kafka may take to confirm it, seconds.

    Raises:
        NotDeliveredError: Kafka did not confirm it in time; safe to repeat.
    """
    wish = follow(CancelRequested, withdrawal, datetime.now(UTC))
    fields: headers.Headers = [
        (headers.ID, str(uuid7()).encode()),
        (headers.EVENT_TYPE, CancelRequested.__name__.encode()),
        (headers.TRACEPARENT, (tracing.new_unsampled().traceparent or "").encode()),
    ]
    event_type = CancelRequested.__name__
    message = Outgoing(PAYMENT_REQUESTS.name, wish.account_id, event_type, encode(wish), fields)
    publish(bootstrap, [message], timeout_s)
