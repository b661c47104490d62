"""A record as Kafka holds it, and what is known of it before it is decoded."""

from typing import Any
from uuid import UUID

import msgspec

from contracts import headers
from contracts.foreign import UNREADABLE
from tracing import TraceContext, read_context


class _Body(msgspec.Struct):
    payment_id: Any = None


_BODY = msgspec.json.Decoder(_Body)


class Record(msgspec.Struct, frozen=True):
    """A record as Kafka holds it: its place, and its bytes untouched.

    Attributes:
        lacks: what is missing of it and why, where it could not be read in full.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: headers.Headers
    lacks: str | None = None

    @property
    def place(self) -> str:
        """Where it is: ``<topic>/<partition>@<offset>``."""
        return f"{self.topic}/{self.partition}@{self.offset}"

    @property
    def trace_id(self) -> str | None:
        """Of the trace that its withdrawal has."""
        return context_of_record(self).trace_id

    @property
    def payment_id(self) -> str | None:
        """The payment ID of its withdrawal, where the body can be decoded that far."""
        try:
            found = _BODY.decode(self.value or b"").payment_id
        except UNREADABLE:
            return None
        return found if isinstance(found, str) else None


def context_of_record(record: Record) -> TraceContext:
    """The trace context that a record carries, even one that cannot be read."""
    fields = dict(record.headers)
    return read_context(fields.get(headers.TRACEPARENT), fields.get(headers.TRACESTATE))


class _About(msgspec.Struct):
    payment_id: UUID


_ABOUT = msgspec.json.Decoder(_About)


def payment_id_of(record: Record) -> UUID | None:
    """The payment ID in a record's body, even if all else in it is invalid; None where there is none."""
    try:
        return _ABOUT.decode(record.value or b"").payment_id
    except UNREADABLE:
        return None
