"""How a customer's values become columns and values again: sealed for their row, and indexed to be found by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from auth_portal.crypto import Keyring
from auth_portal.services.directory.customers import country_of, customer_key, name_form
from auth_portal.store.db import new_id

SEALED = {  # the name under which a value is sealed, and the column that holds it
    "name": "name_sealed",
    "phone": "phone_sealed",
    "email": "email_sealed",
    "password": "password_hash",
    "totp_secret": "totp_sealed",
}
INDEXED = {"name": "name_key", "phone": "phone_key", "email": "email_key"}


def opened(keyring: Keyring, row: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """What is stored of these values, as the file would say it; a sealed one that is not there is left out."""
    texts = {"customer_id": row["customer_id"], "locale": row["locale"]}
    for name in SEALED.keys() & set(names):
        if (sealed := row[SEALED[name]]) is not None:
            texts[name] = keyring.open(sealed, "customers", row["id"], name)
    return texts


def new_row(keyring: Keyring, now: datetime, changes: Mapping[str, str | None], *, is_long: bool) -> dict[str, Any]:
    """A whole new row. Every one names every column, so that many share a statement."""
    row_id = new_id(now)
    empty = dict.fromkeys((*SEALED.values(), *INDEXED.values(), "phone_country"))
    return {
        **empty,
        "id": row_id,
        "customer_key": customer_key(str(changes["customer_id"])),
        "locale": "",
        "password_is_long": False,
        "totp_last_step": 0,
        "subject_id": new_id(now),
        "created_at": now,
        "changed_at": now,
        **column_values(keyring, row_id, changes, is_long=is_long),
    }


def column_values(keyring: Keyring, row_id: str, changes: Mapping[str, str | None], *, is_long: bool) -> dict[str, Any]:
    """The columns that changes come to; None clears. A password comes hashed, ``is_long`` tells of the plain one."""
    values: dict[str, Any] = {}
    for name, text in sorted(changes.items()):
        if name in SEALED:
            values[SEALED[name]] = None if text is None else keyring.seal(text, "customers", row_id, name)
        else:
            values[name] = text or ""
        if name in INDEXED:
            values[INDEXED[name]] = None if text is None else index_of(keyring, name, text)
    if "phone" in changes:
        values["phone_country"] = None if changes["phone"] is None else country_of(changes["phone"])
    if "customer_id" in changes:
        values["customer_key"] = customer_key(values["customer_id"])
    if "password" in changes:
        values["password_is_long"] = is_long
    if "totp_secret" in changes:
        values["totp_last_step"] = 0  # the steps of another seed are spent no more
    return values


def index_of(keyring: Keyring, name: str, text: str) -> str:
    """The keyed hash that a value is found by."""
    return keyring.index(name, name_form(text) if name == "name" else text)
