"""The runtime shared by all processors: batches, one transaction per batch, outbox, dead letters, retries."""
