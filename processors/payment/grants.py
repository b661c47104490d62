"""Grants of the payment service in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON payments TO payment;
"""
