"""Is the money all there? Proof from the databases of all services, read one by one and never joined."""
