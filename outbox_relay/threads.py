"""The sources that one process carries, a thread each."""

import threading
from collections.abc import Sequence

from outbox_relay import polling, wal
from outbox_relay.report import Report, report_of
from outbox_relay.source import Read, Source
from outbox_relay.source_settings import SourceSettings

READERS: dict[str, Read] = {"wal": wal.stream, "polling": polling.poll}
"""The ways to read an outbox, by the name in ``SETTLE_RELAY_READER``."""

# A source may be connecting, or flushing, when it is stopped.
JOIN_WAIT_S = wal.STOP_WAIT_S + 5.0

Named = tuple[str, SourceSettings]
"""A source's name, which only it has in the relay, and its settings."""


class Threads:
    """Carries sources until told to stop.

    Args:
        sources: which.
        stop: set when they shall end.
    """

    def __init__(self, sources: Sequence[Named], stop: threading.Event) -> None:
        self._sources = [
            Source(settings, name, READERS[settings.reader], stop, len(sources)) for name, settings in sources
        ]

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
