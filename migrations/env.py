"""Alembic's entry: migrates the database it is given by `auth-portal db upgrade`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from alembic import context

from auth_portal.store.models import Base, SchemaState, table_of

NOTED_SINCE = "0010"  # the migration that makes the table for it


def note_which_versions_may_serve(*, heads: Collection[Any], **_step: object) -> None:
    """Write what the newest migration says of that, in its own transaction."""
    for head in map(str, heads):
        if head >= NOTED_SINCE:
            oldest = context.script.get_revision(head).module.OLDEST_CODE
            names = " ".join(sorted(Base.metadata.tables))
            state = {"revision": head, "oldest_code": oldest, "tables": names}
            connection.execute(table_of(SchemaState).update().values(state))


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
    compare_server_default=False,
    on_version_apply=note_which_versions_may_serve,
    # A running portal waits for each lock of a migration, so PostgreSQL gets a transaction for each. SQLite has one
    # writer anyway, and takes all or nothing.
    transaction_per_migration=connection.dialect.name == "postgresql",
)
with context.begin_transaction():
    context.run_migrations()
