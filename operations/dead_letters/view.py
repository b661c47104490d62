"""Dead letters as people and other programs see them: all that is known, as text."""

import msgspec

from operations.dead_letters.handled import Handled
from operations.dead_letters.letters import Letter, Refusal


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that could not be handled; bytes that are not UTF-8 are escaped.

    Attributes:
        id: names it in every operation.
        topic: of the original, with partition and offset.
        state: ``open``, or the last action: ``redriving``, ``redriven`` or ``discarded``.
    """

    id: str
    topic: str
    partition: int
    offset: int
    event_type: str | None
    message_id: str | None
    payment_id: str | None
    trace_id: str | None
    refusals: list[Refusal]
    state: str
    handled: Handled | None
    key: str | None
    headers: list[tuple[str, str | None]]
    body: str | None


def view(letter: Letter, *, contents: bool = True) -> DeadLetter:
    """A letter as it is shown; without its contents, key, headers and body are left out."""
    return DeadLetter(
        id=letter.id,
        topic=letter.record.topic,
        partition=letter.record.partition,
        offset=letter.record.offset,
        event_type=letter.event_type,
        message_id=letter.message_id,
        payment_id=letter.payment_id,
        trace_id=letter.trace_id,
        refusals=letter.refusals,
        state=letter.handled.action if letter.handled else "open",
        handled=letter.handled,
        key=text(letter.record.key) if contents else None,
        headers=[(name, text(value)) for name, value in letter.record.headers] if contents else [],
        body=text(letter.record.value) if contents else None,
    )


def text(value: bytes | None) -> str | None:
    """Bytes as text, what is not UTF-8 escaped."""
    return None if value is None else value.decode(errors="backslashreplace")
