"""Grants of the payment service in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON payments TO payment;
"""

PROOF = """
EXISTS (
    SELECT FROM public.payments AS p
    WHERE p.payment_id = about.payment_id AND p.account_id = about.account_id
        AND p.amount_minor = about.amount_minor AND p.currency = about.currency
        AND CASE event_type
            WHEN 'PaymentProcessed' THEN p.status = 'processed'
            WHEN 'PaymentFailed' THEN p.status = 'failed'
            WHEN 'CancelRefused' THEN p.status IN ('processed', 'failed')
        END
)
"""
"""Whether the tables prove an event (``event_type``, ``about``), so that an operator may republish it."""
