"""Journeys can be deleted while verifications are under way; versions know whose they are; logos."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies this migration."""
    op.create_table(
        "logos",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("media_type", sa.String(length=16), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_logos")),
    )
    with op.batch_alter_table("journeys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.drop_constraint(op.f("uq_journeys_slug"), type_="unique")
        batch_op.create_index(
            "uq_journeys_live",
            ["slug"],
            unique=True,
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        )

    with op.batch_alter_table("journey_versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("made_by", sa.String(length=32), nullable=True))
        batch_op.add_column(sa.Column("note", sa.String(length=200), server_default="", nullable=False))


def downgrade() -> None:
    """Takes it back. A journey that was deleted comes back switched off, under a name that nobody uses."""
    op.execute("UPDATE journeys SET slug = 'deleted-' || id, is_active = false WHERE deleted_at IS NOT NULL")
    with op.batch_alter_table("journey_versions", schema=None) as batch_op:
        batch_op.drop_column("note")
        batch_op.drop_column("made_by")

    with op.batch_alter_table("journeys", schema=None) as batch_op:
        batch_op.drop_index("uq_journeys_live")
        batch_op.create_unique_constraint(op.f("uq_journeys_slug"), ["slug"])
        batch_op.drop_column("deleted_at")

    op.drop_table("logos")
