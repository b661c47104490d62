"""What the saga service may do in its database, beside what every service may."""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON withdrawals TO saga;
GRANT SELECT, INSERT ON event_store TO saga;
"""
