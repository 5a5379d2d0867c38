"""MACs of the rows that say who a customer or admin is, and of what opens the door in their name (R54).

Rows of an older version have none: they pass until `flask macs seal` was run. A portal that has such rows is marked in
the same transaction, so that an upgrade that is interrupted here locks no one out.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COLUMNS = (
    ("portal", "macs"),
    ("customers", "identity_mac"),
    ("customers", "active_mac"),
    ("import_rows", "identity_mac"),
    ("import_rows", "active_mac"),
    ("import_rows", "old_identity_mac"),
    ("admins", "mac"),
    ("journeys", "mac"),
    ("journey_versions", "mac"),
    ("channels", "mac"),
    ("admin_sessions", "mac"),
    ("passkeys", "mac"),
    ("admin_links", "mac"),
    ("api_keys", "mac"),
    ("credential_links", "mac"),
)


def upgrade() -> None:
    """Applies this migration."""
    for table, column in COLUMNS:
        op.add_column(table, sa.Column(column, sa.String(length=32), nullable=True))
    op.execute("UPDATE portal SET macs = 'old' WHERE EXISTS (SELECT 1 FROM keys)")  # crypto.OLD_MACS


def downgrade() -> None:
    """Takes it back."""
    for table, column in reversed(COLUMNS):
        op.drop_column(table, column)
