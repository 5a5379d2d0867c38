"""What a notice was about, and its recipient masked: what lists show once its text is gone. Empty for older ones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0, which leaves the column empty


def upgrade() -> None:
    """Applies this migration."""
    op.add_column("deliveries", sa.Column("about_sealed", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Takes it back."""
    op.drop_column("deliveries", "about_sealed")
