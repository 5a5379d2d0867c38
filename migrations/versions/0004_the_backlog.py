"""Indexes that stay quick while very many deliveries wait for one server (D5)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IS_PENDING, IS_LEASED = sa.text("state = 'pending'"), sa.text("leased_until IS NOT NULL")


def upgrade() -> None:
    """Look through what is pending by target, and for busy lanes only among what is on its way."""
    _index_pending("kind", "target", "priority", "next_at")
    with _while_others_write():
        op.create_index("ix_deliveries_leased", "deliveries", ["lane"], **_only(IS_LEASED))


def downgrade() -> None:
    """Take it back."""
    with _while_others_write():
        op.drop_index("ix_deliveries_leased", "deliveries", **_CONCURRENTLY)
    _index_pending("kind", "priority", "next_at")


def _index_pending(*columns: str) -> None:
    """Replace the index of what is pending; the old one stays until the new one is there."""
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("ix_deliveries_pending", "deliveries")
        op.create_index("ix_deliveries_pending", "deliveries", list(columns), sqlite_where=IS_PENDING)
        return
    with _while_others_write():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_deliveries_pending_new")  # of a run that was interrupted
        op.create_index("ix_deliveries_pending_new", "deliveries", list(columns), **_only(IS_PENDING))
        op.drop_index("ix_deliveries_pending", "deliveries", if_exists=True, **_CONCURRENTLY)
    op.execute("ALTER INDEX ix_deliveries_pending_new RENAME TO ix_deliveries_pending")


_CONCURRENTLY = {"postgresql_concurrently": True}


def _only(rows: sa.TextClause) -> dict[str, object]:
    return {"sqlite_where": rows, "postgresql_where": rows, **_CONCURRENTLY}


def _while_others_write() -> AbstractContextManager[None]:
    """On PostgreSQL, an index is made or dropped without a lock that stops the portal."""
    return nullcontext() if op.get_bind().dialect.name == "sqlite" else op.get_context().autocommit_block()
