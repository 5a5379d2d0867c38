"""The directory's upkeep in bulk: the CSV import. What is done to one person is in ``people``.

An import is one act: every row is read, compared and hashed first, then one transaction writes all of it, or a
broken row means that nothing is written. Nobody is ever deleted by an import.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords
from auth_portal.errors import Conflict, Misconfigured
from auth_portal.methods.password import is_long
from auth_portal.services import audit
from auth_portal.services.customer_fields import is_hash
from auth_portal.services.customer_rows import SEALED, column_values, new_row, opened
from auth_portal.services.customers_csv import Entry, Reading, RowFault, Source, read_customers
from auth_portal.store.db import Database
from auth_portal.store.models import CustomerRow

CHUNK = 500  # rows asked for at once
NOTHING_STORED: Mapping[str, Any] = {}

_STORED_PLAIN = ("id", "customer_id", "customer_key", "locale", "password_is_long", "is_active")
_STORED = select(
    *(getattr(CustomerRow, column) for column in _STORED_PLAIN),
    *(getattr(CustomerRow, column) for column in SEALED.values()),
)


@dataclass
class Tally:
    """What an import does to one column, in rows. An empty cell counts nowhere."""

    new: int = 0
    changed: int = 0
    cleared: int = 0
    equal: int = 0

    def __str__(self) -> str:
        return f"{self.new} new, {self.changed} changed, {self.cleared} cleared, {self.equal} equal"


@dataclass(frozen=True)
class ImportReport:
    """What an import did, or in a dry run would do. With faults nothing was written."""

    is_dry_run: bool
    new: int = 0
    changed: int = 0
    equal: int = 0
    columns: Mapping[str, Tally] = field(default_factory=dict)
    errors: tuple[RowFault, ...] = ()
    error_count: int = 0

    @property
    def lines(self) -> list[str]:
        """The report for people. The first thousand faults are told, all are counted."""
        if self.error_count:
            untold = self.error_count - len(self.errors)
            told = [str(fault) for fault in self.errors] + ([f"and {untold} more"] if untold else [])
            return [
                f"Nothing was imported: {self.error_count} {'fault' if self.error_count == 1 else 'faults'}.",
                *told,
            ]
        verb = "Dry run, nothing was imported" if self.is_dry_run else "Imported"
        rows = f"{self.new} customers new, {self.changed} changed, {self.equal} equal"
        return [f"{verb}: {rows}.", *(f"  {column}: {tally}" for column, tally in self.columns.items())]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one row of the file comes to: the values to seal, each None to clear, and those that stay as they are."""

    entry: Entry
    row_id: str | None
    changes: Mapping[str, str | None]
    verdicts: Mapping[str, str]  # column: new, changed, cleared or equal
    is_active: bool | None = None  # None where that stays as it is

    @property
    def is_equal(self) -> bool:
        """Whether the directory says all of it already."""
        return self.row_id is not None and not self.changes and self.is_active is None

    @property
    def is_long(self) -> bool:
        """Whether the row has a plain password that may stand alone."""
        plain = self.entry.cells.get("password")
        return plain is not None and not is_hash(plain) and is_long(plain)


@dataclass(frozen=True)
class Counts:
    """What became of customers that were saved together."""

    new: int
    changed: int
    equal: int


Alike = Sequence[Mapping[str, Any]]  # rows that change in the same columns


