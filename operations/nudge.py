"""A nudge: the events that a stuck withdrawal lacks, republished."""

from collections.abc import Mapping
from uuid import UUID

import msgspec

from operations import lost
from operations.errors import FinishedError
from operations.lost import Lost
from operations.republish import find, republish
from processors.saga.status import Status, find_status


class Nudged(msgspec.Struct, frozen=True):
    """What a nudge has done; nothing where no service lacks an event.

    Attributes:
        status: of the withdrawal before; None where the saga service does not know it.
        republished: the events that are handed to the relay, in the order in which they happened.
        dead: those that could not be: they are dead rows of their outbox, for a person to put back.
    """

    status: Status | None
    republished: list[Lost]
    dead: list[Lost]


def nudge(dsns: Mapping[str, str], bootstrap: str, payment_id: UUID, timeout_s: float) -> Nudged:
    """Republish the event that a withdrawal's next step acts on and those that a service lacks; harmless.

    Args:
        dsns: by service, of :data:`contracts.services.NAMES`.
        bootstrap: Kafka, ``host:port``.
        payment_id: of the withdrawal.
        timeout_s: how long Kafka may take to confirm a request, seconds.

    Raises:
        FinishedError: it is finished.
        psycopg.OperationalError: a database does not answer.
        psycopg.errors.InsufficientPrivilege: the role may not, or no table proves an event.
        KafkaException, NotDeliveredError: Kafka does not answer, or did not confirm a request in time.
    """
    status = find_status(dsns["saga"], payment_id)
    if status is not None and status.finished:
        raise FinishedError(status)
    found = find(dsns, bootstrap, lambda one: lost.lacking(one) | lost.acted_on(one), payment_ids=[payment_id])
    dead = republish(dsns, bootstrap, found, timeout_s) if found else []
    return Nudged(status, [one for one in found if one not in dead], dead)
