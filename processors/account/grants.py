"""Grants of the account service in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, UPDATE ON accounts TO account;
GRANT SELECT, INSERT, UPDATE ON saga_log TO account;
GRANT SELECT, INSERT ON ledger TO account;
GRANT SELECT, INSERT, UPDATE, DELETE ON refunds_due TO account;
"""

PROOF = """
EXISTS (
    SELECT FROM public.saga_log AS s
    WHERE s.payment_id = about.payment_id AND s.account_id = about.account_id
        AND s.amount_minor = about.amount_minor AND s.currency = about.currency
        AND CASE event_type
            WHEN 'BalanceChecked' THEN true
            WHEN 'WithdrawalRejected' THEN s.status = 'rejected'
            WHEN 'MoneyDeducted' THEN EXISTS (
                SELECT FROM public.ledger AS l
                WHERE l.payment_id = s.payment_id AND l.kind = 'deduction' AND l.amount_minor = -s.amount_minor)
            WHEN 'MoneyRefunded' THEN EXISTS (
                SELECT FROM public.ledger AS l
                WHERE l.payment_id = s.payment_id AND l.kind = 'refund' AND l.amount_minor = s.amount_minor)
        END
)
"""
"""Whether the tables prove an event (``event_type``, ``about``), so that an operator may republish it."""
