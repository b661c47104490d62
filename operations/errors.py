"""Errors of operations that are about what was asked for; each text is one line for a person."""


class CursorError(ValueError):
    """A cursor, or the ID of an event to go on after, that this list or stream has not given."""
