"""Errors of operations that are about what was asked for; each text is one line for a person."""

from processors.saga.status import Status


class CursorError(ValueError):
    """A cursor, or the ID of an event to go on after, that this list or stream has not given."""


class SchemaError(ValueError):
    """A database whose schema has a version that this program does not know."""


class FinishedError(ValueError):
    """A withdrawal that is finished, so that there is nothing to do about it."""

    def __init__(self, status: Status) -> None:
        reason = f" ({status.reason})" if status.reason else ""
        super().__init__(f"withdrawal {status.payment_id} is finished: {status.state}{reason}")
        self.status = status


class UnaskedError(Exception):
    """One of several that are asked, and that does not answer.

    Attributes:
        what: it is, such as ``the saga database``.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(why)
        self.what = what


class BacklogError(UnaskedError, TimeoutError):
    """There is so much before one that is asked that what is lost cannot be told from what is late."""
