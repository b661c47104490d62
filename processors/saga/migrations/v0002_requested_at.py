"""When a withdrawal was asked for, kept beside where it stands, so that its end can tell how long it took."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Empty for those from before; no row is rewritten.
    op.execute("ALTER TABLE withdrawals ADD COLUMN requested_at timestamptz")
