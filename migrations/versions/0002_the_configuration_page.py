"""What the configuration page needs: admins, tickets, imports, credentials, the API, alerts, versions, lists, drives."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
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
        "kind NOT IN ('verification_began', 'verification_ended', 'proof_failed', 'step_passed', 'verification_joined', "
        "'method_chosen', 'code_resent', 'name_taken_back', 'named_again')",
    ),
    ("tries", "ix_tries_many", ["person_key"], "day_count >= 5 OR total >= 20"),
)
TRAITS = (  # as the rows above
    "CASE WHEN is_active THEN 1 ELSE 0 END"
    " + CASE WHEN phone_key IS NULL THEN 0 ELSE 2 END"
    " + CASE WHEN email_key IS NULL THEN 0 ELSE 4 END"
    " + CASE WHEN password_hash IS NULL THEN 0 ELSE 8 END"
    " + CASE WHEN password_hash IS NOT NULL AND password_is_long THEN 16 ELSE 0 END"
    " + CASE WHEN totp_sealed IS NULL THEN 0 ELSE 32 END"
)
NEW_TABLES = (
    "drives", "logos", "webhook_secrets", "alerts", "api_answers", "api_keys", "credential_links", "import_rows",
    "import_parts", "import_faults", "imports", "tickets", "recovery_codes", "admin_sessions", "admin_links", "admins",
)  # fmt: skip
NEW_COLUMNS = {
    "audit_events": ["admin_id"],
    "verifications": ["ticket_id"],
    "customers": [
        "traits",
        "phone_country",
        "name_key",
        "support_code_id",
        "support_code_key_id",
        "support_code_expires_at",
    ],
    "channel_states": ["failing_since", "needs_admin"],
    "journey_versions": ["made_by", "note"],
}


def upgrade() -> None:
    """Applies this migration."""
    for part in (_admins, _notices, _tickets, _imports, _credentials, _api, _alerts, _journeys, _drives, _lists):
        part()


def _admins() -> None:
    """Admins, their sessions, links and recovery codes; audit events know whose act they were."""
    op.create_table(
        "admins",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("email_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("email_key", sa.String(length=32), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("password_hash", sa.LargeBinary(), nullable=True),
        sa.Column("totp_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("totp_last_step", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("recovery_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admins")),
        sa.UniqueConstraint("email_key", name=op.f("uq_admins_email_key")),
    )
    op.create_table(
        "admin_links",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("admin_id", sa.String(length=32), nullable=True),
        sa.Column("email_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("made_by", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["admin_id"], ["admins.id"], name=op.f("fk_admin_links_admin_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admin_links")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_admin_links_token_hash")),
    )
    op.create_index(op.f("ix_admin_links_admin_id"), "admin_links", ["admin_id"])

    op.create_table(
        "admin_sessions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("admin_id", sa.String(length=32), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.Column("browser", sa.String(length=160), nullable=False),
        sa.ForeignKeyConstraint(["admin_id"], ["admins.id"], name=op.f("fk_admin_sessions_admin_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admin_sessions")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_admin_sessions_token_hash")),
    )
    op.create_index(op.f("ix_admin_sessions_admin_id"), "admin_sessions", ["admin_id"])

    op.create_table(
        "recovery_codes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("admin_id", sa.String(length=32), nullable=False),
        sa.Column("code_key", sa.String(length=32), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["admin_id"], ["admins.id"], name=op.f("fk_recovery_codes_admin_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recovery_codes")),
    )
    op.create_index(op.f("ix_recovery_codes_admin_id"), "recovery_codes", ["admin_id"])

    op.add_column("audit_events", sa.Column("admin_id", sa.String(length=32), nullable=True))


def _notices() -> None:
    """Messages that belong to no verification."""
    with op.batch_alter_table("deliveries") as batch_op:
        batch_op.alter_column("verification_id", existing_type=sa.VARCHAR(length=32), nullable=True)


def _tickets() -> None:
    """Tickets, and which of them a verification began with."""
    op.create_table(
        "tickets",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=True),
        sa.Column("slug", sa.String(length=64), nullable=False),
        sa.Column("reference_hash", sa.LargeBinary(), nullable=True),
        sa.Column("customer_row", sa.String(length=32), nullable=True),
        sa.Column("phone_key", sa.String(length=32), nullable=True),
        sa.Column("phone_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("purpose_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("locale", sa.String(length=16), server_default="", nullable=False),
        sa.Column("api_key_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("proofs_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("bound_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tickets")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_tickets_token_hash")),
    )
    op.create_index("ix_tickets_reference", "tickets", ["reference_hash", "slug", "id"])

    op.add_column("verifications", sa.Column("ticket_id", sa.String(length=32), nullable=True))


def _imports() -> None:
    """Imports of customers, and what they stage."""
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
        sa.Column("told_to", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease", sa.String(length=32), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("switched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("undone_by", sa.String(length=32), nullable=True),
        sa.Column("undo_fault", sa.String(length=16), server_default="", nullable=False),
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
        sa.Column(f"{prefix}phone_country", sa.String(length=3), nullable=True),
        sa.Column(f"{prefix}email_sealed", sa.LargeBinary(), nullable=True),
        sa.Column(f"{prefix}email_key", sa.String(length=32), nullable=True),
        sa.Column(f"{prefix}locale", sa.String(length=16), nullable=False),
        sa.Column(f"{prefix}password_hash", sa.LargeBinary(), nullable=True),
        sa.Column(f"{prefix}password_is_long", sa.Boolean(), nullable=False),
        sa.Column(f"{prefix}totp_sealed", sa.LargeBinary(), nullable=True),
    ]


def _credentials() -> None:
    """Customers by name, codes read out by support, one-time links."""
    for column in (
        sa.Column("name_key", sa.String(length=32), nullable=True),
        sa.Column("support_code_id", sa.String(length=32), nullable=True),
        sa.Column("support_code_key_id", sa.Integer(), nullable=True),
        sa.Column("support_code_expires_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("customers", column)
    op.create_index("ix_customers_name_key", "customers", ["name_key", "customer_key"])
    op.add_column("customers", sa.Column("phone_country", sa.String(length=3), nullable=True))
    # SQLite adds only what it computes anew each time, PostgreSQL indexes only what it keeps.
    is_kept = op.get_bind().dialect.name != "sqlite"
    op.add_column(
        "customers", sa.Column("traits", sa.Integer(), sa.Computed(TRAITS, persisted=is_kept), nullable=False)
    )
    op.create_index("ix_customers_traits", "customers", ["traits", "phone_country", "id"])
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


def _api() -> None:
    """Keys of the API, and the answers kept for repeated writes."""
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("ending", sa.String(length=4), nullable=False),
        sa.Column("scopes", sa.String(length=200), nullable=False),
        sa.Column("made_by", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_keys_token_hash")),
    )
    op.create_table(
        "api_answers",
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("request", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=32), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("answer_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("customer_row", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_api_answers")),
    )
    op.create_index(op.f("ix_api_answers_expires_at"), "api_answers", ["expires_at"])
    op.create_index(op.f("ix_api_answers_customer_row"), "api_answers", ["customer_row"])


def _alerts() -> None:
    """Alerts, the secret of their webhook, and since when a channel has been failing."""
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
    with op.batch_alter_table("channel_states") as batch_op:
        batch_op.add_column(sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("needs_admin", sa.Boolean(), server_default=sa.text("false"), nullable=False))


def _journeys() -> None:
    """Journeys can be deleted while verifications are under way; versions know whose they are; logos."""
    op.create_table(
        "logos",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("media_type", sa.String(length=16), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_logos")),
    )
    with op.batch_alter_table("journeys") as batch_op:
        batch_op.add_column(sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.drop_constraint(op.f("uq_journeys_slug"), type_="unique")
        batch_op.create_index(
            "uq_journeys_live",
            ["slug"],
            unique=True,
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        )

    with op.batch_alter_table("journey_versions") as batch_op:
        batch_op.add_column(sa.Column("made_by", sa.String(length=32), nullable=True))
        batch_op.add_column(sa.Column("note", sa.String(length=200), server_default="", nullable=False))


def _drives() -> None:
    """Test drives."""
    op.create_table(
        "drives",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("admin_id", sa.String(length=32), nullable=False),
        sa.Column("slug", sa.String(length=64), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.String(length=8), nullable=False),
        sa.Column("state_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["admin_id"], ["admins.id"], name=op.f("fk_drives_admin_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drives")),
    )
    op.create_index(op.f("ix_drives_admin_id"), "drives", ["admin_id"])
    op.create_index(op.f("ix_drives_ends_at"), "drives", ["ends_at"])


def _lists() -> None:
    """Indexes for the lists of verifications, deliveries and audit events."""
    for table, name, columns, rows in INDEXES:
        where = None if rows is None else sa.text(rows)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Takes it back.

    A journey that was deleted comes back switched off, under a name that nobody uses; messages that belong to no
    verification go, because the older version cannot hold them. So does whose act an admin's event was, and with it
    what its HMAC was made of: ``flask audit verify`` names these events from then on.
    """
    for table, name, _columns, _rows in reversed(INDEXES):
        op.drop_index(name, table)
    op.drop_index("ix_verifications_customer_row", "verifications")
    op.drop_index("ix_customers_traits", "customers")
    op.drop_index("ix_customers_name_key", "customers")
    op.execute("DELETE FROM attempts WHERE delivery_id IN (SELECT id FROM deliveries WHERE verification_id IS NULL)")
    op.execute("DELETE FROM deliveries WHERE verification_id IS NULL")
    with op.batch_alter_table("deliveries") as batch_op:
        batch_op.alter_column("verification_id", existing_type=sa.VARCHAR(length=32), nullable=False)
    op.execute("UPDATE journeys SET slug = 'deleted-' || id, is_active = false WHERE deleted_at IS NOT NULL")
    with op.batch_alter_table("journeys") as batch_op:
        batch_op.drop_index("uq_journeys_live")
        batch_op.create_unique_constraint(op.f("uq_journeys_slug"), ["slug"])
        batch_op.drop_column("deleted_at")
    for table, columns in NEW_COLUMNS.items():
        with op.batch_alter_table(table) as batch_op:
            for column in columns:
                batch_op.drop_column(column)
    for table in NEW_TABLES:
        op.drop_table(table)
