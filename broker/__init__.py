"""Access to Kafka for every part: clients, delivery, whole-topic reads, offsets, topics, cut-off detection."""
