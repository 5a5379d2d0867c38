"""The payment that a ticket asks its customer to approve. Empty for older ones, and where nothing is paid."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0, which leaves the column empty; a result of it says nothing of a payment


def upgrade() -> None:
    """Applies this migration."""
    op.add_column("tickets", sa.Column("payment_sealed", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Takes it back."""
    op.drop_column("tickets", "payment_sealed")
