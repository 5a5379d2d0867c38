"""What another system has received of the audit trail. One row, written while a receiver is set."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0, which sends nothing


def upgrade() -> None:
    """Applies this migration."""
    op.create_table(
        "audit_stream",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("target", sa.String(300), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("tried_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("fault", sa.String(300), nullable=False),
        sa.Column("holder", sa.String(32), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit_stream"),
    )


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("audit_stream")
