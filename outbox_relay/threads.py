"""The sources that one process carries, a thread each."""

import threading
from collections.abc import Sequence

from outbox_relay import polling, wal
from outbox_relay.names import name_of
from outbox_relay.report import Report, report_of
from outbox_relay.source import Read, Source
from outbox_relay.source_settings import SourceSettings

READERS: dict[str, Read] = {"wal": wal.stream, "polling": polling.poll}
"""The ways to read an outbox, by the name in ``SETTLE_RELAY_READER``."""

# A source may be connecting, or flushing, when it is stopped.
JOIN_WAIT_S = wal.STOP_WAIT_S + 5.0


class Threads:
    """Carries sources until told to stop.

    Args:
        sources: which, each with a name of its own.
        stop: set when they shall end.
    """

    def __init__(self, sources: Sequence[SourceSettings], stop: threading.Event) -> None:
        self._sources = [Source(one, name_of(one), READERS[one.reader], stop, len(sources)) for one in sources]

    def start(self) -> None:
        """Begin."""
        for source in self._sources:
            source.start()

    def reports(self) -> Sequence[Report]:
        """The report of each."""
        return [report_of(source) for source in self._sources]

    def join(self) -> Sequence[str]:
        """Wait for the end of all, once they are told; the names of those that have not ended in time."""
        return [source.name for source in self._sources if not source.join(JOIN_WAIT_S)]
