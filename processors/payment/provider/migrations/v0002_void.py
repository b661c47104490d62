"""Payment IDs that will never be paid."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE charges
        DROP CONSTRAINT charges_status_check,
        DROP CONSTRAINT charges_check1,
        ADD CONSTRAINT charges_status_check CHECK (status IN ('paid', 'declined', 'voided')),
        ADD CONSTRAINT charges_reason_check CHECK ((status = 'declined') = (reason IS NOT NULL));
    """)
