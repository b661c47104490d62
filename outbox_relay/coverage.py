"""Coverage checks: publication and slot, as in the catalogs, against the outbox table, and their repair.

A publication that no longer matches its table is silent loss: the log is read to its end, but rows are missing. So
this is checked periodically while a source reads, and repaired where possible.
"""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from outbox_relay.errors import SetupError
from outbox_relay.outbox import OUTBOX, Outbox
from outbox_relay.quoting import quoted
from outbox_relay.share import same
from outbox_relay.table import Connection, Table

# Only what a record is made of: to write out a timestamp for each row costs the server more than the rest of it.
COLUMN_LISTS_SINCE = 150_000
GENERATED_SINCE = 180_000

_PUBLICATION = """
    SELECT p.pubinsert, p.pubviaroot OR c.relkind <> 'p', t.tablename IS NOT NULL, {attnames},
        {rowfilter}, EXISTS (SELECT FROM pg_publication_rel WHERE prpubid = p.oid AND prrelid = c.oid)
    FROM pg_publication AS p
    JOIN pg_class AS c ON c.oid = {name}::regclass
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN pg_publication_tables AS t
        ON t.pubname = p.pubname AND t.schemaname = n.nspname AND t.tablename = c.relname
    WHERE p.pubname = {publication_name}
"""
_KIND = """
    SELECT c.relkind IN ('r', 'p'), c.relpersistence = 'u', ARRAY(
            SELECT attname::text FROM pg_attribute
            WHERE attrelid = c.oid AND NOT attisdropped AND attgenerated <> ''
                AND (attgenerated = 'v' OR current_setting('server_version_num')::int < {generated_since})
        ),
        NOT EXISTS (SELECT FROM pg_publication WHERE pubname = {publication_name})
    FROM pg_class AS c WHERE c.oid = {name}::regclass
"""
# Where a publication was changed and changed back, its rows in the catalogs are other ones. What it has of other
# tables says nothing.
_FINGERPRINT = """
    SELECT string_agg(f, ' ' ORDER BY f) FROM (
        SELECT 'outbox ' || {name}::regclass::oid
        UNION ALL SELECT 'publication ' || oid || ' ' || xmin FROM pg_publication
            WHERE pubname = {publication_name}
        UNION ALL SELECT 'member ' || r.oid || ' ' || r.xmin FROM pg_publication_rel AS r
            JOIN pg_publication AS p ON p.oid = r.prpubid WHERE p.pubname = {publication_name}
                AND r.prrelid IN (SELECT {name}::regclass UNION SELECT pg_partition_ancestors({name}::regclass))
        {schemas}
    ) AS facts (f)
"""
_SCHEMAS = """
    UNION ALL SELECT 'schema ' || s.oid || ' ' || s.xmin FROM pg_publication_namespace AS s
        JOIN pg_publication AS p ON p.oid = s.pnpubid
        JOIN pg_class AS c ON c.relnamespace = s.pnnspid AND c.oid = {name}::regclass
        WHERE p.pubname = {publication_name}
"""
_SLOT = """
    SELECT plugin, database = current_database(), wal_status,
        confirmed_flush_lsn > CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_insert_lsn() END
    FROM pg_replication_slots WHERE slot_name = {slot}
"""

_SET = "ALTER PUBLICATION {publication} SET (publish = 'insert', publish_via_partition_root = true)"
_GENERATED = "ALTER PUBLICATION {publication} SET (publish_generated_columns = stored)"
_DROP = "ALTER PUBLICATION {publication} DROP TABLE {table}"
_ADD = "ALTER PUBLICATION {publication} ADD TABLE {table}{columns}{filter}"
_CREATE = (
    "CREATE PUBLICATION {publication} FOR TABLE {table}{columns}{filter}"
    " WITH (publish = 'insert', publish_via_partition_root = true)"
)


@dataclass(frozen=True)
class Gap:
    """A reason why rows of the outbox do not come with the stream, and its repair.

    Attributes:
        reason: in one line, for a person.
        statements: to be run by the owner of table and publication; none where SQL does not mend it.
        is_ours: whether the faulty object belongs to the relay, which may then recreate it.
        is_missing: there is nothing at all to read.
    """

    reason: str
    statements: tuple[str, ...] = ()
    is_ours: bool = True
    is_missing: bool = False

    def __str__(self) -> str:
        if not self.statements:
            return self.reason
        return f"{self.reason}: let the table's owner run: {'; '.join(self.statements)}"


