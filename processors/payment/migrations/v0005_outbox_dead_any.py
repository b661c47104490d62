"""The table of dead rows takes a row of any content."""

from alembic import op

from processors.runtime.schema import OUTBOX_DEAD_V2

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(OUTBOX_DEAD_V2)
