"""The SQL that the owner of an outbox runs once: publication, role, rights, table of dead rows, marks of a poller.

It is safe to repeat, and goes into ``psql`` as it is. Where the database answers, it fits the columns of the table
and the server's version; else the publication has all columns of the table.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import psycopg
from psycopg import sql

from contracts.dsn import effective
from outbox_relay import marks
from outbox_relay.columns import Column
from outbox_relay.control.table import create_table as create_control
from outbox_relay.coverage import COLUMN_LISTS_SINCE, Gap, creation, publication_gap
from outbox_relay.dead import create_table
from outbox_relay.errors import RelayError
from outbox_relay.names import one_line, source_name
from outbox_relay.outbox import ROLES, Outbox, Part
from outbox_relay.plan import plan
from outbox_relay.quoting import quoted
from outbox_relay.replication import connect
from outbox_relay.settings import RelaySettings
from outbox_relay.source_settings import SourceSettings
from outbox_relay.table import Table, find_table

MAINTAIN_SINCE = 170_000

_ROLE = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {role_name}) THEN
        CREATE ROLE {role} LOGIN;  -- and its password: \\password {role}
    END IF;
END $$;
"""
_REPLICATION = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication') THEN
        GRANT rds_replication TO {role};  -- Amazon RDS and Aurora
    ELSIF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {role_name} AND (rolreplication OR rolsuper)) THEN
        ALTER ROLE {role} REPLICATION;
    END IF;
END $$;
"""
_PUBLICATION = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = {publication_name}) THEN
        {create};
    END IF;
END $$;
"""


def explained(settings: RelaySettings) -> str:
    """The SQL for every outbox, as a script for psql.

    Raises:
        RelayError: there is no source, or the configuration file is wrong.
    """
    sources = plan(settings).sources
    several = len({one.dsn for one in sources}) > 1
    return "\n".join(line for one in sources for line in _of(one, several=several))


@dataclass(frozen=True)
class _Seen:
    """What of a database is known: its table, its version, what its publication lacks, and why not more."""

    table: Table
    version: int
    gap: Gap | None = None
    why: str | None = None
    is_partitioned: bool = True


def _look(source: SourceSettings) -> _Seen:
    try:
        with closing(connect(source.dsn, replication=False)) as connection:
            table = find_table(connection, source.outbox)
            gap = publication_gap(connection, table) if source.reader == "wal" else None
            is_partitioned = marks.is_partitioned(connection, source.outbox)
            return _Seen(table, connection.info.server_version, gap, is_partitioned=is_partitioned)
    except (RelayError, psycopg.Error) as error:
        names = source.outbox.columns.by_role
        columns: dict[Part, Column] = {one: Column(one.column, "") for one in source.outbox.additional}
        columns |= {role: Column(names[role], "") for role in ROLES if role in names}
        return _Seen(Table(source.outbox, columns), COLUMN_LISTS_SINCE, why=one_line(error))


def _of(source: SourceSettings, *, several: bool) -> Iterator[str]:
    parameters = effective(source.dsn)
    outbox, seen = source.outbox, _look(source)
    role = {"role": quoted(parameters.get("user", "relay"))}
    role["role_name"] = sql.Literal(parameters.get("user", "relay")).as_string()
    yield f"-- {source_name(source.dsn, outbox)}, to be run by the owner of {outbox.label}"
    if several:
        yield f"\\connect {quoted(parameters.get('dbname', 'postgres'))}"
    if seen.why is not None:
        yield f"-- The database could not be looked at, so this may not fit it: {seen.why}"
    if outbox.share is not None and outbox.share.number > 1:  # the first one has the rest
        if source.reader == "wal":
            yield from _publication(outbox, seen)
        yield ""
        return
    yield _ROLE.format(**role).strip()
    if source.reader == "wal":
        yield _REPLICATION.format(**role).strip()
        yield from _publication(outbox, seen)
    yield f"{create_table(outbox)};"
    yield f"{create_control(outbox)};"
    if source.reader == "polling" and not seen.table.is_marked:
        yield "BEGIN;"
        yield from (f"{statement};" for statement in marks.statements(outbox))
        yield "COMMIT;"
        yield f"{marks.index_statement(outbox, is_partitioned=seen.is_partitioned)};"
    marks_rows = source.reader == "polling" or seen.table.is_marked
    rights = ["SELECT"] + ["UPDATE"] * marks_rows + ["DELETE"] * source.cleanup
    yield f"GRANT USAGE ON SCHEMA {quoted(outbox.schema)} TO {role['role']};"
    yield f"GRANT {', '.join(rights)} ON {outbox.label} TO {role['role']};"
    if source.cleanup and seen.version >= MAINTAIN_SINCE:
        yield f"GRANT MAINTAIN ON {outbox.label} TO {role['role']};"
    yield f"GRANT SELECT, INSERT, UPDATE ON {outbox.dead_label} TO {role['role']};"
    yield f"GRANT SELECT, INSERT ON {outbox.control_label} TO {role['role']};"
    yield "-- Only if `outbox-relay dead` is run as this role:"
    yield f"-- GRANT INSERT ON {outbox.label} TO {role['role']};"
    yield f"-- GRANT DELETE ON {outbox.dead_label} TO {role['role']};"
    yield ""


def _publication(outbox: Outbox, seen: _Seen) -> Iterator[str]:
    if seen.why is None and (seen.gap is None or not seen.gap.is_missing):
        if seen.gap is not None:
            yield f"-- {seen.gap.reason}"
            yield from (f"{statement};" for statement in seen.gap.statements)
        return
    # A list that does not fit the table would be refused.
    create = creation(seen.table, with_list=seen.why is None and seen.version >= COLUMN_LISTS_SINCE)
    yield outbox.text(_PUBLICATION, create=create)
