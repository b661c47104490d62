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
    """A service: its tables are in a database of the same name, and the relay publishes its outbox.

    Attributes:
        name: also of its consumer group, its role, its database, and its part of the stack.
        reads: the topics that it consumes; none for a service that is no stream processor.
        emits: the topics that its outbox is published to.
        failpoints: its own failpoints by name, and what has happened there.
        package: where its code is, if not in ``processors/<name>/``.
    """

    name: str
    reads: tuple[Topic, ...]
    emits: tuple[Topic, ...]
    failpoints: Mapping[str, str] = field(default_factory=dict)
    package: str = ""

    @property
    def folder(self) -> str:
        """The package of its code, its migrations and its grants."""
        return self.package or f"processors.{self.name}"


REQUESTS = (WITHDRAWAL_REQUESTS, PAYMENT_REQUESTS)
"""The topics of requests: producers write them, and the API through its outbox."""

SERVICES = (
    Service("account", reads=(WITHDRAWAL_REQUESTS, PAYMENT_EVENTS), emits=(ACCOUNT_EVENTS,)),
    Service(
        "payment",
        reads=(ACCOUNT_EVENTS, PAYMENT_REQUESTS),
        emits=(PAYMENT_EVENTS,),
        failpoints={
            "provider-answered": "the provider has answered a batch of charges, nothing is committed",
            "due-claimed": "payments that were due are claimed, the provider has not been asked",
            "due-answered": "the provider has answered for payments that were due, nothing is committed",
        },
    ),
    Service(
        "notification",
        reads=(ACCOUNT_EVENTS, PAYMENT_EVENTS),
        emits=(NOTIFICATION_EVENTS,),
        failpoints={"mail-sent": "mails have left, nothing is committed"},
    ),
    Service(
        "saga",
        reads=(WITHDRAWAL_REQUESTS, ACCOUNT_EVENTS, PAYMENT_EVENTS, NOTIFICATION_EVENTS),
        emits=(WITHDRAWAL_EVENTS,),
    ),
    Service(
        "api",
        reads=(),
        emits=REQUESTS,
        failpoints={
            "batch-taken": "requests that share a transaction are taken, nothing is done yet",
            "committed": "their withdrawals and outbox rows are committed, no caller has an answer",
        },
        package="api",
    ),
)

PROCESSORS = tuple(service for service in SERVICES if service.reads)
"""The stream processors."""

# An event type that only one service uses may be declared in its folder, where installed; it is known everywhere.
if find_spec("processors") is not None:
    for _service in PROCESSORS:
        if find_spec(f"processors.{_service.name}.events") is not None:
            import_module(f"processors.{_service.name}.events")

NAMES = tuple(service.name for service in SERVICES)

API = "api"
"""The service that takes requests over HTTP."""

PROVIDER = "provider"
"""The simulated payment provider: a database without an outbox, and over HTTP a process of its own."""

DATABASES = (*NAMES, PROVIDER)

FOLDERS = {**{service.name: service.folder for service in SERVICES}, PROVIDER: "processors.payment.provider"}
"""The package of each database: its migrations and its grants."""

READ_BY = {service.name: service.reads for service in PROCESSORS}
"""The topics that each stream processor consumes."""

_EMITTED = {topic: service.name for service in PROCESSORS for topic in service.emits}

TOPICS = (*REQUESTS, *_EMITTED)

WRITTEN_BY = {event_type.__name__: name for topic, name in _EMITTED.items() for event_type in topic.event_types}
"""The stream processor that emits each event type; requests and cancellations come from outside."""


def all_topic_names(topics: Iterable[Topic] = TOPICS) -> list[str]:
    """The names of the topics and of their dead-letter topics."""
    return [name for topic in topics for name in (topic.name, topic.dead_letters)]
