"""Which request put a delivery into the outbox, so that the log of its attempts names it. Empty for older ones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0, which leaves the column empty


def upgrade() -> None:
    """Applies this migration."""
    op.add_column("deliveries", sa.Column("request_id", sa.String(64), nullable=True))


def downgrade() -> None:
    """Takes it back."""
    op.drop_column("deliveries", "request_id")
