"""Since when a webhook is paused, whom an undo met, and indexes of wrong tries and of ends of deliveries."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0

# Written out, as a migration must stay what it was.
COLUMNS = {"webhook_endpoints": ["warned_at", "paused_at"], "imports": ["undo_met"]}
INDEXES = {
    "ix_tries_spent": ("tries", ["person_key", "total", "day_count", "day_ends_at"], "day_count >= 5 OR total >= 20"),
    "ix_deliveries_ended": ("deliveries", ["ended_at", "id"], "ended_at IS NOT NULL"),
}
OLD_INDEX = ("ix_tries_many", "tries", ["person_key"], "day_count >= 5 OR total >= 20")


def upgrade() -> None:
    """Applies this migration."""
    for table, columns in COLUMNS.items():
        # A run that was interrupted at an index has committed the columns.
        there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
        for name in set(columns) - there:
            kind = sa.DateTime(timezone=True) if name.endswith("_at") else sa.JSON()
            op.add_column(table, sa.Column(name, kind, nullable=True))
    for name, its in INDEXES.items():
        _create(name, *its)
    with _while_others_write():
        op.drop_index(OLD_INDEX[0], OLD_INDEX[1], postgresql_concurrently=True, if_exists=True)


def downgrade() -> None:
    """Takes it back."""
    _create(*OLD_INDEX)
    for name, (table, _columns, _rows) in INDEXES.items():
        op.drop_index(name, table)
    for table, columns in COLUMNS.items():
        for name in columns:
            op.drop_column(table, name)


def _create(name: str, table: str, columns: list[str], rows: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.create_index(name, table, columns, sqlite_where=sa.text(rows))
        return
    with _while_others_write():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # of a run that was interrupted
        op.create_index(name, table, columns, postgresql_where=sa.text(rows), postgresql_concurrently=True)


def _while_others_write() -> AbstractContextManager[None]:
    """On PostgreSQL, an index is made without a lock that stops the portal."""
    return nullcontext() if op.get_bind().dialect.name == "sqlite" else op.get_context().autocommit_block()
