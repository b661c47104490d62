"""The saga service: the append-only event store, and the state of each withdrawal."""
