"""The versions of the fraud service's schema."""
