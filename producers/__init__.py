"""Producers of withdrawal requests: a client that waits for Kafka's acknowledgement, and a load generator."""
