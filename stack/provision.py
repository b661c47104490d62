"""Provisioning before the services start: schemas in the databases, topics in the broker.

Imported inside the functions: `settle --help` needs neither Alembic nor SQLAlchemy.
"""


def migrate(database: str, dsn: str) -> None:
    """Bring one of :data:`contracts.services.DATABASES` to its newest schema."""
    from operations import migrations

    migrations.migrate(database, dsn)


def ensure_topics(bootstrap: str, partitions: int) -> None:
    """Create the topics that are missing."""
    from broker import provision

    provision.ensure_topics(bootstrap, partitions)
