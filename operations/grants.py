"""Grants: the rights of each database role, no more than its statements need (a service's in its ``grants.py``).

The roles are those of ``deploy/postgres/roles.sql``. Tables belong to the role that migrates, so no service can
change a schema, nor switch off the triggers by which ``ledger``, ``event_store`` and ``charges`` only grow.
"""

from importlib import import_module

from contracts.postgres import session
from contracts.services import FOLDERS, NAMES, READ_BY
from operations import functions

PUBLICATION = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'settle_outbox') THEN
        CREATE PUBLICATION settle_outbox FOR TABLE public.outbox {columns}
            WITH (publish = 'insert', publish_via_partition_root = true);
    END IF;
END $$
"""
"""The publication that the relay would make itself if it could: only a table's owner may."""

_COLUMNS = "(id, aggregatetype, aggregateid, type, payload, traceparent, tracestate)"
_COLUMNS_SINCE = 150_000

# It quarantines rows that can never be published, and looks at what people ask of it.
_RELAY = """
GRANT SELECT, DELETE ON outbox TO relay_{service};
GRANT SELECT, INSERT, UPDATE ON outbox_dead TO relay_{service};
GRANT SELECT, INSERT ON outbox_control TO relay_{service};
"""

# To vacuum it; where the right does not exist yet, autovacuum does, once a minute.
_VACUUM = "GRANT MAINTAIN ON outbox TO relay_{service}"
_VACUUM_SINCE = 170_000

_EVERY_SERVICE = "GRANT INSERT ON outbox TO {service}"

# A stream processor records gaps; people acknowledge these.
_EVERY_PROCESSOR = """
GRANT SELECT, INSERT, UPDATE ON gaps TO {service};
GRANT UPDATE (acknowledged_at, note) ON gaps TO operator;
"""

_PEOPLE = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO viewer, operator, treasurer"

# What the operator had before there were functions.
_NO_MORE = """
REVOKE INSERT, DELETE ON outbox FROM operator;
REVOKE DELETE ON outbox_dead FROM operator;
"""
_NO_ACCOUNTS = "REVOKE INSERT ON accounts FROM operator"

_OPEN_ACCOUNTS = "GRANT INSERT ON accounts TO treasurer"

# Of a table that each database has had from its first version.
_IS_GRANTED = """
SELECT coalesce(bool_or(has_table_privilege(r.oid, c.oid, 'SELECT')), false) FROM pg_roles r, pg_class c
WHERE r.rolname = 'viewer' AND c.oid = to_regclass('public.alembic_version')
"""


def is_granted(dsn: str) -> bool:
    """Whether the roles have been granted their rights before, so that those to new tables belong to them too.

    Raises:
        psycopg.OperationalError: the database does not answer.
    """
    with session(dsn) as connection:
        return bool((connection.execute(_IS_GRANTED).fetchone() or (False,))[0])


def grant(database: str, dsn: str) -> None:
    """Grant each role its rights in a database with the newest schema; safe to repeat.

    Args:
        database: of :data:`contracts.services.DATABASES`.
        dsn: of the migrating role, which owns tables and database.

    Raises:
        psycopg.errors.UndefinedObject: a role does not exist.
        psycopg.OperationalError: the database does not answer.
    """
    own: str = import_module(f"{FOLDERS[database]}.grants").GRANTS
    statements = [own, _PEOPLE]
    if database == "account":
        statements += [_NO_ACCOUNTS, _OPEN_ACCOUNTS]
    with session(dsn) as connection:
        version = connection.info.server_version
        if database in NAMES:
            columns = _COLUMNS if version >= _COLUMNS_SINCE else ""
            statements += [PUBLICATION.format(columns=columns), _RELAY.format(service=database), _NO_MORE]
            statements += [_VACUUM.format(service=database)] if version >= _VACUUM_SINCE else []
            statements += [_EVERY_SERVICE.format(service=database), *functions.statements(database)]
        if database in READ_BY:
            statements.append(_EVERY_PROCESSOR.format(service=database))
        for statement in statements:
            connection.execute(statement)
