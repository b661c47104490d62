"""The outbox needs no index."""

from alembic import op

from processors.runtime.schema import OUTBOX_WITHOUT_INDEX_V1

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(OUTBOX_WITHOUT_INDEX_V1)
