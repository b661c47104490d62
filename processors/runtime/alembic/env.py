"""Alembic's entry point, the same for every service: run the versions on the connection it is handed."""

from alembic import context

# A version that waits for a lock must not hold those of the versions before it.
context.configure(
    connection=context.config.attributes["connection"], transactional_ddl=True, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
