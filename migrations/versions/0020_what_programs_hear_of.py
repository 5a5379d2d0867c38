"""Webhooks of programs, and numbers for the changes of customers, so that a program can ask what changed since."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0, which numbers nothing: its changes are found by their time


def upgrade() -> None:
    """Applies this migration."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("url_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("old_secret_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("old_secret_until", time, nullable=True),
        sa.Column("events", sa.String(200), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("gone_at", time, nullable=True),
        sa.Column("failing_since", time, nullable=True),
        sa.Column("fault", sa.String(200), nullable=False),
        sa.Column("made_by", sa.String(32), nullable=True),
        sa.Column("created_at", time, nullable=False),
        sa.Column("changed_at", time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoints"),
    )
    op.create_table(
        "change_feed",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        sa.Column("cut_number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_change_feed"),
    )
    op.create_table(
        "customer_removals",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("removed_at", time, nullable=False),
        sa.Column("change_number", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_customer_removals"),
    )
    for column in ("removed_at", "change_number"):
        op.create_index(f"ix_customer_removals_{column}", "customer_removals", [column])
    op.add_column("customers", sa.Column("change_number", sa.BigInteger(), nullable=True))
    op.add_column("customers", sa.Column("change_of", time, nullable=True))


def downgrade() -> None:
    """Takes it back."""
    for column in ("change_of", "change_number"):
        op.drop_column("customers", column)
    for table in ("customer_removals", "change_feed", "webhook_endpoints"):
        op.drop_table(table)
