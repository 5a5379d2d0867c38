"""Indexes for the lists of verifications, deliveries and audit events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Written out, as a migration must stay what it was: table, name, columns, and which rows are in it.
INDEXES = (
    ("verifications", "ix_verifications_slug", ["slug", "id"], None),
    ("verifications", "ix_verifications_outcome", ["outcome", "id"], "outcome <> 'verified'"),
    ("visits", "ix_visits_customer_row", ["customer_row", "verification_id"], "customer_row IS NOT NULL"),
    ("visits", "ix_visits_identifier_key", ["identifier_key", "verification_id"], "identifier_key IS NOT NULL"),
    ("deliveries", "ix_deliveries_state", ["kind", "state", "id"], "state NOT IN ('pending', 'accepted')"),
    ("audit_events", "ix_audit_events_admin", ["admin_id", "id"], "admin_id IS NOT NULL"),
    (
        "audit_events",
        "ix_audit_events_kind",
        ["kind", "id"],
        "kind NOT IN ('verification_began', 'verification_ended', 'proof_failed', 'step_passed')",
    ),
    ("tries", "ix_tries_many", ["person_key"], "day_count >= 5 OR total >= 20"),
)


def upgrade() -> None:
    """Applies this migration."""
    op.drop_index("ix_audit_events_admin_id", "audit_events")
    for table, name, columns, rows in INDEXES:
        where = None if rows is None else sa.text(rows)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Takes it back."""
    for table, name, _columns, _rows in reversed(INDEXES):
        op.drop_index(name, table)
    op.create_index("ix_audit_events_admin_id", "audit_events", ["admin_id"])
