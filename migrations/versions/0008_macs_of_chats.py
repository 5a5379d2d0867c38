"""MACs of verifications, their visits and codes, of tickets, and of temporary codes from support (R54).

Rows of an older version have none: they pass until `flask macs seal` was run, which signs those of chats under way.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COLUMNS = (
    ("verifications", "mac"),
    ("verifications", "route_mac"),
    ("visits", "mac"),
    ("challenges", "mac"),
    ("tickets", "mac"),
    ("customers", "support_code_mac"),
)


def upgrade() -> None:
    """Applies this migration."""
    for table, column in COLUMNS:
        op.add_column(table, sa.Column(column, sa.String(length=32), nullable=True))


def downgrade() -> None:
    """Takes it back."""
    for table, column in reversed(COLUMNS):
        op.drop_column(table, column)
