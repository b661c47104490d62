"""The table of what people ask of the outbox's relay."""

from alembic import op

from processors.runtime.schema import OUTBOX_CONTROL_V1

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(OUTBOX_CONTROL_V1)
