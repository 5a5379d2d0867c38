"""Setting a portal up: the instance folder, the keys and the tables.

Loaded by the commands that need it only, because it loads Alembic. Nothing here overwrites a key: whoever loses one
loses everything that was sealed with it.
"""

from __future__ import annotations

import os
import secrets
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url, select

from auth_portal.clock import Clock
from auth_portal.crypto import KEY_BYTES, MasterKeys
from auth_portal.errors import Misconfigured
from auth_portal.services.directory import name_index
from auth_portal.services.operations.keys import furnish, load_keyring
from auth_portal.services.operations.opening import plain_faults
from auth_portal.settings import KEYS_FILE, Settings
from auth_portal.store import migrate
from auth_portal.store.db import Database, schema_fault
from auth_portal.store.models import DataKeyRow


def initialise(settings: Settings, clock: Clock) -> list[str]:
    """Makes whatever of a portal is not there yet, and tells what it made, one line each.

    The instance folder (0700), the key file (0600), the tables, the data keys and the portal's row. Safe to run
    again, and by several machines at once. Raises Misconfigured in one line.
    """
    with plain_faults():
        lines = _make_folder(settings.instance)
        _make_sqlite_file(settings.database)
        with closing(Database(settings.database)) as database:
            migrate.upgrade(database)
            lines += _make_master_key(settings, has_data_keys=_has_data_keys(database))
            master = MasterKeys(settings.master_keys())
            lines += ["The database is ready."] if furnish(database, master, clock()) else []
            keyring = load_keyring(database, master)
            name_index.fill(database, lambda: keyring)
    return lines


def upgrade(settings: Settings) -> None:
    """Brings the tables to what this version needs. Raises Misconfigured in one line."""
    with plain_faults(), closing(Database(settings.database)) as database:
        migrate.upgrade(database)
        name_index.fill(database, lambda: load_keyring(database, MasterKeys(settings.master_keys())))


def schema_faults(settings: Settings) -> list[str]:
    """Where the database is not what this version needs, one line each. Raises Misconfigured where it is away."""
    with plain_faults():
        if fault := schema_fault(settings.database):
            return [fault]
        with closing(Database(settings.database)) as database:
            return [f"The tables differ from the code: {found}." for found in migrate.differences(database)]


def _make_folder(folder: Path) -> list[str]:
    if folder.is_dir():
        return []
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return [f"The folder {folder} was made."]


def _make_sqlite_file(url: str) -> None:
    """So that the database is its owner's alone; SQLite gives its other files the same mode."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and parsed.database != ":memory:":
        Path(parsed.database).touch(mode=0o600)


def _make_master_key(settings: Settings, *, has_data_keys: bool) -> list[str]:
    path = settings.instance / KEYS_FILE
    if settings.secret_keys or path.exists():
        return []
    if has_data_keys:
        raise Misconfigured(
            f"The database has data keys, but {path} is missing and PORTAL_SECRET_KEYS is not set. Put back the keys "
            "that belong to this database; a new one could read nothing in it."
        )
    return [f"A key was written to {path}. Keep a copy apart from the backups."] if _write_once(path) else []


def _write_once(path: Path) -> bool:
    """Writes a fresh key, whole or not at all; False where another process was first."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename it never replaces a key
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _has_data_keys(database: Database) -> bool:
    with database.read() as connection:
        return connection.execute(select(DataKeyRow.id).limit(1)).first() is not None
