"""Customer credentials."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies this migration."""
    for column in (
        sa.Column("name_key", sa.String(length=32), nullable=True),
        sa.Column("support_code_id", sa.String(length=32), nullable=True),
        sa.Column("support_code_key_id", sa.Integer(), nullable=True),
        sa.Column("support_code_expires_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("customers", column)
    op.create_index("ix_customers_name_key", "customers", ["name_key", "customer_key"])
    known = sa.text("customer_row IS NOT NULL")
    op.create_index(
        "ix_verifications_customer_row",
        "verifications",
        ["customer_row", "ended_at"],
        sqlite_where=known,
        postgresql_where=known,
    )
    op.create_table(
        "credential_links",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("customer_row", sa.String(length=32), nullable=False),
        sa.Column("made_by", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["customer_row"], ["customers.id"], name=op.f("fk_credential_links_customer_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credential_links")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_credential_links_token_hash")),
    )
    op.create_index(op.f("ix_credential_links_customer_row"), "credential_links", ["customer_row"])


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("credential_links")
    op.drop_index("ix_verifications_customer_row", "verifications")
    op.drop_index("ix_customers_name_key", "customers")
    with op.batch_alter_table("customers") as customers:
        for name in ("support_code_expires_at", "support_code_key_id", "support_code_id", "name_key"):
            customers.drop_column(name)
