"""Grants of the saga service in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON withdrawals TO saga;
GRANT SELECT, INSERT ON event_store TO saga;
"""

PROOF = "withdrawals", "own.finished_by = event_type"
"""The table that proves events, and what its row (``own``) says of one (``event_type``); so an
operator may republish it."""

KEY = "about.payment_id::text"
"""What its events are keyed by; those of other services by the account."""
