"""Whether the browser of a visit runs script, so that its last page need not reload itself. Empty for older ones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0, which leaves the column empty


def upgrade() -> None:
    """Applies this migration."""
    op.add_column("visits", sa.Column("has_script", sa.Boolean(), nullable=True))


def downgrade() -> None:
    """Takes it back."""
    op.drop_column("visits", "has_script")
