"""Provisioning before the services start: schemas in the databases, topics in the broker.

Imported inside the functions: `settle --help` needs neither Alembic nor SQLAlchemy.
"""

from pathlib import Path

from stack import secured
from stack.assembly import Options
from stack.kafka import Kafka
from stack.ports import HOST


def migrate(database: str, dsn: str) -> None:
    """Bring one of :data:`contracts.services.DATABASES` to its newest schema."""
    from operations import migrations

    migrations.migrate(database, dsn)


def make_secrets(data: Path) -> None:
    """Make certificates and passwords of a secured stack that it has not yet."""
    from contracts.rights import kafka_users
    from operations.certificates import make

    servers = dict.fromkeys((secured.BROKER, secured.POSTGRES, secured.API), (HOST, "localhost"))
    make(secured.secrets_folder(data), {**servers, secured.ADMIN: ()}, [user.name for user in kafka_users()])


def provide(kafka: Kafka, options: Options, data: Path) -> None:
    """Create the topics that are missing; for a secured Kafka also its users, and what each may do."""
    from broker import access
    from broker.clients import admin
    from broker.provision import ensure_topics
    from contracts.rights import kafka_users

    ensure_topics(kafka.admin_address, options.partitions)
    if options.secure:
        client = admin(kafka.admin_address)
        access.set_passwords(client, secured.passwords(data))
        access.ensure_rights(client, access.rights(kafka_users()))
