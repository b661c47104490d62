"""The relay's exceptions, most of which end a source's session: one base class, one line of text each.

None of these ends the relay: the source logs it, waits and restarts from its slot.
"""

from typing import Literal

from outbox_relay.row import OutboxRow

Why = Literal["invalid", "not-found", "conflict", "unavailable"]
"""Why an act is not done."""


class RelayError(Exception):
    """Base of everything the relay raises; its text is one line for a person."""


class DecodeError(RelayError):
    """Bytes of the replication stream that violate the protocol."""


class StreamError(RelayError):
    """The replication stream ended, or the server went silent."""


class PublicationMissingError(StreamError):
    """Where the log was read there was no publication; from there on the slot brings nothing."""


class OutboxMissingError(RelayError):
    """The outbox table does not exist (yet): run the service's migration."""


class SlotBusyError(RelayError):
    """Another relay reads this outbox; this one is a standby until it is free."""


class KafkaAwayError(RelayError):
    """Kafka does not answer, or refuses who this relay is; the outbox is left to others until it does."""


class TableBusyError(RelayError):
    """Other transactions hold the table that is to be changed; nothing is, and nobody waits for it."""


class SetupError(RelayError):
    """Publication or slot cannot be made or used as they are; the text says what to run."""


class PublishError(RelayError):
    """Kafka refused a record; nothing after it may be published before it."""


class TopicError(PublishError):
    """A topic does not exist, may not be written, or has partitions without a leader; others can be written."""


class BatchRefusedError(PublishError):
    """Kafka permanently refuses one of the rows in a batch; which one is not known."""


class UnpublishableError(PublishError):
    """Kafka permanently refuses this row, or no record can be made of it.

    Attributes:
        row: what was refused.
        lsn: where it was committed.
        reason: in one line.
    """

    def __init__(self, row: OutboxRow, lsn: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row
        self.lsn = lsn
        self.reason = reason


class SkippedError(UnpublishableError):
    """Somebody asked for this row to be skipped.

    Attributes:
        act: the number of what was asked.
    """

    def __init__(self, row: OutboxRow, lsn: int, reason: str, act: int) -> None:
        super().__init__(row, lsn, reason)
        self.act = act


class StopRequestedError(RelayError):
    """The relay was asked to stop while it waited."""


class RefusedError(RelayError):
    """An act that is not done; nothing was changed.

    Attributes:
        why: ``invalid`` what was asked makes no sense; ``not-found`` there is no such row; ``conflict`` it does
            not fit how things are; ``unavailable`` the database does not answer, or lacks what it needs.
    """

    def __init__(self, why: Why, text: str) -> None:
        super().__init__(text)
        self.why: Why = why
