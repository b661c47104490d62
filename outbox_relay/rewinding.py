"""A session of the reader of the log that rewinds: up to a temporary slot, then the rows that it is to repeat."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import psycopg
from psycopg import sql

from outbox_relay.acknowledgements import Acknowledgements
from outbox_relay.control import rewind
from outbox_relay.control.skips import unless_skipped
from outbox_relay.control.table import DONE, Act, answer
from outbox_relay.dead import dead_since, not_dead
from outbox_relay.errors import SetupError
from outbox_relay.names import one_line
from outbox_relay.publisher import Publisher
from outbox_relay.replication import ReplicationConnection, connect
from outbox_relay.slot import NewSlot, new_slot
from outbox_relay.source import Source
from outbox_relay.stages import Publish
from outbox_relay.table import Table


class Rewinding:
    """Rows that are to be published again, in the snapshot of a temporary slot.

    Args:
        source: which is to be rewound.
        connection: an ordinary one to its database.
        act: what was asked.
        wanted: SQL for the rows.
        slot: the temporary one.

    Attributes:
        starts_at_lsn: everything committed before is to be published first, and nothing after.
    """

    def __init__(
        self, source: Source, connection: psycopg.Connection[Any], act: Act, wanted: sql.Composable, slot: NewSlot
    ) -> None:
        self.starts_at_lsn = slot.starts_at_lsn
        self._source = source
        self._connection = connection
        self._act = act
        self._wanted = wanted
        self._slot = slot

    def publish(
        self, acks: Acknowledgements, publisher: Publisher, publish: Publish, confirm: Callable[[], None]
    ) -> None:
        """Publish them, if all before them is, and have another session read on; else the next one tries again.

        Args:
            acks: what is on its way.
            publisher: Kafka.
            publish: the stage that takes rows which may be on their topics.
            confirm: called now and then, so that the server hears of the session.
        """
        source = self._source
        if acks.confirmed_lsn < self.starts_at_lsn:
            return
        lsn = self.starts_at_lsn - 1
        dead = {(lsn, contents) for _, contents in dead_since(self._connection, 0, source.outbox)}
        stage = unless_skipped(publish, source.control.orders.skips, frozenset(), None, source.quarantine)

        def look() -> None:
            source.raise_if_stopped()
            confirm()

        source.say("publishing rows again", asked_by=self._act.by)
        rows = (row for row, _ in self._slot.rows_before(self._wanted))
        count = rewind.publish_again(rows, acks, lsn, publisher, not_dead(stage, dead), source.key, look)
        answer(self._connection, source.outbox, self._act.number, DONE, rewind.outcome(count))
        source.begin_again(rewind.outcome(count))


@contextmanager
def rewinding(
    source: Source, reading: ReplicationConnection, table: Table, slot: str
) -> Iterator[Rewinding | None]:
    """What a session is to publish again, if anything; what cannot be done is answered, and nothing waits for it.

    Args:
        source: which reads.
        reading: the session's connection, which can read even where the server takes no further ones.
        table: its outbox.
        slot: the name of its slot.

    Raises:
        psycopg.Error: the server is away.
    """
    act, outbox = source.control.orders.rewind, source.outbox
    if act is None:
        yield None
        return
    with ExitStack() as stack:
        made = None
        try:
            ordinary = stack.enter_context(closing(connect(source.dsn, replication=False)))
            if (reason := rewind.refusal(outbox)) is not None:
                raise SetupError(reason)
            wanted = rewind.condition(ordinary, table, act.row_id, act.since)
            source.making_slot(slot)
            connection = stack.enter_context(closing(connect(source.dsn)))
            made = stack.enter_context(new_slot(connection, table, slot))
        except (SetupError, psycopg.OperationalError) as error:
            reading.execute("SELECT")  # or else nothing can be read either, and the rewind waits
            source.control.refuse(act, one_line(error))
            source.warn("a rewind is not done", why=one_line(error))
            source.begin_again("what else is asked")
        yield Rewinding(source, ordinary, act, wanted, made) if made is not None else None
