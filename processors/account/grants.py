"""Grants of the account service in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, UPDATE ON accounts TO account;
GRANT SELECT, INSERT, UPDATE ON saga_log TO account;
GRANT SELECT, INSERT ON ledger TO account;
GRANT SELECT, INSERT, UPDATE, DELETE ON refunds_due TO account;
"""
