"""Withdrawals can be listed, by account too, and their endings followed in the order of commits."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    # Those that are open are found by `withdrawals_open`; here each has its entries once, when it ends. What ended
    # before has no transaction: it is listed, and is not among the endings that can be followed.
    op.execute("""
    ALTER TABLE withdrawals ADD COLUMN finished_in xid8;
    ALTER TABLE withdrawals ALTER finished_in SET DEFAULT pg_current_xact_id();
    CREATE INDEX withdrawals_finished ON withdrawals (created_at, payment_id) WHERE finished_at IS NOT NULL;
    CREATE INDEX withdrawals_of_account ON withdrawals (account_id, created_at, payment_id)
        WHERE finished_at IS NOT NULL;
    CREATE INDEX withdrawals_endings ON withdrawals (finished_in, payment_id) WHERE finished_at IS NOT NULL
    """)
