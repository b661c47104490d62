"""Checks, and what every service has."""

from alembic import op

from processors.runtime.schema import SERVICE_V2

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE TABLE checks (payment_id uuid PRIMARY KEY, suspicious boolean NOT NULL)")
    op.execute(SERVICE_V2)
