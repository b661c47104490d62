"""Grants of the saga service in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON withdrawals TO saga;
GRANT SELECT, INSERT ON event_store TO saga;
"""
