"""What Debezium's outbox event router and Kafka Connect's converters make of a row, for those who come from there.

Of an outbox that is configured otherwise nothing in here runs.
"""
