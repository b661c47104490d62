"""Voiding of payments, claims on due payments, deadlines, and cancellations that arrive first."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE payments
        ADD COLUMN deadline_at    timestamptz,
        ADD COLUMN void_reason    text,
        ADD COLUMN cancel_refused boolean NOT NULL DEFAULT false,
        -- Who is asking the provider about it just now; due again at next_attempt_at should they die.
        ADD COLUMN claim          uuid,
        DROP CONSTRAINT payments_status_check,
        DROP CONSTRAINT payments_attempts_check,
        ADD CONSTRAINT payments_status_check CHECK (status IN ('awaited', 'pending', 'processed', 'failed')),
        ADD CONSTRAINT payments_attempts_check CHECK (attempts >= 0),
        ADD CONSTRAINT payments_awaited_check CHECK (status <> 'awaited' OR void_reason IS NOT NULL),
        ADD CONSTRAINT payments_claim_check CHECK (claim IS NULL OR status = 'pending');
    UPDATE payments SET deadline_at = created_at + interval '10 min' WHERE status = 'pending';
    """)
