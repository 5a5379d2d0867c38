"""An index by which the newest answers of a journey are found. The ids of anonymous ones are in no order."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0, which has no answers


def upgrade() -> None:
    """Applies this migration."""
    op.create_index("ix_answers_answered_at", "answers", ["slug", "answered_at", "id"])


def downgrade() -> None:
    """Takes it back."""
    op.drop_index("ix_answers_answered_at", "answers")
