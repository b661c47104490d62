"""Rows that the log has left out of a table that keeps what is published: whether it is to be searched for them.

Where published rows are removed, whatever stays is searched for anyway. Where they are kept, only changes of
table, publication and slot tell that rows may be missing. The slot is read on all the same, as what it holds may
stand nowhere else. The table is searched at once, for what is committed, and once more when all transactions have
ended that ran when the change was seen, as the log has left out what they wrote before it.

A row bears the time at which its transaction began, which may be long before it was inserted. So what was left out
may be as old as the oldest transaction that ran when the log was last known to bring all rows.
"""

import threading
import time
from collections.abc import Iterable
from typing import Any

import psycopg

# A search may read all of the topics: before the next one that is called for, it rests so many times as long.
RESTS = 10
REST_S_MAX = 600.0

_RUNNING = """
    SELECT pg_snapshot_xmin(found)::text::int8, pg_snapshot_xmax(found)::text::int8
    FROM pg_current_snapshot() AS found
"""


class LeftOut:
    """What is to be searched for; noted by the threads of a source's sessions, searched for by their cleaners.

    Attributes:
        since_us: nothing that was written before has been left out, by the database's clock, microseconds since
            the Unix epoch; None: not known.
        read_lsn: how far this relay itself has read.
    """

    def __init__(self) -> None:
        self.since_us: int | None = None
        self.read_lsn = 0
        self._lock = threading.Lock()
        self._covered_us: int | None = None
        self._looked_us: int | None = None
        self._began_us: dict[str, int | None] = {}
        self._facts: str | None = None
        self._noted = self._seen = self._done = 0
        self._until_xid = 0
        self._is_searched = self._is_last = self._for_marks = False
        self._began_at = self._rests_until = 0.0

    def note(self, *, for_marks: bool = False) -> None:
        """The log may have left out rows until now; or some that it brought may lack a mark, and nothing else.

        Rows that stayed in the table while none could be removed count as such that lack a mark.
        """
        with self._lock:
            is_first = self._noted == self._done
            if is_first:
                self.since_us = self._covered_us
            self._for_marks = for_marks and (is_first or self._for_marks)
            self._noted += 1

    def look(self, facts: str, at_us: int, running: Iterable[str], *, is_covered: bool) -> bool:
        """Compare what decides on the rows that the log brings with what it was at the last look.

        Args:
            facts: what table and publication are.
            at_us: when that was asked, or before, by the database's clock, microseconds since the Unix epoch.
            running: the transactions that ran then, each by what no other one is called.
            is_covered: whether the log brings all rows, and did before it was asked.

        Returns:
            Whether it has changed.
        """
        # Which was not there at the last look has begun since; of those of the first look it is not known when.
        began_us = {one: self._began_us.get(one, self._looked_us) for one in running}
        self._began_us, self._looked_us = began_us, at_us
        has_changed = self._facts not in (None, facts)
        if is_covered and not has_changed:
            known_us = [one for one in began_us.values() if one is not None]
            self._covered_us = min([at_us, *known_us]) if len(known_us) == len(began_us) else None
        self._facts = facts
        return has_changed

    def forget_times(self, slot_lsn: int | None) -> None:
        """Where another relay has read since, how long ago all was well says nothing of what is published.

        Args:
            slot_lsn: the slot's position; None where it is new.
        """
        if slot_lsn is None or slot_lsn > self.read_lsn:
            with self._lock:
                self.since_us = self._covered_us = None

    def clear(self) -> None:
        """All rows of the table have been decided on."""
        with self._lock:
            self._done, self.since_us = self._noted, None

    def is_due(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether the table is to be searched now; to be asked before the search's snapshot is taken."""
        noted = self._noted
        if noted == self._done or time.monotonic() < self._rests_until:
            return False
        oldest, following = connection.execute(_RUNNING).fetchone() or (0, 0)
        if noted != self._seen:
            self._seen, self._until_xid, self._is_searched = noted, following, False
        self._is_last = oldest >= self._until_xid
        self._began_at = time.monotonic()
        return self._is_last or not self._is_searched

    @property
    def is_outstanding(self) -> bool:
        """Whether the table is still to be searched."""
        return self._noted != self._done

    @property
    def is_for_marks(self) -> bool:
        """Whether the search is called for by rows that may lack a mark alone: the log has left out nothing."""
        return self._for_marks and self.is_outstanding

    def end_rest(self) -> None:
        """Have the next search at once: somebody waits for what it finds."""
        self._rests_until = 0.0

    @property
    def rests(self) -> bool:
        """Whether a search that is called for waits only for its time."""
        return self.is_outstanding and time.monotonic() < self._rests_until

    def searched(self, *, is_complete: bool) -> None:
        """The search that was due is over; whether every row that it found has been decided on."""
        took_s = time.monotonic() - self._began_at
        self._rests_until = time.monotonic() + min(RESTS * took_s, REST_S_MAX)
        self._is_searched = is_complete
        if is_complete and self._is_last:
            with self._lock:
                self._done = self._seen
                if self._noted == self._done:
                    self.since_us = None
