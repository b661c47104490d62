"""Withdrawals unknown to the saga service, as it refused their requests: these are dead letters."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from uuid import UUID

from confluent_kafka import Message

from broker.records import payment_id_of
from broker.scan import in_time, scan
from contracts.events import WithdrawalRequested
from contracts.topics import WITHDRAWAL_REQUESTS
from operations.dead_letters.letters import TOO_MANY, Letter, letter_of, still_open_of

READ_S_MAX = 2.0
"""Time limit for reading dead letters."""


def refused_requests(
    bootstrap: str, known: Callable[[Collection[UUID]], Collection[UUID]]
) -> dict[UUID, list[Letter]]:
    """The open dead letters of such requests by payment ID, the oldest first.

    Args:
        bootstrap: Kafka, ``host:port``.
        known: which of some withdrawals the saga service knows.

    Raises:
        KafkaException: Kafka does not answer.
        TimeoutError: there are too many dead letters.
    """
    messages = scan(bootstrap, [WITHDRAWAL_REQUESTS.dead_letters])
    found = by_payment(in_time(messages, READ_S_MAX, TOO_MANY))
    for payment_id in known(found) if found else ():
        del found[payment_id]
    return still_open_of(bootstrap, found)


def by_payment(messages: Iterable[Message]) -> dict[UUID, list[Letter]]:
    """The requests among dead letters that the saga service refused, and the letters of others for the same."""
    found: dict[UUID, list[Letter]] = {}
    for message in messages:
        letter = letter_of(message)
        payment_id = payment_id_of(letter.record)
        if payment_id is not None:
            found.setdefault(payment_id, []).append(letter)
    return refused_by_saga(found)


def refused_by_saga(letters: Mapping[UUID, Sequence[Letter]]) -> dict[UUID, list[Letter]]:
    """Of dead letters by payment ID, with one refusal each, the requests that the saga service refused."""
    found = {}
    for payment_id, some in letters.items():
        requests = [
            one
            for one in some
            if one.event_type == WithdrawalRequested.__name__ and one.record.topic == WITHDRAWAL_REQUESTS.name
        ]
        if any(one.refusals[-1].service == "saga" for one in requests):
            found[payment_id] = requests
    return found
