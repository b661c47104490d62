"""The contracts between services: event types, topics, headers, money, and the registry of services.

The ground floor of Settle. Every service imports it and it imports nothing of ours, so two services
that agree on this package agree on everything they exchange.
"""
