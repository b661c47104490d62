"""The notification service: notifies the customer of a withdrawal's outcome."""
