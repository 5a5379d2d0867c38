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
from typing import Any

from sqlalchemy import insert, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords
from auth_portal.errors import Misconfigured
from auth_portal.services.imports.customers_csv import FAULTS_TOLD, Reading, RowFault, Source
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
from auth_portal.services.imports.telling import LONGEST, Notices, Telling, Way, customers_word, longest
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
    told: int = 0  # customers whose phone or e-mail address changes
    ways: tuple[Way, ...] = ()  # how the messages that tell them leave
    is_telling: bool = False

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
        columns = (f"  {column}: {tally}" for column, tally in self.columns.items())
        return [f"{verb}: {rows}.", *columns, *self._told]

    @property
    def _told(self) -> list[str]:
        if not self.ways:
            return []
        whom = f"{customers_word(self.told)} whose phone or e-mail address changes"
        if not self.is_dry_run and not self.is_telling:
            return [f"Not told: {whom}. All owners get a mail that says so."]
        when = "With --notify the portal tells" if self.is_dry_run else "The portal now tells"
        ways = [f"  {way}" for way in self.ways]
        if any(way.carries == "sms" for way in self.ways):
            ways.append("  What an SMS costs is between you and its provider: the portal does not know it.")
        return [f"{when} {whom}, at the old and at the new one:", *ways]


class CommandImport:
    """Imports whole files, every core hashing."""

    def __init__(
        self, database: Database, keyring: Keyring, passwords: Passwords, clock: Clock, notices: Notices | None
    ) -> None:
        self._database = database
        self._clock = clock
        self._work = ImportWork(database, keyring, passwords, clock, notices, threads=os.cpu_count() or 1)
        self._telling = None if notices is None else Telling(database, keyring, clock, notices)

    def run(self, source: Source, *, default_region: str, dry_run: bool, is_telling: bool) -> ImportReport:
        """Makes the directory say what the file says, or with any broken row leaves it alone and tells why.

        With ``is_telling`` customers hear of changed contacts from the processes that serve. Plain passwords cost about
        25 ms of one core each. Raises OSError for a file that cannot be read, and Misconfigured where somebody else
        changed the same customers meanwhile, or telling would take too many days.
        """
        if dry_run:
            return self._dry_run(source, default_region)
        held = self._begin(source, default_region, is_telling=is_telling)
        try:
            return self._import(held, source)
        finally:
            self._end(held.id)

    def _dry_run(self, source: Source, region: str) -> ImportReport:
        reading, counts, told = Reading(), Counts(), []
        for plans, faults in self._work.compared(source, reading, region, same=self._work.same):
            count(counts, reading, plans)
            told += faults
        return self._report(counts, reading, told, dry_run=True)

    def _report(
        self, counts: Counts, reading: Reading, told: list[RowFault], *, dry_run: bool, is_telling: bool = False
    ) -> ImportReport:
        if reading.fault_count:
            return ImportReport(dry_run, errors=tuple(told[:FAULTS_TOLD]), error_count=reading.fault_count)
        return ImportReport(
            dry_run, counts.new, counts.changed, counts.equal, counts.columns, told=counts.told,
            ways=tuple(self._ways(counts)), is_telling=is_telling,
        )  # fmt: skip

    def _ways(self, counts: Counts) -> list[Way]:
        return self._telling.ways(counts.messages) if self._telling is not None else []

    def _begin(self, source: Source, region: str, *, is_telling: bool) -> Claim:
        now = self._clock()
        name = source.name if isinstance(source, Path) else ""
        lease, until = new_id(now), now + timedelta(seconds=LEASE_SECONDS)
        values = new_import(
            now, file_name=name[:120], region=region, is_attended=True, is_telling=is_telling, lease=lease,
            leased_until=until,
        ) | {"state": CHECKING}  # fmt: skip
        with self._database.write() as connection:
            row = connection.execute(insert(ImportRow).values(values).returning(*table_of(ImportRow).c)).one()
        return Claim(row, lease)

    def _import(self, held: Claim, source: Source) -> ImportReport:
        reading, told = self._work.check(held, source)
        if reading.fault_count:
            return self._report(Counts(), reading, told, dry_run=False)
        self._refuse_long_telling(held)
        with self._database.write() as connection:
            move(connection, held.id, IMPORTING, self._clock())
        again = take(self._database, held.id, self._clock())
        if again is None:
            raise Misconfigured("The import was cancelled meanwhile; nothing was imported.")
        counts = self._work.bring_in(again)
        if self._state(held.id) == FAILED:
            raise Misconfigured("Somebody else changed the same customers meanwhile; import the file again.")
        return self._report(counts, reading, told, dry_run=False, is_telling=held.row.is_telling)

    def _refuse_long_telling(self, held: Claim) -> None:
        days = longest(self._ways(Counts.from_json(self._row(held.id).counts)))
        if held.row.is_telling and days > LONGEST.days:
            raise Misconfigured(
                f"Telling customers would take about {days} days under the daily caps of the channels, more than "
                f"{LONGEST.days}; nothing was imported. Raise the caps, split the file, or leave out --notify."
            )

    def _state(self, import_id: str) -> str:
        return str(self._row(import_id).state)

    def _row(self, import_id: str) -> Any:
        with self._database.read() as connection:
            return connection.execute(table_of(ImportRow).select().where(ImportRow.id == import_id)).one()

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
