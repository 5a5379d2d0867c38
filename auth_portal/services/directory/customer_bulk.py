"""Customers that a program says all at once: checked one by one, each fault told by its place in the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from auth_portal.services.directory.customer_fields import check, is_hash
from auth_portal.services.directory.customers import customer_key
from auth_portal.services.imports.customers_csv import Entry, RowFault

MOST = 300  # customers of one write: one transaction of some 10 ms on SQLite and 25 ms on PostgreSQL
PLAIN_PASSWORDS = 20  # of one write: each costs about 25 ms of one core


@dataclass(frozen=True)
class Said:
    """What is said of one customer; a field that is None is cleared, one that is not there is left."""

    customer_id: str
    fields: Mapping[str, str | None]
    is_active: bool | None = None


def checked_entries(said: Sequence[Said], region: str) -> tuple[list[Entry], list[RowFault]]:
    """The customers in their one form, and all faults; a fault's row counts from 0."""
    entries: list[Entry] = []
    faults: list[RowFault] = []
    seen: dict[str, int] = {}
    hashes_left = PLAIN_PASSWORDS
    for number, one in enumerate(said):
        checked = check({"customer_id": one.customer_id, **one.fields}, region)
        found = dict(checked.faults)
        key = customer_key(one.customer_id)
        if (first := seen.setdefault(key, number)) != number:
            found["customer_id"] = f"is the same customer as number {first}"
        password = checked.fields.get("password")
        hashes_left -= password is not None and not is_hash(password)
        if hashes_left < 0 and password is not None and not is_hash(password):
            found["password"] = f"is one of more than {PLAIN_PASSWORDS} that are not hashed"
        faults += [RowFault(number, name, reason) for name, reason in sorted(found.items())]
        cells = {name: text for name, text in checked.fields.items() if name != "customer_id"}
        entries.append(Entry(number, str(checked.fields.get("customer_id")), key, cells, one.is_active))
    return entries, faults
