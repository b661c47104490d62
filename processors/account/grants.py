"""Grants of the account service in its database, in addition to those of every service."""

GRANTS = """
REVOKE UPDATE ON accounts, saga_log FROM account;
GRANT SELECT, UPDATE (balance_minor, updated_at) ON accounts TO account;
GRANT SELECT, INSERT, UPDATE (status, reason, updated_at) ON saga_log TO account;
GRANT SELECT, INSERT ON ledger TO account;
GRANT SELECT, INSERT, UPDATE, DELETE ON refunds_due TO account;
"""

PROOF = (
    "saga_log",
    """
CASE event_type
    WHEN 'BalanceChecked' THEN true
    WHEN 'WithdrawalRejected' THEN own.status = 'rejected'
    WHEN 'MoneyDeducted' THEN EXISTS (
        SELECT FROM public.ledger AS l
        WHERE l.payment_id = own.payment_id AND l.kind = 'deduction' AND l.account_id = own.account_id
            AND l.amount_minor = -own.amount_minor)
    WHEN 'MoneyRefunded' THEN EXISTS (
        SELECT FROM public.ledger AS l
        WHERE l.payment_id = own.payment_id AND l.kind = 'refund' AND l.account_id = own.account_id
            AND l.amount_minor = own.amount_minor)
END
""",
)
"""The table that proves events, and what its row (``own``) says of one (``event_type``); so an
operator may republish it."""
