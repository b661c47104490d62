"""The provider's ledger."""

from alembic import op

from processors.runtime.schema import append_only_v1

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
    -- One row per payment ID that the provider decided on; asking again reads the same answer.
    CREATE TABLE charges (
        payment_id   uuid PRIMARY KEY,
        account_id   text NOT NULL,
        amount_minor bigint NOT NULL CHECK (amount_minor > 0),
        currency     text NOT NULL,
        status       text NOT NULL CHECK (status IN ('paid', 'declined')),
        reference    text,
        reason       text,
        charged_at   timestamptz NOT NULL DEFAULT now(),
        CHECK ((status = 'paid') = (reference IS NOT NULL)),
        CHECK ((status = 'declined') = (reason IS NOT NULL))
    );
    """)
    op.execute(append_only_v1("charges"))
