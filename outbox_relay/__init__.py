"""The outbox relay, from outbox tables to Kafka: read, publish, confirm.

The database's write-ahead log is read by logical decoding, every outbox row becomes one Kafka record, and
the replication slot's position moves only once Kafka has acknowledged everything before it. Imports of ours:
``broker``, ``contracts`` and ``tracing`` only.
"""
