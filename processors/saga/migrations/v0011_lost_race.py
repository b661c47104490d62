"""A statement that finds a standing changed ends its transaction itself."""

from alembic import op

from processors.runtime.schema import LOST_RACE_V1

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute(LOST_RACE_V1)
