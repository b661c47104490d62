"""Grants of the payment service in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON payments TO payment;
"""

PROOF = (
    "payments",
    """
CASE event_type
    WHEN 'PaymentProcessed' THEN own.status = 'processed'
    WHEN 'PaymentFailed' THEN own.status = 'failed'
    WHEN 'CancelRefused' THEN own.status IN ('processed', 'failed')
END
""",
)
"""The table that proves events, and what its row (``own``) says of one (``event_type``); so an
operator may republish it."""
