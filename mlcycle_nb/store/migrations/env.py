"""Alembic's entry: the connection is handed over by `mlcycle_nb.store.database`, never read from a file."""

from alembic import context

from mlcycle_nb.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
