"""What is wrong with an outbox, in words: what it means for its rows, and what to do. Pure functions."""

from typing import NamedTuple

from api.console import words
from api.console.diagram import OLD_S
from api.headline import BAD, OK, UNKNOWN, WARN
from outbox_relay.status import OutboxStatus

KEPT_BYTES = 16 * 2**20
"""A segment of log: less is not worth a word."""


class Said(NamedTuple):
    """A sentence and its tone."""

    tone: str
    text: str


def wrong(status: OutboxStatus, oldest_s: float | None) -> list[Said]:
    """What is wrong, the worst first; one that is as it should be says so.

    Args:
        status: of the outbox.
        oldest_s: the age of its oldest row, seconds; None where it is empty, or that is not known.
    """
    found = [*_blocked(status), *_late(status, oldest_s)]
    return sorted(found, key=lambda one: (BAD, WARN, UNKNOWN).index(one.tone)) or [Said(OK, "as it should be")]


def _blocked(status: OutboxStatus) -> list[Said]:
    found = []
    if status.gap is not None:
        found.append(Said(BAD, status.gap))
    if status.missing_topics:
        names = ", ".join(status.missing_topics)
        exist = "does not exist" if len(status.missing_topics) == 1 else "do not exist"
        found.append(Said(BAD, f"waits for topic {names}, which {exist}: `settle topics` creates Settle's own"))
    elif status.missing_topics is None:
        found.append(Said(UNKNOWN, "Kafka does not say which topics there are"))
    waits = f", and {status.rows:,} {'row waits' if status.rows == 1 else 'rows wait'}" if status.rows else ""
    if status.paused is not None:
        found.append(Said(WARN, f"{status.paused}{waits}: `outbox-relay resume` has it go on"))
    elif not status.active:
        found.append(
            Said(BAD, f"no relay reads it{waits}: start the relay, or see at its /readyz what it waits for")
        )
    return found


def _late(status: OutboxStatus, oldest_s: float | None) -> list[Said]:
    found = []
    if status.active and status.paused is None and oldest_s is not None and oldest_s > OLD_S:
        age = words.duration(oldest_s * 1_000)
        found.append(Said(WARN, f"its oldest row is {age} old: see at the relay's /readyz what it waits for"))
    if status.dead_rows:
        rows = f"{status.dead_rows:,} dead {'row needs' if status.dead_rows == 1 else 'rows need'}"
        found.append(Said(WARN, f"{rows} a person: below"))
    if status.wal_status == "unreserved":
        found.append(Said(BAD, "the server is about to remove log that its slot needs (max_slot_wal_keep_size)"))
    is_read = status.active and status.paused is None
    if status.slot is not None and not is_read and (status.retained_bytes or 0) > KEPT_BYTES:
        kept = words.size(status.retained_bytes)
        found.append(Said(WARN, f"its slot makes the server keep {kept} of log, and more with each write"))
    return found
