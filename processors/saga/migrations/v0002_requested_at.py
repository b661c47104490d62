"""The time of a withdrawal's request, kept with its state, to compute its duration at the end."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Empty for those from before; no row is rewritten.
    op.execute("ALTER TABLE withdrawals ADD COLUMN requested_at timestamptz")
