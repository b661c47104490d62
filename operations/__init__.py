"""Operations on a running system: audit, stuck, nudge, republish, dead letters, lag, migrations and grants."""
