"""The notification service: tells the customer how the withdrawal went."""
