"""What the account service may do in its database, beside what every service may."""

GRANTS = """
GRANT SELECT, UPDATE ON accounts TO account;
GRANT SELECT, INSERT, UPDATE ON saga_log TO account;
GRANT SELECT, INSERT ON ledger TO account;
GRANT SELECT, INSERT, UPDATE, DELETE ON refunds_due TO account;
"""
