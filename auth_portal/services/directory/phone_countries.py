"""The countries of phones that were on file before their country was kept beside them.

Whoever writes a phone writes its country with it (``customer_rows``). Older rows are learned here, by whichever process
dispatches: in short batches, and each row only where its phone still is the one that was read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import bindparam, select, update

from auth_portal.crypto import KeyFault, Keyring
from auth_portal.services.directory.customers import country_of
from auth_portal.store.db import Database
from auth_portal.store.models import CustomerRow, table_of

BATCH = 200  # rows of one transaction: about 10 ms of it
HAS_PHONE = tuple(traits for traits in range(64) if traits & 2)  # models.TRAITS: so that the index finds them

_CUSTOMERS = table_of(CustomerRow)
_UNKNOWN = (
    select(_CUSTOMERS.c.id, _CUSTOMERS.c.phone_key, _CUSTOMERS.c.phone_sealed)
    .where(_CUSTOMERS.c.traits.in_(HAS_PHONE), _CUSTOMERS.c.phone_country.is_(None))
    .limit(BATCH)
)
_LEARN = (
    update(_CUSTOMERS)
    .where(_CUSTOMERS.c.id == bindparam("of"), _CUSTOMERS.c.phone_key == bindparam("read"))
    .values(phone_country=bindparam("country"))
)


def learn(database: Database, keyring: Keyring, *, is_stopping: Callable[[], bool] = lambda: False) -> int:
    """Writes the country beside every phone that has none; how many. Safe at any time, and by several at once."""
    learned = 0
    while not is_stopping():
        with database.read() as connection:
            rows = connection.execute(_UNKNOWN).all()
        if not rows:
            break
        values = [{"of": row.id, "read": row.phone_key, "country": _country(keyring, row)} for row in rows]
        with database.write() as connection:
            connection.execute(_LEARN, values)
        learned += len(rows)
    return learned


def _country(keyring: Keyring, row: Any) -> str:
    """What no key opens belongs to no country: nothing can be sent there either."""
    try:
        return country_of(keyring.open(row.phone_sealed, "customers", row.id, "phone"))
    except KeyFault:
        return ""
