"""Where a withdrawal enters: a client that waits until Kafka has it, and a load generator."""
