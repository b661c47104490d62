"""Rows sent one by one, each in a batch of its own, to find out which of a batch it was that Kafka refuses."""

from outbox_relay.acknowledgements import Acknowledgements


class OneByOne:
    """Whether a source does, which takes Kafka's answer for each row.

    It does until everything is acknowledged that was on its way when a batch was refused. Rows from the table are
    handed over again by a look at it; only where there were some, that has to have come to its end, too.
    """

    def __init__(self) -> None:
        self._until_lsn = 0
        self._waits_for_look = False

    @property
    def is_on(self) -> bool:
        """Whether rows are sent one by one."""
        return self._until_lsn > 0

    def begin(self, acks: Acknowledgements) -> bool:
        """A batch was refused of what is on its way; whether it was not on before."""
        was_on = self.is_on
        self._until_lsn = max(acks.newest_lsn, 1)
        self._waits_for_look |= acks.has_leftovers
        return not was_on

    def end_if_over(self, confirmed_lsn: int, *, has_looked: bool) -> bool:
        """Go back to batches if all of it is acknowledged; whether that is so."""
        if not 0 < self._until_lsn <= confirmed_lsn or (self._waits_for_look and not has_looked):
            return False
        self._until_lsn, self._waits_for_look = 0, False
        return True
