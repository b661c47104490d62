"""What may be said on a topic: event types, topics, headers, money.

The ground floor of Settle. Every service imports it and it imports nothing of ours, so two services
that agree on this package agree on everything they exchange.
"""
