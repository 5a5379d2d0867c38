"""The language that a visit was given by its link or its customer, and that of a message. Empty for older ones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0, which leaves the columns empty


def upgrade() -> None:
    """Applies this migration."""
    for table in ("visits", "deliveries"):
        op.add_column(table, sa.Column("locale", sa.String(16), nullable=True))


def downgrade() -> None:
    """Takes it back."""
    for table in ("visits", "deliveries"):
        op.drop_column(table, "locale")
