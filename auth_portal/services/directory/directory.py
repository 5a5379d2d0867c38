"""The directory's upkeep in bulk: a command's file, and customers that a program saves together.

Nobody is ever deleted in bulk. What is done to one person is in ``people``.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords
from auth_portal.errors import Conflict
from auth_portal.methods.password import is_long
from auth_portal.services import audit
from auth_portal.services.directory.credential_links import end_links
from auth_portal.services.directory.customer_rows import column_values, new_row
from auth_portal.services.imports.command_import import CommandImport, ImportReport
from auth_portal.services.imports.customers_csv import Entry, Source
from auth_portal.services.imports.staging import Comparison, Plan, Stored, same_password
from auth_portal.services.imports.telling import Notices
from auth_portal.store.db import Database
from auth_portal.store.many import insert_many, update_many
from auth_portal.store.models import CustomerRow, table_of

__all__ = ["Counts", "Directory", "ImportReport"]


@dataclass(frozen=True)
class Counts:
    """What became of customers that were saved together."""

    new: int
    changed: int
    equal: int


Alike = Sequence[Mapping[str, Any]]  # rows that change in the same columns


class Directory:
    """Writes the table ``customers``, many rows at once."""

    def __init__(
        self, database: Database, keyring: Keyring, passwords: Passwords, clock: Clock, notices: Notices | None = None
    ) -> None:
        """``notices`` tells owners and customers of an import; who saves customers tells nobody."""
        self._database = database
        self._keyring = keyring
        self._passwords = passwords
        self._clock = clock
        self._comparison = Comparison(database, keyring)
        self._command = CommandImport(database, keyring, passwords, clock, notices)

    def import_csv(
        self, source: Source, *, default_region: str, dry_run: bool, is_telling: bool = False
    ) -> ImportReport:
        """Makes the directory say what the file says, or with any broken row leaves it alone and tells why.

        With ``is_telling`` the serving portal tells customers whose phone or e-mail address it changes. Plain passwords
        cost about 25 ms of one core each. Raises OSError for a file that cannot be read, and Misconfigured where
        somebody else changed the same customers meanwhile, or telling would take too many days.
        """
        return self._command.run(source, default_region=default_region, dry_run=dry_run, is_telling=is_telling)

    def save(
        self, entries: Sequence[Entry], *, also: Callable[[Connection, Counts], None] | None = None, **facts: Any
    ) -> Counts:
        """Makes or changes these customers in one transaction; what an entry does not name stays as it is.

        ``also`` commits together with them. Plain passwords cost about 25 ms of one core each. Raises Busy where too
        many are hashed at once, and Conflict where somebody else makes the same customers meanwhile.
        """
        columns = {name for entry in entries for name in entry.cells}
        with self._passwords.slot():
            plans = self._comparison.plans(entries, columns, same=self._is_same)
            hashes = self._hashes(plans)
        counts, now = _counts(plans), self._clock()
        fresh, changes = self._rows(plans, hashes, now)
        try:
            with self._database.write() as connection:
                _write_all(connection, fresh, changes)
                told: dict[str, Any] = {"new": counts.new, "changed": counts.changed, "equal": counts.equal, **facts}
                audit.record(connection, self._keyring, now, "customers_saved", **told)
                if also is not None:
                    also(connection, counts)
        except IntegrityError:
            raise Conflict("customer_changed") from None
        return counts

    def _is_same(self, stored: Stored, plain: str) -> bool:
        before = stored.texts.get("password")
        return same_password(self._passwords, before, stored.row["password_is_long"], plain)

    def _hashes(self, plans: Iterable[Plan]) -> dict[str, str]:
        """By customer key, the argon2id string that a plain password comes to."""
        plain = {plan.entry.key: password for plan in plans if (password := plan.plain_password) is not None}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return dict(zip(plain, pool.map(self._passwords.hash, plain.values()), strict=True))

    def _rows(
        self, plans: Sequence[Plan], hashes: Mapping[str, str], now: datetime
    ) -> tuple[list[Mapping[str, Any]], list[Alike]]:
        """The rows to insert, and those to update, grouped by the columns that change."""
        fresh: list[Mapping[str, Any]] = []
        changes: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
        for plan in plans:
            hashed = {"password": hashes[plan.entry.key]} if plan.entry.key in hashes else {}
            said, long = {**plan.changes, **hashed}, is_long(plan.plain_password or "")
            if plan.stored is None:
                new = new_row(self._keyring, now, said, is_long=long)
                fresh.append({**new, "is_active": plan.is_active is not False})
            elif not plan.is_equal:
                row_id = str(plan.stored.row["id"])
                activity = {} if plan.is_active is None else {"is_active": plan.is_active}
                columns = column_values(self._keyring, row_id, said, is_long=long)
                values = {"id": row_id, "changed_at": now, **columns, **activity}
                changes[tuple(values)].append(values)
        return fresh, list(changes.values())


def _counts(plans: Sequence[Plan]) -> Counts:
    new = sum(plan.stored is None for plan in plans)
    equal = sum(plan.is_equal for plan in plans)
    return Counts(new, len(plans) - new - equal, equal)


def _write_all(connection: Connection, fresh: Sequence[Any], changes: Iterable[Alike]) -> None:
    customers = table_of(CustomerRow)
    if fresh:
        insert_many(connection, customers, fresh)
    for alike in changes:
        update_many(connection, customers, alike)
        if {"phone_key", "email_key"} & alike[0].keys():
            end_links(connection, [values["id"] for values in alike])
