"""The errors of the embedded stack, each of which reaches a person as one line."""


class StackError(Exception):
    """The stack cannot do what was asked; the text says what, where and what to do."""


class AlreadyRunning(StackError):  # noqa: N818 - a state, as the reader knows it
    """Another ``settle up`` has the lock on this data folder."""


class NotRunning(StackError):  # noqa: N818
    """No stack runs on this data folder."""


class ChildFailed(StackError):  # noqa: N818
    """A part ended, or did not answer in time, while it was being started."""
