"""Audits that were started, with their results: a table in whichever database the caller names.

One runs at a time: its session holds an advisory lock of that database until it ends. So a run whose process has
died is known as interrupted at once, whoever asks, and the next one can begin.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
import psycopg
import structlog
from psycopg.errors import LockNotAvailable
from uuid_utils.compat import uuid7

from contracts.postgres import session
from contracts.redaction import hide
from contracts.text import clean
from operations.audit.run import Audit, run
from processors.runtime import utc

TABLE_V1 = """
    -- Audits, the newest last; the result is there once one has ended.
    CREATE TABLE audits (
        audit_id    uuid PRIMARY KEY,
        started_by  text NOT NULL,
        started_at  timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz,
        result      json,
        error       text,
        CHECK ((finished_at IS NULL) = (result IS NULL AND error IS NULL))
    );
    CREATE INDEX audits_newest ON audits (started_at, audit_id)
"""
"""For a migration of that database; a change is a new version."""

GIVEN_BACK_S = 5
"""How long an audit that has ended may take to give its lock back."""

TEXT_MAX = 10_000
"""Characters of what one check found, or of why an audit failed, that are kept."""

# An arbitrary number, the same for every process that runs an audit.
_LOCK = 0x5E77A0

# The upper half of the key is `classid`. Only the newest can be the one that runs.
_COLUMNS = f"""audit_id, started_by, started_at, finished_at,
    CASE WHEN error IS NOT NULL THEN 'failed' WHEN (result->>'ok')::boolean THEN 'holds'
        WHEN result IS NOT NULL THEN 'does not hold'
        WHEN EXISTS (SELECT FROM audits n WHERE n.started_at > a.started_at) THEN 'interrupted'
        WHEN EXISTS (
            SELECT FROM pg_locks JOIN pg_database d ON d.oid = database AND d.datname = current_database()
            WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = {_LOCK}) THEN 'running'
        ELSE 'interrupted' END,
    result::text, error"""  # noqa: S608 made of constants

_FIND = f"SELECT {_COLUMNS} FROM audits a WHERE audit_id = %s"  # noqa: S608 made of constants

_HISTORY = f"""
SELECT {_COLUMNS} FROM audits a
WHERE %(before)s::uuid IS NULL
    OR (started_at, audit_id) < (SELECT started_at, audit_id FROM audits WHERE audit_id = %(before)s)
