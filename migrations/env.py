"""Alembic's entry point: runs the migrations in the connection of the caller, each in a transaction of its own."""

from alembic import context

from app.db.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
