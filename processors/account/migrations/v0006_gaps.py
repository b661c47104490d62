"""The table of gaps: offsets that Kafka deleted before this service read them."""

from alembic import op

from processors.runtime.schema import GAPS_V1

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute(GAPS_V1)
