"""Which versions may serve these tables, so that a rollback needs no backup.

``oldest_code`` is the oldest version, by the last migration that it ships, whose code goes on working on the tables.
From here on each migration says that as its ``OLDEST_CODE``; ``env.py`` writes it with the revision and the names of all
tables: the backup of an older version must not leave out those that it does not know.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

OLDEST_CODE = "0002"  # release 0.1.0: every migration since has only added


def upgrade() -> None:
    """Applies this migration."""
    table = op.create_table(
        "schema_state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.String(8), nullable=False),
        sa.Column("oldest_code", sa.String(8), nullable=False),
        sa.Column("tables", sa.Text, nullable=False),
    )
    op.bulk_insert(table, [{"id": 1, "revision": revision, "oldest_code": OLDEST_CODE, "tables": ""}])


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("schema_state")
