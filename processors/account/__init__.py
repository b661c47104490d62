"""The account service: checks balances, deducts, refunds."""
