"""Kafka as every part uses it: topics read as a whole, offsets, deliveries, clients that lost their cluster."""
