"""Grants of the notification service in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON notifications TO notification;
"""

PROOF = (
    "notifications",
    """
own.template = event ->> 'template' AND CASE event_type
    WHEN 'NotificationSent' THEN own.status = 'sent'
    WHEN 'NotificationFailed' THEN own.status = 'failed'
END
""",
)
"""The table that proves events, and what its row (``own``) says of one (``event_type``, ``event``); so an
operator may republish it."""
