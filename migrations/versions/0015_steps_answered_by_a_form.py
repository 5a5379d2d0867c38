"""Terms, questions and hand-over: what a visit gave so far, what was accepted, and the answers that are stored.

``journey_versions.whole`` holds a journey with such steps: earlier versions read the document next to it, which says
that the journey is closed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0, which shows such a journey as closed


def upgrade() -> None:
    """Applies this migration."""
    op.add_column("journey_versions", sa.Column("whole", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("visits", sa.Column("given_sealed", sa.LargeBinary(), nullable=True))
    op.create_table(
        "acceptances",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("verification_id", sa.String(32), nullable=False),
        sa.Column("customer_row", sa.String(32), nullable=True),
        sa.Column("slug", sa.String(64), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("language", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("boxes", sa.String(400), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("mac", sa.String(32), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_acceptances"),
    )
    is_theirs = sa.text("customer_row IS NOT NULL")
    op.create_index("ix_acceptances_slug", "acceptances", ["slug", "id"])
    op.create_index("ix_acceptances_verification_id", "acceptances", ["verification_id"])
    op.create_index(
        "ix_acceptances_customer_row",
        "acceptances",
        ["customer_row", "slug", "version"],
        sqlite_where=is_theirs,
        postgresql_where=is_theirs,
    )
    op.create_table(
        "answers",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("slug", sa.String(64), nullable=False),
        sa.Column("verification_id", sa.String(32), nullable=True),
        sa.Column("customer_row", sa.String(32), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answers_sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_answers"),
    )
    op.create_index("ix_answers_slug", "answers", ["slug", "id"])
    for column in ("verification_id", "customer_row", "expires_at"):
        op.create_index(f"ix_answers_{column}", "answers", [column])


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("answers")
    op.drop_table("acceptances")
    op.drop_column("visits", "given_sealed")
    op.drop_column("journey_versions", "whole")
