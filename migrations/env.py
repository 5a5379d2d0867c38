"""Alembic's entry: migrates the database it is given by `auth-portal db upgrade`."""

from __future__ import annotations

from alembic import context

from auth_portal.store.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
    compare_server_default=False,
    # A running portal waits for each lock of a migration, so PostgreSQL gets a transaction for each. SQLite has one
    # writer anyway, and takes all or nothing.
    transaction_per_migration=connection.dialect.name == "postgresql",
)
with context.begin_transaction():
    context.run_migrations()
