"""The saga service: the append-only event store, and where each withdrawal stands."""
