"""Blocks that seal the audit trail (E4). Events that exist already wait for them as new ones do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies this migration."""
    op.create_table(
        "audit_blocks",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("note", sa.String(length=200), server_default="", nullable=False),
        sa.Column("head", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_blocks")),
    )
    op.create_table(
        "audit_chain",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column("last_head", sa.String(length=64), nullable=False),
        sa.Column("cut_number", sa.Integer(), nullable=False),
        sa.Column("cut_head", sa.String(length=64), nullable=False),
        sa.Column("mac", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=32), server_default="", nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_chain")),
    )
    op.add_column("audit_events", sa.Column("block", sa.Integer(), nullable=True))
    is_unsealed = sa.text("block IS NULL")
    if op.get_bind().dialect.name == "sqlite":
        op.create_index("ix_audit_events_unsealed", "audit_events", ["id"], sqlite_where=is_unsealed)
        return
    with op.get_context().autocommit_block():  # a portal that serves goes on writing events meanwhile
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_audit_events_unsealed")  # of a run that was interrupted
        op.create_index(
            "ix_audit_events_unsealed",
            "audit_events",
            ["id"],
            postgresql_where=is_unsealed,
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    """Takes it back."""
    op.drop_index("ix_audit_events_unsealed", "audit_events")
    op.drop_column("audit_events", "block")
    op.drop_table("audit_chain")
    op.drop_table("audit_blocks")
