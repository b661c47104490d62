"""Mails that were not tried yet, as the circuit to the mail server was open."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE notifications
        DROP CONSTRAINT notifications_attempts_check,
        ADD CONSTRAINT notifications_attempts_check CHECK (attempts >= 0);
    """)
