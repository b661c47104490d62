"""What the notification service may do in its database, beside what every service may."""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON notifications TO notification;
"""
