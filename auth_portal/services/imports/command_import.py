"""The import of a customers file by a command: the same work as from a page, done at once while somebody waits.

All of the file is imported, or with any broken row, or where somebody changed the same customers meanwhile, nothing.
What is done to one person is in ``people``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from sqlalchemy import insert, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords
from auth_portal.errors import Misconfigured
from auth_portal.services.imports.customers_csv import FAULTS_KEPT, Reading, RowFault, Source
from auth_portal.services.imports.staging import Counts, Tally
from auth_portal.services.imports.states import (
    CANCELLED,
    CHECKING,
    FAILED,
    IMPORTING,
    LEASE_SECONDS,
    NEXT,
    SWITCHED,
    Claim,
    move,
    take,
)
from auth_portal.services.imports.work import ImportWork, count, new_import
from auth_portal.store.db import Database, new_id
from auth_portal.store.models import ImportRow, table_of


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


class CommandImport:
    """Imports whole files, every core hashing."""

    def __init__(self, database: Database, keyring: Keyring, passwords: Passwords, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._work = ImportWork(database, keyring, passwords, clock, threads=os.cpu_count() or 1)

    def run(self, source: Source, *, default_region: str, dry_run: bool) -> ImportReport:
        """Makes the directory say what the file says, or with any broken row leaves it alone and tells why.

        Plain passwords cost about 25 ms of one core each. Raises OSError for a file that cannot be read, and
        Misconfigured where somebody else changed the same customers meanwhile.
        """
        if dry_run:
            return self._dry_run(source, default_region)
        held = self._begin(source, default_region)
        try:
            return self._import(held, source)
        finally:
            self._end(held.id)

    def _dry_run(self, source: Source, region: str) -> ImportReport:
        reading, counts, told = Reading(), Counts(), []
        for plans, faults in self._work.compared(source, reading, region, same=self._work.same):
            count(counts, reading, plans)
            told += faults
        return _report(counts, reading, told, dry_run=True)

    def _begin(self, source: Source, region: str) -> Claim:
        now = self._clock()
        name = source.name if isinstance(source, Path) else ""
        lease, until = new_id(now), now + timedelta(seconds=LEASE_SECONDS)
        values = new_import(
            now, file_name=name[:120], region=region, is_attended=True, lease=lease, leased_until=until
        ) | {"state": CHECKING}  # fmt: skip
        with self._database.write() as connection:
            row = connection.execute(insert(ImportRow).values(values).returning(*table_of(ImportRow).c)).one()
        return Claim(row, lease)

    def _import(self, held: Claim, source: Source) -> ImportReport:
        reading, told = self._work.check(held, source)
        if reading.fault_count:
            return _report(Counts(), reading, told, dry_run=False)
        with self._database.write() as connection:
            move(connection, held.id, IMPORTING, self._clock())
        again = take(self._database, held.id, self._clock())
        if again is None:
            raise Misconfigured("The import was cancelled meanwhile; nothing was imported.")
        counts = self._work.bring_in(again)
        if self._state(held.id) == FAILED:
            raise Misconfigured("Somebody else changed the same customers meanwhile; import the file again.")
        return _report(counts, reading, told, dry_run=False)

    def _state(self, import_id: str) -> str:
        with self._database.read() as connection:
            return str(connection.execute(table_of(ImportRow).select().where(ImportRow.id == import_id)).one().state)

    def _end(self, import_id: str) -> None:
        """Whatever happened: what was not switched is over, and nothing of it stays."""
        now = self._clock()
        unfinished = [state for state, targets in NEXT.items() if CANCELLED in targets and state not in SWITCHED]
        with self._database.write() as connection:
            connection.execute(
                update(ImportRow)
                .where(ImportRow.id == import_id, ImportRow.state.in_(unfinished))
                .values(state=CANCELLED, ended_at=now, lease=None, leased_until=None)
            )
        self._work.tidy()


def _report(counts: Counts, reading: Reading, told: list[RowFault], *, dry_run: bool) -> ImportReport:
    if reading.fault_count:
        return ImportReport(dry_run, errors=tuple(told[:FAULTS_KEPT]), error_count=reading.fault_count)
    return ImportReport(dry_run, counts.new, counts.changed, counts.equal, counts.columns)
