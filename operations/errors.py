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


class BacklogError(TimeoutError):
    """So much is on its way that what is lost cannot be told from what is late.

    Attributes:
        what: has it before it, such as ``the saga service``.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(why)
        self.what = what
