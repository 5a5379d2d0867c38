"""The data keys of a database, opened with the operator's master keys.

The wrapped keys are the canary: with the wrong master keys nothing starts, instead of writing what nobody can read.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from auth_portal.crypto import DataKey, KeyFault, Keyring, MasterKeys
from auth_portal.errors import Misconfigured
from auth_portal.store.db import Database, plain_reason
from auth_portal.store.models import DataKeyRow

_ALL_KEYS = select(DataKeyRow.id, DataKeyRow.purpose, DataKeyRow.wrapped).order_by(DataKeyRow.id)


def wrapping_name(key_id: int, purpose: str) -> str:
    """What binds a wrapped data key to its row."""
    return f"{purpose}:{key_id}"


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
            [DataKey(row.id, row.purpose, master.unwrap(row.wrapped, wrapping_name(row.id, row.purpose))) for row in rows]
        )
    except KeyFault as fault:
        raise Misconfigured(
            f"The keys cannot be used: {fault}. Put back the keys that belong to this database: the file secret_keys in "
            "the instance folder, or PORTAL_SECRET_KEYS."
        ) from None
