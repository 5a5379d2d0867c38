"""Customer imports."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies this migration."""
    op.create_table(
        "imports",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("file_name", sa.String(length=120), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("is_attended", sa.Boolean(), nullable=False),
        sa.Column("is_partial", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("is_telling", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("columns", sa.JSON(), nullable=False),
        sa.Column("region", sa.String(length=2), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("fault_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("is_cut", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("reason", sa.String(length=200), server_default="", nullable=False),
        sa.Column("admin_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rows", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("done", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("total", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("place", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease", sa.String(length=32), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("switched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
    )
    op.create_table(
        "import_faults",
        sa.Column("import_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("column", sa.String(length=40), nullable=False),
        sa.Column("reason", sa.String(length=250), nullable=False),
        sa.ForeignKeyConstraint(["import_id"], ["imports.id"], name=op.f("fk_import_faults_import_id")),
        sa.PrimaryKeyConstraint("import_id", "number", name=op.f("pk_import_faults")),
    )
    op.create_table(
        "import_parts",
        sa.Column("import_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text_sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["import_id"], ["imports.id"], name=op.f("fk_import_parts_import_id")),
        sa.PrimaryKeyConstraint("import_id", "number", name=op.f("pk_import_parts")),
    )
    op.create_table(
        "import_rows",
        sa.Column("import_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("customer_row", sa.String(length=32), nullable=False),
        sa.Column("customer_key", sa.String(length=160), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("is_new", sa.Boolean(), nullable=False),
        sa.Column("sets", sa.Integer(), nullable=False),
        sa.Column("plain_sealed", sa.LargeBinary(), nullable=True),
        *_values(""),
        *_values("old_"),
        sa.ForeignKeyConstraint(["import_id"], ["imports.id"], name=op.f("fk_import_rows_import_id")),
        sa.PrimaryKeyConstraint("import_id", "number", name=op.f("pk_import_rows")),
    )
    op.create_index(op.f("ix_import_rows_customer_row"), "import_rows", ["customer_row"])


def _values(prefix: str) -> list[sa.Column[object]]:
    return [
        sa.Column(f"{prefix}customer_id", sa.String(length=128), nullable=True),
        sa.Column(f"{prefix}name_sealed", sa.LargeBinary(), nullable=True),
        sa.Column(f"{prefix}name_key", sa.String(length=32), nullable=True),
        sa.Column(f"{prefix}phone_sealed", sa.LargeBinary(), nullable=True),
        sa.Column(f"{prefix}phone_key", sa.String(length=32), nullable=True),
        sa.Column(f"{prefix}email_sealed", sa.LargeBinary(), nullable=True),
        sa.Column(f"{prefix}email_key", sa.String(length=32), nullable=True),
        sa.Column(f"{prefix}locale", sa.String(length=16), nullable=False),
        sa.Column(f"{prefix}password_hash", sa.LargeBinary(), nullable=True),
        sa.Column(f"{prefix}password_is_long", sa.Boolean(), nullable=False),
        sa.Column(f"{prefix}totp_sealed", sa.LargeBinary(), nullable=True),
    ]


def downgrade() -> None:
    """Takes it back."""
    for table in ("import_rows", "import_parts", "import_faults", "imports"):
        op.drop_table(table)
