"""The data keys of a database, opened with the operator's master keys.

The wrapped keys are the canary: with the wrong master keys nothing starts, instead of writing what nobody can read.
"""

from __future__ import annotations

import secrets
from datetime import datetime

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import DBAPIError

from auth_portal.clock import Clock
from auth_portal.crypto import KEY_BYTES, PURPOSES, DataKey, KeyFault, Keyring, MasterKeys
from auth_portal.errors import Misconfigured
from auth_portal.services import audit
from auth_portal.store.db import Database, plain_reason, upsert
from auth_portal.store.models import DataKeyRow, Portal, table_of

PORTAL_ROW = 1
_ALL_KEYS = select(DataKeyRow.id, DataKeyRow.purpose, DataKeyRow.wrapped).order_by(DataKeyRow.id)


def wrapping_name(key_id: int, purpose: str) -> str:
    """What binds a wrapped data key to its row."""
    return f"{purpose}:{key_id}"


def furnish(database: Database, master: MasterKeys, now: datetime) -> bool:
    """Gives a database its portal's row and its data keys; False where it had keys already."""
    with database.write() as connection:
        portal = upsert(connection.dialect.name, table_of(Portal)).values(id=PORTAL_ROW, version=1, settings={})
        connection.execute(portal.on_conflict_do_nothing())  # PostgreSQL lets one `init` past this at a time
        if connection.execute(select(DataKeyRow.id).limit(1)).first() is not None:
            return False
        connection.execute(
            insert(DataKeyRow), [_new_key(master, *numbered, now) for numbered in enumerate(PURPOSES, 1)]
        )
    return True


def _new_key(master: MasterKeys, key_id: int, purpose: str, now: datetime) -> dict[str, object]:
    wrapped = master.wrap(secrets.token_bytes(KEY_BYTES), wrapping_name(key_id, purpose))
    return {"id": key_id, "purpose": purpose, "wrapped": wrapped, "created_at": now}


def load_keyring(database: Database, master: MasterKeys) -> Keyring:
    """The data keys, ready for use.

    Raises Misconfigured where there are none, where the master keys do not belong to this database, and where the
    database cannot be read.
    """
    try:
        with database.read() as connection:
            rows = connection.execute(_ALL_KEYS).all()
    except DBAPIError as error:
        raise Misconfigured(f"The database cannot be used: {plain_reason(error)}.") from None
    if not rows:
        raise Misconfigured("The database holds no data keys yet. Run `flask --app app init`.")
    try:
        return Keyring(
            [
                DataKey(row.id, row.purpose, master.unwrap(row.wrapped, wrapping_name(row.id, row.purpose)))
                for row in rows
            ]
        )
    except KeyFault as fault:
        raise Misconfigured(
            f"The keys cannot be used: {fault}. Put back the keys that belong to this database: the file secret_keys "
            "in the instance folder, or PORTAL_SECRET_KEYS."
        ) from None


def rotate_keys(database: Database, master: MasterKeys, clock: Clock) -> int:
    """Wraps every data key under the first master key, all or none; how many were wrapped by another one.

    The data keys stay what they are, so running servers notice nothing. Raises Misconfigured where one of them
    cannot be opened.
    """
    keyring = load_keyring(database, master)
    with database.write() as connection:
        rows = connection.execute(_ALL_KEYS.with_for_update()).all()
        outdated = [row for row in rows if not row.wrapped.startswith(master.current)]
        for row in outdated:
            _wrap_again(connection, master, row.id, row.purpose, row.wrapped)
        if outdated:
            audit.record(connection, keyring, clock(), "keys_rotated", keys=len(outdated))
    return len(outdated)


def _wrap_again(connection: Connection, master: MasterKeys, key_id: int, purpose: str, wrapped: bytes) -> None:
    name = wrapping_name(key_id, purpose)
    try:
        again = master.wrap(master.unwrap(wrapped, name), name)
    except KeyFault as fault:
        raise Misconfigured(f"Data key {key_id} cannot be opened: {fault}.") from None
    connection.execute(update(DataKeyRow).where(DataKeyRow.id == key_id).values(wrapped=again))
