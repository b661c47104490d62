"""Payments and the outbox."""

from alembic import op

from processors.runtime.schema import OUTBOX_V1

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
    CREATE TABLE payments (
        payment_id         uuid PRIMARY KEY,
        account_id         text NOT NULL,
        amount_minor       bigint NOT NULL CHECK (amount_minor > 0),
        currency           text NOT NULL,
        status             text NOT NULL CHECK (status IN ('pending', 'processed', 'failed')),
        provider_reference text,
        reason             text,
        attempts           smallint NOT NULL CHECK (attempts > 0),
        next_attempt_at    timestamptz,
        traceparent        text,
        tracestate         text,
        created_at         timestamptz NOT NULL DEFAULT now(),
        updated_at         timestamptz NOT NULL DEFAULT now(),
        CHECK ((status = 'processed') = (provider_reference IS NOT NULL)),
        CHECK ((status = 'pending') = (next_attempt_at IS NOT NULL))
    );
    CREATE INDEX payments_due ON payments (next_attempt_at) WHERE status = 'pending';
    """)
    op.execute(OUTBOX_V1)