class Directory:
    """Writes the table ``customers``, many rows at once."""

    def __init__(self, database: Database, keyring: Keyring, passwords: Passwords, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._passwords = passwords
        self._clock = clock

    def import_csv(self, source: Source, *, default_region: str, dry_run: bool) -> ImportReport:
        """Makes the directory say what the file says, or with any broken row leaves it alone and tells why.

        Plain passwords cost about 25 ms of one core each. Raises OSError for a file that cannot be read, and
        Misconfigured where somebody else changed the same customers meanwhile.
        """
        reading = read_customers(source, region=default_region)
        if reading.fault_count:
            return ImportReport(dry_run, errors=tuple(reading.faults), error_count=reading.fault_count)
        plans = self._plans(reading, hashing=not dry_run)
        report = _report(reading, plans, dry_run)
        if not dry_run and (report.new or report.changed):
            self._write(plans, report)
        return report

    def _plans(self, reading: Reading, *, hashing: bool) -> list[Plan]:
        stored = self._stored(entry.key for entry in reading.entries)
        texts = {key: opened(self._keyring, row, reading.columns) for key, row in stored.items()}
        hashes = self._hashes(reading.entries, stored, texts, hashing)
        plans = []
        for entry in reading.entries:
            wanted = {"customer_id": entry.customer_id, **entry.cells}
            if entry.key in hashes:
                wanted["password"] = hashes[entry.key]
            row = stored.get(entry.key, NOTHING_STORED)
            plans.append(_plan(entry, row, wanted, texts.get(entry.key, NOTHING_STORED)))
        return plans

    def _stored(self, keys: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        with self._database.read() as connection:
            for some in _in_chunks(keys):
                rows = connection.execute(_STORED.where(CustomerRow.customer_key.in_(some))).mappings()
                found.update((str(row["customer_key"]), dict(row)) for row in rows)
        return found

    def _hashes(
        self,
        entries: Sequence[Entry],
        stored: Mapping[str, Mapping[str, Any]],
        texts: Mapping[str, Mapping[str, str]],
        hashing: bool,
    ) -> dict[str, str]:
        """By customer key, the argon2id string that a plain password comes to; the stored one where that is right."""
        plain = [(entry.key, text) for entry in entries if (text := entry.cells.get("password")) and not is_hash(text)]

        def one(item: tuple[str, str]) -> str:
            key, password = item
            before = texts.get(key, NOTHING_STORED).get("password")
            flag_is_right = before is not None and stored[key]["password_is_long"] == is_long(password)
            if before is not None and flag_is_right and self._passwords.matches(before, password):
                return str(before)
            return self._passwords.hash(password) if hashing else "not hashed in a dry run"

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return dict(zip((key for key, _ in plain), pool.map(one, plain), strict=True))

    def save(
        self, entries: Sequence[Entry], *, also: Callable[[Connection, Counts], None] | None = None, **facts: Any
    ) -> Counts:
        """Makes or changes these customers in one transaction; what an entry does not name stays as it is.

        ``also`` commits together with them. Plain passwords cost about 25 ms of one core each. Raises Busy where too
        many are hashed at once, and Conflict where somebody else makes the same customers meanwhile.
        """
        columns = {name for entry in entries for name in entry.cells}
        with self._passwords.slot():
            plans = self._plans(Reading(list(entries), tuple(columns)), hashing=True)
        counts, now = _counts(plans), self._clock()
        fresh, changes = self._rows(plans, now)
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

    def _write(self, plans: Sequence[Plan], report: ImportReport) -> None:
        now = self._clock()
        fresh, changes = self._rows(plans, now)
        try:
            with self._database.write() as connection:
                _write_all(connection, fresh, changes)
                counts: dict[str, Any] = {"new": report.new, "changed": report.changed, "equal": report.equal}
                audit.record(connection, self._keyring, now, "customers_imported", **counts)
        except IntegrityError:
            raise Misconfigured("Somebody else changed the same customers meanwhile; import the file again.") from None

    def _rows(self, plans: Sequence[Plan], now: datetime) -> tuple[list[Mapping[str, Any]], list[Alike]]:
        """The rows to insert, and those to update, grouped by the columns that change."""
        fresh: list[Mapping[str, Any]] = []
        changes: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
        for plan in plans:
            if plan.row_id is None:
                new = new_row(self._keyring, now, plan.changes, is_long=plan.is_long)
                fresh.append({**new, "is_active": plan.is_active is not False})
            elif not plan.is_equal:
                columns = column_values(self._keyring, plan.row_id, plan.changes, is_long=plan.is_long)
                activity = {} if plan.is_active is None else {"is_active": plan.is_active}
                values = {"row_id": plan.row_id, "changed_at": now, **columns, **activity}
                changes[tuple(values)].append(values)
        return fresh, list(changes.values())


def _plan(entry: Entry, row: Mapping[str, Any], wanted: Mapping[str, str | None], before: Mapping[str, str]) -> Plan:
    was_active = row.get("is_active", True)
    verdicts = {name: _verdict(before.get(name) or None, text) for name, text in wanted.items()}
    changes = {name: wanted[name] for name, verdict in verdicts.items() if verdict != "equal"}
    return Plan(entry, row.get("id"), changes, verdicts, entry.is_active if entry.is_active != was_active else None)


def _verdict(before: str | None, wanted: str | None) -> str:
    if before == wanted:
        return "equal"
    if wanted is None:
        return "cleared"
    return "new" if before is None else "changed"


def _report(reading: Reading, plans: Sequence[Plan], dry_run: bool) -> ImportReport:
    columns = {name: Tally() for name in reading.columns}
    for plan in plans:
        for name, verdict in plan.verdicts.items():
            setattr(columns[name], verdict, getattr(columns[name], verdict) + 1)
    new = sum(plan.row_id is None for plan in plans)
    changed = sum(plan.row_id is not None and bool(plan.changes) for plan in plans)
    return ImportReport(dry_run, new, changed, len(plans) - new - changed, columns)


def _counts(plans: Sequence[Plan]) -> Counts:
    new = sum(plan.row_id is None for plan in plans)
    equal = sum(plan.is_equal for plan in plans)
    return Counts(new, len(plans) - new - equal, equal)


def _write_all(connection: Connection, fresh: Sequence[Any], changes: Iterable[Alike]) -> None:
    if fresh:
        # Every row names every column, though a value may be null: one statement for all.
        connection.execute(insert(CustomerRow), fresh)
    for alike in changes:  # rows that change in the same columns share a statement
        connection.execute(update(CustomerRow).where(CustomerRow.id == bindparam("row_id")), alike)


def _in_chunks(values: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(values)
    while some := list(islice(rest, CHUNK)):
        yield some
