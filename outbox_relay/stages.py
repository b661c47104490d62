"""The stage that publishes a row, and stages around it: no row twice, and none that can never be published."""

from collections.abc import Callable
from typing import Protocol

from outbox_relay.acknowledgements import DeliveryReport, Transaction
from outbox_relay.errors import UnpublishableError
from outbox_relay.published import Published
from outbox_relay.row import OutboxRow


class Publish(Protocol):
    """The stage that publishes a row; instrumentation has this shape too and wraps it."""

    def __call__(self, row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport, /) -> None:
        """Hand a row to Kafka, or wait until there is room; the outcome comes to ``on_delivery``."""


def not_yet_published(
    publish: Publish, published: Published, quarantine: Callable[[UnpublishableError], None]
) -> Publish:
    """The same stage, without the rows that are on their topics; unpublishable ones are quarantined."""

    def publish_new(row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport, /) -> None:
        try:
            if published.holds(row, transaction.written_us, transaction.commit_lsn):
                transaction.skip(row)
            else:
                publish(row, transaction, on_delivery)
        except UnpublishableError as error:
            quarantine(error)
            transaction.leave(row)

    return publish_new


def or_quarantined(publish: Publish, quarantine: Callable[[UnpublishableError], None]) -> Publish:
    """The same stage; unpublishable rows are quarantined."""

    def publish_or_quarantine(row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport, /) -> None:
        try:
            publish(row, transaction, on_delivery)
        except UnpublishableError as error:
            quarantine(error)
            transaction.leave(row)

    return publish_or_quarantine
