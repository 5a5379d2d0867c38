"""Test drives."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies this migration."""
    op.create_table(
        "drives",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("admin_id", sa.String(length=32), nullable=False),
        sa.Column("slug", sa.String(length=64), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.String(length=8), nullable=False),
        sa.Column("state_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["admin_id"], ["admins.id"], name=op.f("fk_drives_admin_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drives")),
    )
    op.create_index(op.f("ix_drives_admin_id"), "drives", ["admin_id"])
    op.create_index(op.f("ix_drives_ends_at"), "drives", ["ends_at"])


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("drives")
