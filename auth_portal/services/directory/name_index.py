"""Makes the customers of an older version findable by name: their keyed hash could not be made by a migration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import bindparam, select, update

from auth_portal.crypto import KeyFault, Keyring
from auth_portal.services.directory.customer_rows import index_of
from auth_portal.store.db import Database
from auth_portal.store.models import CustomerRow, table_of

BATCH = 500  # rows changed in one transaction: a few milliseconds

_CUSTOMERS = table_of(CustomerRow)
_UNCHANGED = (_CUSTOMERS.c.id == bindparam("of")) & (_CUSTOMERS.c.name_sealed == bindparam("sealed"))
_FILL = update(_CUSTOMERS).where(_UNCHANGED).values(name_key=bindparam("key"))


def fill(database: Database, keyring: Callable[[], Keyring]) -> int:
    """Gives every name its keyed hash that has none; how many. Keys are asked for only where there is one.

    A name that no key opens stays without: nobody can be shown it either, and the others must not wait for it.
    """
    filled, after = 0, ""
    while rows := _without_key(database, after):
        values = list(_keyed(keyring(), rows))
        if values:
            with database.write() as connection:
                connection.execute(_FILL, values)
        filled, after = filled + len(values), rows[-1].id
    return filled


def _keyed(keyring: Keyring, rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for row in rows:
        with suppress(KeyFault):
            name = keyring.open(row.name_sealed, "customers", row.id, "name")
            yield {"of": row.id, "sealed": row.name_sealed, "key": index_of(keyring, "name", name)}


def _without_key(database: Database, after: str) -> Sequence[Any]:
    nameless = _CUSTOMERS.c.name_sealed.is_not(None) & _CUSTOMERS.c.name_key.is_(None)
    found = select(_CUSTOMERS.c.id, _CUSTOMERS.c.name_sealed).where(nameless, _CUSTOMERS.c.id > after)
    with database.read() as connection:
        return connection.execute(found.order_by(_CUSTOMERS.c.id).limit(BATCH)).all()
