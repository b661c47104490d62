"""Grants of the saga service in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON withdrawals TO saga;
GRANT SELECT, INSERT ON event_store TO saga;
"""

PROOF = """
EXISTS (
    SELECT FROM public.withdrawals AS w
    WHERE w.payment_id = about.payment_id AND w.account_id = about.account_id
        AND w.amount_minor = about.amount_minor AND w.currency = about.currency AND w.finished_by = event_type
)
"""
"""Whether the tables prove an event (``event_type``, ``about``), so that an operator may republish it."""

KEY = "about.payment_id::text"
"""What its events are keyed by; those of other services by the account."""
