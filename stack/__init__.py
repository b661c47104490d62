"""The embedded stack: real Apache Kafka and real PostgreSQL from packages, nothing to install by hand.

``with Stack(folder) as stack:`` brings up the broker, the database, their topics and schemas, the relay and the
processors, keeps them running, and leaves no process behind.
"""
