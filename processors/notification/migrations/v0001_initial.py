"""Notifications and the outbox."""

from alembic import op

from processors.runtime.schema import OUTBOX_V1

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
    CREATE TABLE notifications (
        payment_id      uuid NOT NULL,
        template        text NOT NULL,
        account_id      text NOT NULL,
        amount_minor    bigint NOT NULL CHECK (amount_minor > 0),
        currency        text NOT NULL,
        recipient       text NOT NULL,
        status          text NOT NULL CHECK (status IN ('pending', 'sent', 'failed')),
        reason          text,
        attempts        smallint NOT NULL CHECK (attempts > 0),
        next_attempt_at timestamptz,
        traceparent     text,
        tracestate      text,
        created_at      timestamptz NOT NULL DEFAULT now(),
        updated_at      timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (payment_id, template),
        CHECK ((status = 'pending') = (next_attempt_at IS NOT NULL))
    );
    CREATE INDEX notifications_due ON notifications (next_attempt_at) WHERE status = 'pending';
    """)
    op.execute(OUTBOX_V1)
