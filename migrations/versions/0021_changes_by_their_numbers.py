"""Indexes by which the changes of customers are numbered, and found by their numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0

# Written out, as a migration must stay what it was.
INDEXES = {
    "ix_customers_unnumbered": ("id", "change_number IS NULL OR change_of <> changed_at"),
    "ix_customers_change_number": ("change_number", "change_number IS NOT NULL"),
}


def upgrade() -> None:
    """Applies this migration."""
    is_plain = op.get_bind().dialect.name == "sqlite"
    with _while_others_write():
        for name, (column, words) in INDEXES.items():
            rows = sa.text(words)
            if is_plain:
                op.create_index(name, "customers", [column], sqlite_where=rows)
                continue
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # of a run that was interrupted
            op.create_index(name, "customers", [column], postgresql_where=rows, postgresql_concurrently=True)


def downgrade() -> None:
    """Takes it back."""
    for name in INDEXES:
        op.drop_index(name, "customers")


def _while_others_write() -> AbstractContextManager[None]:
    """On PostgreSQL, an index is made without a lock that stops the portal."""
    return nullcontext() if op.get_bind().dialect.name == "sqlite" else op.get_context().autocommit_block()