ORDER BY started_at DESC, audit_id DESC LIMIT %(limit)s
"""  # noqa: S608 made of constants

_BEGIN = "INSERT INTO audits (audit_id, started_by, started_at) VALUES (%s, %s, clock_timestamp())"

_END = """
UPDATE audits SET finished_at = clock_timestamp(), result = %s::text::json, error = %s
WHERE audit_id = %s AND finished_at IS NULL
"""

log = structlog.get_logger()

State = Literal["running", "holds", "does not hold", "failed", "interrupted"]


class AuditRunningError(Exception):
    """An audit is running already; the text is one line for a person."""


class AuditRun(msgspec.Struct, frozen=True):
    """An audit that was started; times in UTC.

    Attributes:
        state: ``failed`` if it could not look at everything (``error`` says why), ``interrupted`` if its process
            ended before it did.
        result: of one that has ended.
    """

    audit_id: UUID
    started_by: str
    started_at: datetime
    finished_at: datetime | None
    state: State
    result: Audit | None
    error: str | None


@contextmanager
def begun(dsn: str, started_by: str) -> Iterator[tuple[UUID, Callable[[Audit | Exception], None]]]:
    """Begin an audit: its ID, and what records its result; no other begins until the block ends.

    Args:
        dsn: of the database with the table; the session is kept, so no pooler of transactions may be between.
        started_by: who asks for it.

    Raises:
        AuditRunningError: one is running.
        psycopg.OperationalError: the database does not answer.
    """
    with session(dsn, autocommit=True) as connection:
        if not _locked(connection):
            raise AuditRunningError("an audit is running already; its result is the newest of the history")
        audit_id = uuid7()
        connection.execute(_BEGIN, (audit_id, started_by))

        def end(found: Audit | Exception) -> None:
            result, error = (_kept(found), None) if isinstance(found, Audit) else (None, _reason(found))
            values = result, error, audit_id
            try:
                connection.execute(_END, values)
            except (psycopg.OperationalError, psycopg.InterfaceError) as lost:
                # It is idle for as long as an audit takes: meanwhile the database may have been restarted.
                log.warning("an audit has lost its session", audit=str(audit_id), reason=_reason(lost))
                with session(dsn, autocommit=True) as another:
                    another.execute(_END, values)

        yield audit_id, end


def _kept(found: Audit) -> str:
    """A result as JSON that PostgreSQL takes and can look into, whatever texts the audit has found."""
    checks = [msgspec.structs.replace(check, detail=clean(check.detail, TEXT_MAX)) for check in found.checks]
    dead_letters: Counter[str] = Counter()
    for service, count in found.dead_letters.items():
        dead_letters[clean(service, TEXT_MAX)] += count
    kept = msgspec.structs.replace(found, checks=checks, dead_letters=dict(dead_letters))
    return msgspec.json.encode(kept).decode()


def _reason(error: Exception) -> str:
    return clean(hide(" ".join(str(error).split()) or type(error).__name__), TEXT_MAX)


def _locked(connection: psycopg.Connection[Any]) -> bool:
    """Whether this session has the lock now. One whose result is there gives it back a moment later."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s::bigint)", (_LOCK,)).fetchone()
    if row is not None and row[0]:
        return True
    newest = connection.execute("SELECT finished_at FROM audits ORDER BY started_at DESC LIMIT 1").fetchone()
    if newest is not None and newest[0] is None:
        return False
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{GIVEN_BACK_S}s",))
            connection.execute("SELECT pg_advisory_lock(%s::bigint)", (_LOCK,))
    except LockNotAvailable:
        return False
    return True


def audit(dsn: str, started_by: str, dsns: Mapping[str, str], bootstrap: str, wait_s: float = 0.0) -> Audit:
    """Run an audit and keep its result.

    Args:
        dsn: of the database with the table.
        started_by: who asks for it.
        dsns: as of :func:`operations.audit.run.run`, with ``bootstrap`` and ``wait_s``.

    Raises:
        AuditRunningError: one is running.
        psycopg.OperationalError, KafkaException: what is audited, or the table's database, does not answer.
    """
    with begun(dsn, started_by) as (_, end):
        try:
            found = run(dsns, bootstrap, wait_s)
        except Exception as error:
            end(error)
            raise
        end(found)
    return found


def find(connection: psycopg.Connection[Any], audit_id: UUID) -> AuditRun | None:
    """One audit; None where none has this ID."""
    return next(iter(_looked_at(connection, _FIND, (audit_id,))), None)


def history(connection: psycopg.Connection[Any], limit: int, before: UUID | None = None) -> list[AuditRun]:
    """The audits, the newest first; with ``before``, those that began before that one."""
    return _looked_at(connection, _HISTORY, {"limit": limit, "before": before})


def _looked_at(connection: psycopg.Connection[Any], query: str, values: Any) -> list[AuditRun]:
    """The audits of a query. The lock is looked at after the rows: what seems interrupted is so if it is twice."""
    known: set[UUID] = set()
    while True:
        found = [_run_of(row) for row in utc.cursor(connection).execute(query.encode(), values).fetchall()]
        if all(run.audit_id in known for run in found if run.state == "interrupted"):
            return found
        known.update(run.audit_id for run in found if run.state == "interrupted")


def _run_of(row: tuple[Any, ...]) -> AuditRun:
    audit_id, started_by, started_at, finished_at, state, result, error = row
    found = msgspec.json.decode(result, type=Audit) if result is not None else None
    return AuditRun(audit_id, started_by, started_at, finished_at, state, found, error)