def publication_gap(connection: Connection, table: Table) -> Gap | None:
    """What the publication lacks; None where it has every row of the outbox with all that a record is made of."""
    outbox = table.outbox
    name, publication = outbox.label, quoted(outbox.publication_name)
    since = sql.Literal(GENERATED_SINCE)
    is_table, is_unlogged, unwritten, is_missing = _one(connection, outbox.sql(_KIND, generated_since=since))
    if not is_table:
        return Gap(f"{name} is no table of this database: the log has nothing of it", is_missing=is_missing)
    if is_unlogged:
        return Gap(
            f"{name} is UNLOGGED: the log has nothing of it, and a crash of the server empties it; let the "
            f"table's owner run: ALTER TABLE {name} SET LOGGED",
            is_missing=is_missing,
        )
    if unwritten := [one for one in published_columns(table) if one in unwritten]:
        return Gap(
            f"the log has nothing of the generated column {', '.join(unwritten)} of {name} (from PostgreSQL 18 on "
            "it has those that are STORED): have a trigger fill a plain column, or set reader = polling",
            is_missing=is_missing,
        )
    with_lists = connection.info.server_version >= COLUMN_LISTS_SINCE
    found = _one(
        connection,
        outbox.sql(
            _PUBLICATION,
            attnames=sql.SQL("t.attnames::text[]" if with_lists else "NULL::text[]"),
            rowfilter=sql.SQL("t.rowfilter" if with_lists else "NULL::text"),
        ),
    )
    if outbox.share is not None and not with_lists:
        return Gap(f"{name} cannot be split: PostgreSQL filters rows from version 15 on", is_missing=True)
    if found is None:
        create = creation(table, with_list=with_lists)
        return Gap(f"there is no publication {publication}", (create,), is_missing=True)
    inserts, via_root, is_member, columns, row_filter, is_listed = found
    flags = (outbox.text(_SET),)
    again = (outbox.text(_DROP), add := outbox.text(_ADD, **_of_a_member(table, with_list=with_lists)))
    if not inserts:
        return Gap(f"publication {publication} does not publish inserts", flags)
    if not via_root:
        return Gap(f"publication {publication} publishes partitions under their own names", flags)
    if not is_member:
        return Gap(f"publication {publication} does not have the table {name}", (add,))
    if columns is not None and (missing := [one for one in published_columns(table) if one not in columns]):
        # Of all tables, or of all of a schema: none can be taken out, and what is missing are generated columns.
        mends = again if is_listed else (outbox.text(_GENERATED),)
        return Gap(f"publication {publication} lacks the column {', '.join(missing)} of {name}", mends)
    if outbox.share is None and row_filter is not None:
        return Gap(f"publication {publication} has a row filter on {name}", again)
    if outbox.share is not None and (row_filter is None or not same(row_filter, table.mine.as_string())):
        return Gap(f"publication {publication} does not filter the rows of share {outbox.share.name}", again)
    return None


def creation(table: Table, *, with_list: bool) -> str:
    """The statement that creates the publication of an outbox, with or without a list of columns."""
    return table.outbox.text(_CREATE, **_of_a_member(table, with_list=with_list))


def _of_a_member(table: Table, *, with_list: bool) -> dict[str, str]:
    """A publication's list of columns, and its row filter."""
    row_filter = f" WHERE ({table.mine.as_string()})" if table.outbox.share is not None else ""
    return {"columns": column_list(table) if with_list else "", "filter": row_filter}


def published_columns(table: Table) -> list[str]:
    """The names of the columns that records are made of, each once."""
    parts = table.outbox.parts
    return list(dict.fromkeys(table.columns[part].name for part in parts if part in table.columns))


def column_list(table: Table) -> str:
    """The same as a publication's list of columns."""
    return f" ({', '.join(map(quoted, published_columns(table)))})"


def slot_gap(connection: Connection, name: str) -> Gap | None:
    """Why the slot does not bring what is committed; None where it does, or where there is none."""
    found = _one(connection, sql.SQL(_SLOT).format(slot=sql.Literal(name)))
    if found is None:
        return None
    plugin, in_this_database, wal_status, is_ahead = found
    if plugin != "pgoutput" or not in_this_database:
        return Gap(
            f"slot {name} exists, but for another plugin or database; drop it or name another", is_ours=False
        )
    if wal_status == "lost":
        return Gap(f"slot {name} was invalidated by the server (max_slot_wal_keep_size)")
    if is_ahead:
        return Gap(f"slot {name} is ahead of the log: the database was set back without it")
    return None


def fingerprint(connection: Connection, outbox: Outbox = OUTBOX) -> str:
    """A value that changes with every change of the publication to the table, even if it is reverted."""
    has_schemas = connection.info.server_version >= COLUMN_LISTS_SINCE
    schemas = outbox.sql(_SCHEMAS) if has_schemas else sql.SQL("")
    return str(_one(connection, outbox.sql(_FINGERPRINT, schemas=schemas))[0])


def mend(connection: Connection, gap: Gap) -> None:
    """Run the statements that repair a gap, as one transaction: the table is always a member for others.

    Raises:
        SetupError: the role may not, the database refuses, or SQL does not mend it; the text says what to do.
        psycopg.OperationalError: the database cannot now.
    """
    if not gap.statements:
        raise SetupError(str(gap))
    try:
        connection.execute("; ".join(gap.statements).encode())
    except (psycopg.errors.DuplicateObject, psycopg.errors.UndefinedObject):
        pass  # somebody else was faster
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        reason = " ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
        raise SetupError(f"{reason}: {gap}") from None


def _one(connection: Connection, query: sql.Composed) -> Any:
    return connection.execute(query).fetchone()
