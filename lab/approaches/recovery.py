"""Recovery, the other half of two-phase commit: after a crash, the log decides the transactions in doubt.

A prepared transaction survives the death of its coordinator and of its own server, with its locks. This reads
``pg_prepared_xacts`` of each participant, looks up the decision in the coordinator's log, and applies it. It may
run at any time, repeatedly, and beside running coordinators.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

from psycopg.errors import OperationalError

from lab.approaches.connections import Connection, connect
from lab.approaches.two_phase_commit import ABORT, DONE, PARTICIPANTS, decide, global_id, settle

# A session blocked by a prepared transaction waits for the lock on its transaction ID or, further back in the
# queue, for the session that waits for that.
_PREPARED: LiteralString = """
SELECT p.gid, p.prepared, extract(epoch FROM clock_timestamp() - p.prepared)::float8,
    (SELECT count(*) FROM pg_locks WHERE NOT granted
        AND (transactionid = p.transaction OR database = (SELECT oid FROM pg_database WHERE datname = p.database)))
FROM pg_prepared_xacts p
WHERE p.database = current_database() AND p.gid ~ '^settle:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:'
ORDER BY p.prepared
"""
_KNOWN: LiteralString = "SELECT decision FROM decisions WHERE transaction_id = %s"
_UNFINISHED: LiteralString = "SELECT transaction_id FROM decisions WHERE decision = 'commit' AND done_at IS NULL"


class InDoubt(NamedTuple):
    """A prepared transaction of a participant that has not been settled.

    Attributes:
        transaction_id: of the whole.
        participant: the participant in doubt.
        prepared_at: since when, with
        age_s: seconds since then.
        waiting: requests in this database that wait for a lock at this moment.
        decision: what the log says; None if nothing, which recovery aborts.
    """

    transaction_id: UUID
    participant: str
    prepared_at: datetime
    age_s: float
    waiting: int
    decision: str | None


class Recovered(NamedTuple):
    """What recovery did.

    Attributes:
        settled: participants' transactions it ended, each with the decision.
        unreachable: participants that did not answer; their transactions stay in doubt.
    """

    settled: list[tuple[InDoubt, str]]
    unreachable: list[str]


def in_doubt(dsns: Mapping[str, str]) -> list[InDoubt]:
    """Everything in doubt now, by participant; those that do not answer are left out.

    Raises:
        OperationalError: the coordinator's log does not answer.
    """
    with connect(dsns["coordinator"]) as log:
        return [one for name in PARTICIPANTS for one in _of(name, dsns[name], log) or ()]


def recover(dsns: Mapping[str, str], older_than_s: float = 0.0) -> Recovered:
    """Settle what is in doubt.

    Args:
        dsns: as of :class:`approaches.two_phase_commit.TwoPhaseCommit`.
        older_than_s: leave younger ones to their coordinator, which is probably alive. Not needed for safety.

    Raises:
        OperationalError: the coordinator's log does not answer; nothing can be settled without it.
    """
    settled: list[tuple[InDoubt, str]] = []
    unreachable: list[str] = []
    with connect(dsns["coordinator"]) as log:
        # Read before the participants: what is unfinished here and no longer prepared there is finished.
        unfinished = {row[0] for row in log.execute(_UNFINISHED)}
        for name in PARTICIPANTS:
            found = _of(name, dsns[name], log)
            if found is None:
                unreachable.append(name)
                continue
            with connect(dsns[name]) as participant:
                for one in found:
                    if one.age_s < older_than_s:
                        unfinished.discard(one.transaction_id)
                        continue
                    # Nothing in the log means abort. Written down before it is done: see two_phase_commit.
                    decision = decide(log, one.transaction_id, None, ABORT)
                    settle(participant, decision, global_id(one.transaction_id, one.participant))
                    settled.append((one, decision))
        if not unreachable:
            for transaction_id in unfinished:
                log.execute(DONE, (transaction_id,))
    return Recovered(settled, unreachable)


def _of(name: str, dsn: str, log: Connection) -> list[InDoubt] | None:
    """A participant's transactions in doubt; None if it does not answer."""
    try:
        with connect(dsn) as participant:
            rows = participant.execute(_PREPARED).fetchall()
    except OperationalError:
        return None
    found = []
    for gid, prepared_at, age_s, waiting in rows:
        transaction_id = UUID(gid.split(":")[1])
        known = log.execute(_KNOWN, (transaction_id,)).fetchone()
        found.append(InDoubt(transaction_id, name, prepared_at, age_s, waiting, known[0] if known else None))
    return found
