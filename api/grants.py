"""Grants of the API in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, INSERT ON withdrawals TO api;
GRANT SELECT, INSERT ON api_keys TO api;
GRANT UPDATE (revoked_at) ON api_keys TO api;
GRANT SELECT, DELETE ON sign_ins TO api;
GRANT SELECT, INSERT, DELETE ON sessions TO api;
GRANT SELECT ON outbox, outbox_dead, outbox_control TO api;
GRANT SELECT, INSERT ON operator_log TO api;
GRANT SELECT, INSERT, UPDATE ON audits TO api;
GRANT INSERT ON api_keys TO operator;
GRANT INSERT, DELETE ON sign_ins TO operator;
GRANT UPDATE (revoked_at) ON api_keys TO operator;
"""
