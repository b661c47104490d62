"""Accounts, the saga log, the ledger and the outbox."""

from alembic import op

from processors.runtime.schema import OUTBOX_V1, append_only_v1

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
    CREATE TABLE accounts (
        account_id            text PRIMARY KEY,
        currency              text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        opening_balance_minor bigint NOT NULL CHECK (opening_balance_minor >= 0),
        balance_minor         bigint NOT NULL CHECK (balance_minor >= 0),
        opened_at             timestamptz NOT NULL DEFAULT now(),
        updated_at            timestamptz NOT NULL DEFAULT now()
    ) WITH (fillfactor = 50);

    -- What this service did for each withdrawal; a refund looks here for what it undoes.
    CREATE TABLE saga_log (
        payment_id   uuid PRIMARY KEY,
        account_id   text NOT NULL,
        amount_minor bigint NOT NULL CHECK (amount_minor > 0),
        currency     text NOT NULL,
        status       text NOT NULL CHECK (status IN ('deducted', 'compensated', 'rejected')),
        reason       text,
        created_at   timestamptz NOT NULL DEFAULT now(),
        updated_at   timestamptz NOT NULL DEFAULT now(),
        CHECK ((status = 'deducted') = (reason IS NULL))
    );

    -- Every movement of money, signed: opening balance + sum of the ledger = balance.
    CREATE TABLE ledger (
        payment_id   uuid NOT NULL,
        kind         text NOT NULL CHECK (kind IN ('deduction', 'refund')),
        account_id   text NOT NULL,
        amount_minor bigint NOT NULL,
        booked_at    timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (payment_id, kind),
        CHECK (CASE kind WHEN 'deduction' THEN amount_minor < 0 ELSE amount_minor > 0 END)
    );
    """)
    op.execute(append_only_v1("ledger"))
    op.execute(OUTBOX_V1)
