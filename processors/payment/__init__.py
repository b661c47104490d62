"""The payment service: pays out through a provider, once per payment ID."""
