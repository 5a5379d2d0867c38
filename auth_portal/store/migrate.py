"""Migrations by Alembic. Imported by the command line only: the web never loads Alembic."""

from __future__ import annotations

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy.exc import DBAPIError

from auth_portal.errors import Misconfigured
from auth_portal.store.db import MIGRATIONS, Database, plain_reason
from auth_portal.store.models import Base


def upgrade(database: Database) -> None:
    """Brings the tables to what this version needs. Raises Misconfigured where the database refuses."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    try:
        with database.migrating() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        raise Misconfigured(f"The database could not be migrated: {plain_reason(error)}.") from None


def differences(database: Database) -> list[str]:
    """Where the tables differ from the models, one line each; empty when they agree."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [str(found) for found in compare_metadata(context, Base.metadata)]
