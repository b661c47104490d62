"""PostgreSQL as a service: how each grants the right to replicate, and where it sets the level of the log."""

from typing import Any

import psycopg

Connection = psycopg.Connection[Any]

# Amazon RDS and Aurora: nobody there may ALTER ROLE … REPLICATION, but membership in this role says the same.
_RDS_ROLE = "rds_replication"
_HAS_RDS_ROLE = f"SELECT count(*) > 0 FROM pg_roles WHERE rolname = '{_RDS_ROLE}'"  # noqa: S608 a constant

# Settings of services by which they set wal_level, as users may not.
_LEVELS = {
    "rds.logical_replication": "set rds.logical_replication = 1 in the parameter group and reboot",
    "cloudsql.logical_decoding": "set the instance's flag cloudsql.logical_decoding = on, which restarts it",
}
_HAS_SETTING = "SELECT current_setting('{}', true) IS NOT NULL"


def replication_right(connection: Connection, role: str) -> str:
    """The statement by which this role may read the log; for a replication connection too."""
    if _is_true(connection, _HAS_RDS_ROLE):
        return f"GRANT {_RDS_ROLE} TO {role}"
    return f"ALTER ROLE {role} REPLICATION"


def logical_level(connection: Connection) -> str:
    """What to do where the log has too little in it (``wal_level``)."""
    for setting, advice in _LEVELS.items():
        if _is_true(connection, _HAS_SETTING.format(setting)):
            return advice
    return "set wal_level = logical and restart PostgreSQL"


def _is_true(connection: Connection, query: str) -> bool:
    row = connection.execute(query.encode()).fetchone()
    return bool(row and row[0])
