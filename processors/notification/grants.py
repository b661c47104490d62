"""Grants of the notification service in its database, in addition to those of every service."""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON notifications TO notification;
"""

PROOF = """
EXISTS (
    SELECT FROM public.notifications AS n
    WHERE n.payment_id = about.payment_id AND n.account_id = about.account_id
        AND n.amount_minor = about.amount_minor AND n.currency = about.currency
        AND n.template = event ->> 'template'
        AND CASE event_type
            WHEN 'NotificationSent' THEN n.status = 'sent'
            WHEN 'NotificationFailed' THEN n.status = 'failed'
        END
)
"""
"""Whether the tables prove an event (``event_type``, ``about``), so that an operator may republish it."""
