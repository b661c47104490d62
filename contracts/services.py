"""The registry of services: one record each, from which every list of services, topics or databases derives."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec

from contracts.topics import (
    ACCOUNT_EVENTS,
    NOTIFICATION_EVENTS,
    PAYMENT_EVENTS,
    PAYMENT_REQUESTS,
    WITHDRAWAL_EVENTS,
    WITHDRAWAL_REQUESTS,
    Topic,
)


@dataclass(frozen=True)
class Service:
    """A stream processor: its code is in ``processors/<name>/``, its tables in a database of the same name.

    Attributes:
        name: also of its consumer group, its role, its database, and its part of the stack.
        reads: the topics that it consumes.
        emits: the topic that its outbox is published to: ``<aggregatetype>.events``.
        failpoints: its own failpoints by name, and what has happened there.
    """

    name: str
    reads: tuple[Topic, ...]
    emits: Topic
    failpoints: Mapping[str, str] = field(default_factory=dict)

    @property
    def aggregate(self) -> str:
        """The ``aggregatetype`` of its outbox rows."""
        return self.emits.name.removesuffix(".events")


SERVICES = (
    Service("account", reads=(WITHDRAWAL_REQUESTS, PAYMENT_EVENTS), emits=ACCOUNT_EVENTS),
    Service(
        "payment",
        reads=(ACCOUNT_EVENTS, PAYMENT_REQUESTS),
        emits=PAYMENT_EVENTS,
        failpoints={
            "provider-answered": "the provider has answered a batch of charges, nothing is committed",
            "due-claimed": "payments that were due are claimed, the provider has not been asked",
            "due-answered": "the provider has answered for payments that were due, nothing is committed",
        },
    ),
    Service(
        "notification",
        reads=(ACCOUNT_EVENTS, PAYMENT_EVENTS),
        emits=NOTIFICATION_EVENTS,
        failpoints={"mail-sent": "mails have left, nothing is committed"},
    ),
    Service(
        "saga",
        reads=(WITHDRAWAL_REQUESTS, ACCOUNT_EVENTS, PAYMENT_EVENTS, NOTIFICATION_EVENTS),
        emits=WITHDRAWAL_EVENTS,
    ),
)

# An event type that only one service uses may be declared in its folder, where installed; it is known everywhere.
if find_spec("processors") is not None:
    for _service in SERVICES:
        if find_spec(f"processors.{_service.name}.events") is not None:
            import_module(f"processors.{_service.name}.events")

NAMES = tuple(service.name for service in SERVICES)

PROVIDER = "provider"
"""The simulated payment provider: a database without an outbox, and over HTTP a process of its own."""

DATABASES = (*NAMES, PROVIDER)

FOLDERS = {**{name: f"processors.{name}" for name in NAMES}, PROVIDER: "processors.payment.provider"}
"""The package of each database: its migrations and its grants."""

READ_BY = {service.name: service.reads for service in SERVICES}
"""The topics that each service consumes."""

REQUESTS = (WITHDRAWAL_REQUESTS, PAYMENT_REQUESTS)
"""The topics that only producers write."""

TOPICS = (*REQUESTS, *(service.emits for service in SERVICES))

WRITTEN_BY = {
    event_type.__name__: service.name for service in SERVICES for event_type in service.emits.event_types
}
"""The service that emits each event type; requests and cancellations are written by producers."""


def all_topic_names(topics: Iterable[Topic] = TOPICS) -> list[str]:
    """The names of the topics and of their dead-letter topics."""
    return [name for topic in topics for name in (topic.name, topic.dead_letters)]
