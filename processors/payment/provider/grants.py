"""Grants of the simulated provider in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, INSERT ON charges TO provider;
"""
