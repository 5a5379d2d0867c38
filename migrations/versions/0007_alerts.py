"""Alerts, the secret of their webhook, and since when a channel has been failing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies this migration."""
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
    )
    is_open = sa.text("ended_at IS NULL")
    op.create_index(
        "uq_alerts_open", "alerts", ["kind", "subject"], unique=True, sqlite_where=is_open, postgresql_where=is_open
    )
    op.create_table(
        "webhook_secrets",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_secrets")),
    )
    with op.batch_alter_table("channel_states", schema=None) as batch_op:
        batch_op.add_column(sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("needs_admin", sa.Boolean(), server_default=sa.text("false"), nullable=False))


def downgrade() -> None:
    """Takes it back."""
    with op.batch_alter_table("channel_states", schema=None) as batch_op:
        batch_op.drop_column("needs_admin")
        batch_op.drop_column("failing_since")
    op.drop_table("webhook_secrets")
    op.drop_index("uq_alerts_open", table_name="alerts")
    op.drop_table("alerts")
