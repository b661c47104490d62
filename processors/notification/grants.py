"""Grants of the notification service in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON notifications TO notification;
"""
