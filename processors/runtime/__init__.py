"""What every processor shares: batches from Kafka, one transaction a batch, outbox, dead letters, retries."""
