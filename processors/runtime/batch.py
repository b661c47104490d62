"""A batch: messages handled in one transaction, with the events and dead letters that result."""

from collections.abc import Sequence

from processors.runtime.messages import DeadLetter, Emitted, Message


class Batch:
    """Messages that are handled in one transaction.

    Args:
        messages: those the service handles.
        unreadable: records that cannot be decoded.

    Attributes:
        messages: those the service handles, in order per partition.
        emitted: the events that follow, written in the transaction.
        dead_letters: records that cannot be handled; published after the transaction, before the offsets.
    """

    def __init__(self, messages: Sequence[Message], unreadable: Sequence[DeadLetter] = ()) -> None:
        self.messages = messages
        self.emitted: list[Emitted] = []
        self.dead_letters: list[DeadLetter] = list(unreadable)
        self._unreadable = tuple(unreadable)

    def refuse(self, message: Message, reason: str, error: str | None = None) -> None:
        """Send a readable message to the dead letters."""
        self.dead_letters.append(DeadLetter(message.record, reason, error))

    def start_over(self) -> None:
        """Drop the results of a failed attempt: the next one decides again."""
        self.emitted = []
        self.dead_letters = list(self._unreadable)
