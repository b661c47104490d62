"""The audit: proof that the money is all there, from all services' databases, read one by one and never joined."""
