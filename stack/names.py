"""The names of the parts that serve the databases."""

from contracts.services import DATABASES


def server_name(database: str) -> str:
    """The part of a stack that serves a database; also its data folder."""
    return f"postgres-{database}"


SERVERS = {database: server_name(database) for database in DATABASES}
"""The part of a stack that serves each database."""

PASSFILE = "pgpass"
"""The file in the data folder by which libpq knows the password: no URL that people see has to contain it."""
