"""Refunds that the database refused, to be retried until they succeed."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE refunds_due (
        payment_id      uuid PRIMARY KEY,
        payload         json NOT NULL,
        traceparent     text,
        tracestate      text,
        attempts        integer NOT NULL DEFAULT 1 CHECK (attempts > 0),
        error           text NOT NULL,
        next_attempt_at timestamptz NOT NULL,
        created_at      timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX refunds_due_next ON refunds_due (next_attempt_at);
    """)
