"""What the portal counts of its own work, by the hour: it feeds the metrics, and names no one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0, which counts nothing there


def upgrade() -> None:
    """Applies this migration."""
    op.create_table(
        "hourly_counts",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("name", sa.String(48), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "name", "labels", name="pk_hourly_counts"),
    )


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("hourly_counts")
