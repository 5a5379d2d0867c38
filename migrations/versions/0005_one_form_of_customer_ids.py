"""Which customer IDs were brought to their one form, and which of them several customers share in other spellings.

Customers of an older version have no ``shared_key`` until ``flask db upgrade`` or a dispatcher has looked at them. A
portal that has customers but no default country has read their phone numbers as numbers of South Africa, which was the
default: that becomes its setting.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Written out, as a migration must stay what it was.
RARE = "shared_key IS NULL OR shared_key <> ''"
OLD_REGION = "ZA"


def upgrade() -> None:
    """Add the columns, and the default country that was used until now."""
    op.add_column("customers", sa.Column("shared_key", sa.String(length=160), nullable=True))
    op.add_column("import_rows", sa.Column("shared_key", sa.String(length=160), nullable=True))
    columns = ["shared_key", "id"]
    if op.get_bind().dialect.name == "sqlite":
        op.create_index("ix_customers_shared_key", "customers", columns, sqlite_where=sa.text(RARE))
    else:
        with op.get_context().autocommit_block():  # a portal that serves goes on writing customers meanwhile
            op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_customers_shared_key")  # of a run that was interrupted
            rare = {"postgresql_where": sa.text(RARE), "postgresql_concurrently": True}
            op.create_index("ix_customers_shared_key", "customers", columns, **rare)
    connection = op.get_bind()
    portal = sa.table("portal", sa.column("id", sa.Integer), sa.column("settings", sa.JSON))
    customers = sa.table("customers", sa.column("id", sa.String))
    row = connection.execute(sa.select(portal.c.id, portal.c.settings)).first()
    if row is None or connection.execute(sa.select(customers.c.id).limit(1)).first() is None:
        return
    settings = json.loads(row.settings) if isinstance(row.settings, str) else dict(row.settings or {})
    if "default_region" not in settings:
        values = {"settings": {**settings, "default_region": OLD_REGION}}
        connection.execute(portal.update().where(portal.c.id == row.id).values(values))


def downgrade() -> None:
    """Take it back. The default country stays."""
    op.drop_index("ix_customers_shared_key", "customers")
    for table in ("customers", "import_rows"):
        op.drop_column(table, "shared_key")
