"""Rows of the outbox that can never be published, and an outbox that is vacuumed as it is emptied."""

from alembic import op

from processors.runtime.schema import OUTBOX_DEAD_V1

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(OUTBOX_DEAD_V1)
