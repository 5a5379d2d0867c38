"""When the phone number and the email address of a customer were last changed (R45).

Empty for what has been on file since the customer was created, and for every change before this version.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COLUMNS = ("phone_changed_at", "email_changed_at")


def upgrade() -> None:
    """Applies this migration."""
    for column in COLUMNS:
        op.add_column("customers", sa.Column(column, sa.DateTime(timezone=True), nullable=True))
        is_there = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"ix_customers_{column}", "customers", [column], sqlite_where=is_there, postgresql_where=is_there
        )


def downgrade() -> None:
    """Takes it back."""
    for column in COLUMNS:
        op.drop_index(f"ix_customers_{column}", "customers")
        op.drop_column("customers", column)
