"""Imports of customers, as the configuration page and a command ask for them. ``imports.work`` does the work itself.

On the page a file is received, its columns are named, its changes are shown, it is started, watched, and perhaps
undone; the work goes on in the background. A command does the same work while the operator waits: the whole file is
imported, or nothing, also if a row is faulty, or if other admins or programs changed the same customers meanwhile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple

from sqlalchemy import func, insert, select, update

from auth_portal.crypto import Passwords
from auth_portal.errors import Misconfigured, NotFound, Problem
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.imports import REASONS, FileRefused, Source, open_table, staging
from auth_portal.services.imports.csv import (
    FAULTS_REPORTED,
    CsvFindings,
    RowFault,
    column_faults,
    guesses,
    read_header,
    read_samples,
)
from auth_portal.services.imports.notify import LONGEST, ImportNotices, NoticeRoute, customers_word, days_of
from auth_portal.services.imports.staging import ImportCounts, StoredCustomer, Tally
from auth_portal.services.imports.store import (
    CANCELLED,
    CHECKED,
    CHECKING,
    DONE,
    FAILED,
    IMPORTING,
    LEASE_SECONDS,
    NEXT,
    PART,
    SWITCHED,
    TELLING,
    UNDO_PERIOD,
    UNDOING,
    UPLOADED,
    WORK,
    ImportClaim,
    faults_after,
    has_file,
    move,
    new_import,
    open_file,
    store_file,
    take,
)
from auth_portal.services.imports.work import CHANGED, ImportWork, count
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import Admin, ImportRow, table_of

PAGE = 20  # imports of one page of their list
FEWEST_FOR_A_GUESS = 50  # rows done before the time left is estimated
GONE = "a customer who was deleted"  # since


@dataclass(frozen=True)
class Import:
    """An import as pages show it. Times in UTC."""

    id: str
    file_name: str
    state: str
    columns: Sequence[str]
    counts: ImportCounts
    fault_count: int
    is_cut: bool
    is_partial: bool
    reason: str
    admin_id: str | None
    by: str  # the admin who sent the file; empty for a command
    created_at: datetime
    ended_at: datetime | None
    switched_at: datetime | None
    done: int
    total: int
    seconds_left: int | None  # of the work under way, estimated
    undo_fault: str  # why a requested undo could not be done
    undo_met: Sequence[int] | None  # the first staged rows whose customers prevented it
    is_notifying: bool

    @property
    def is_at_work(self) -> bool:
        """Report whether work goes on in the background."""
        return self.state in WORK

    @property
    def may_start(self) -> bool:
        """Report whether all of it, or a part, could be imported now."""
        return self.state == CHECKED and not self.is_cut and bool(self.counts.new or self.counts.changed)

    @property
    def may_be_mapped(self) -> bool:
        """Report whether its columns may be named, or named again."""
        return self.state in (UPLOADED, CHECKED, FAILED)

    @property
    def percent(self) -> int:
        """Return the share of the work under way that is done."""
        return min(100, self.done * 100 // self.total) if self.total else 0


class FaultCause(NamedTuple):
    """What is wrong in the same way in several rows. Row 0 is the whole file, an empty column the whole row."""

    column: str
    reason: str
    rows: Sequence[int]


class Imports:
    """Receive files, start imports and undo them. ``admin_id`` is the admin who acts."""

    def __init__(
        self, transactions: Transactions, journeys: Journeys, notices: Notices, wake: Callable[[], None]
    ) -> None:
        self._transactions = transactions
        self._journeys = journeys
        self._wake = wake
        self._notices = ImportNotices(transactions, notices)

    def receive(self, source: IO[bytes], file_name: str, *, admin_id: str, sheet: str = "") -> str:
        """Store a file as CSV, sealed part by part; return its id. Raise Problem if no table can be read from it.

        ``sheet`` is the name or number of a workbook's sheet; "" is the first.
        """
        try:
            table = open_table(source, sheet)
        except FileRefused as refusal:
            raise Problem("import_unreadable", status=422, reason=str(refusal)) from None
        lines, last = 0, ""
        while piece := table.text.read(PART):
            lines, last = lines + (piece.count("\n") or piece.count("\r")), piece[-1]
        lines -= last in ("\r", "\n")
        if lines <= 0:
            raise Problem("import_unreadable", status=422, reason="; it ".join([REASONS["empty"], *table.notes]))
        table.text.seek(0)
        name = "".join(char for char in re.split(r"[/\\]", file_name)[-1] if char.isprintable())
        facts = {"file_name": name[:120] or "customers.csv", "region": self._region(), "admin_id": admin_id}
        counts = ImportCounts(file_notes=table.notes).as_json()
        with self._transactions.write() as work:
            values = new_import(work, is_attended=False, **facts, counts=counts)
            work.execute(insert(ImportRow), values)
        import_id = str(values["id"])
        store_file(self._transactions, import_id, table.text)
        with self._transactions.write() as work:
            move(work, import_id, UPLOADED, rows=lines)
            work.record("customers_import_uploaded", admin_id=admin_id, import_id=import_id)
        return import_id

    def _region(self) -> str:
        return self._journeys.current().portal.default_region

    def header(self, import_id: str) -> list[str]:
        """Return what the file itself calls its columns; nothing if it is no longer stored."""
        if not has_file(self._transactions, import_id):
            return []
        return read_header(open_file(self._transactions, import_id))

    def samples(self, import_id: str, columns: Sequence[str]) -> list[str | None]:
        """Return the first values of each column in a line; None for a column that no page may show.

        Nothing if the file is no longer stored. ``columns`` are the fields that they are, or seem to be.
        """
        return read_samples(open_file(self._transactions, import_id), columns) if columns else []

    def guesses(self, header: Sequence[str]) -> list[str]:
        """Return the field that each column of a file seems to be; "" if none fits."""
        return guesses(header)

    def name_columns(self, import_id: str, columns: Sequence[str]) -> dict[str, str]:
        """Name the field of each column of the file ("" is not imported), and have the file checked.

        Return what is wrong, by field; then nothing has changed. Raise Problem if it is too late.
        """
        if found := column_faults(columns):
            return found
        if not has_file(self._transactions, import_id):
            raise Problem("import_file_gone", status=410)
        file_notes = self.get(import_id).counts.file_notes
        fresh = {
            "counts": ImportCounts(file_notes=file_notes).as_json(),
            "fault_count": 0,
            "is_cut": False,
            "total": ImportRow.rows,
        }
        with self._transactions.write() as work:
            move(work, import_id, CHECKING, columns=list(columns), region=self._region(), **fresh)
        self._wake()
        return {}

    def start(self, import_id: str, *, is_partial: bool, is_notifying: bool, admin_id: str) -> None:
        """Have a checked import done.

        Raise Problem if it cannot be, if it has faults and is not to be partial, and if notifying the customers would
        take too many days.
        """
        found = self.get(import_id)
        if not found.may_start:
            raise Problem("import_moved_on", status=409)
        if found.fault_count and not is_partial:
            raise Problem("import_has_faults", status=422)
        if is_notifying and days_of(self.routes(found)) > LONGEST.days:
            raise Problem("import_telling_long", status=422)
        with self._transactions.write() as work:
            chosen = {"is_partial": is_partial, "is_telling": is_notifying}
            move(work, import_id, IMPORTING, **chosen, total=found.counts.plain)
            work.record("customers_import_started", admin_id=admin_id, import_id=import_id, partial=is_partial)
        self._wake()

    def cancel(self, import_id: str, *, admin_id: str) -> None:
        """Cancel an import before its switch: no customer was changed. Raise Problem if it is too late."""
        with self._transactions.write() as work:
            move(work, import_id, CANCELLED)
            work.record("customers_import_cancelled", admin_id=admin_id, import_id=import_id)

    def routes(self, found: Import) -> list[NoticeRoute]:
        """Return how the notices of this import would leave, by today's channels."""
        return self._notices.routes(found.counts.messages)

    def may_undo(self, found: Import) -> bool:
        """Report whether it is the last import that changed customers, and not too old."""
        if found.state not in (DONE, TELLING) or found.switched_at is None:
            return False
        with self._transactions.read() as work:
            if work.now - found.switched_at > UNDO_PERIOD:
                return False
            newest = work.execute(select(func.max(ImportRow.switched_at))).scalar_one()
        return bool(newest == found.switched_at)

    def undo(self, import_id: str, *, admin_id: str) -> None:
        """Have an import undone, all of it or nothing; its notices stop.

        Raise Problem if it is not the last import, or too old.
        """
        if not self.may_undo(self.get(import_id)):
            raise Problem("import_undo_over", status=409)
        again = {"undo_fault": "", "undo_met": None, "is_attended": False, "total": 0}
        with self._transactions.write() as work:
            move(work, import_id, UNDOING, undone_by=admin_id, **again)
            work.record("customers_import_undo_asked", admin_id=admin_id, import_id=import_id)
        self._wake()

    def blocking_undo(self, found: Import) -> list[str]:
        """Return the customers that the undo met changed, at most some; nothing if an older version refused it."""
        if found.undo_fault != CHANGED or found.undo_met is None:
            return []
        return staging.ids_of(self._transactions, found.id, found.undo_met) or [GONE]

    # --- Looking

    def get(self, import_id: str) -> Import:
        """Return one import. Raise NotFound."""
        with self._transactions.read() as work:
            row = work.execute(_IMPORTS.where(ImportRow.id == import_id)).one_or_none()
        if row is None:
            raise NotFound("import_unknown")
        return _import(work, row)

    def page(self, before: str = "") -> list[Import]:
        """Return a page of the imports, the newest first; with ``before`` those that began before that import."""
        is_nothing = (ImportRow.state == CANCELLED) & (ImportRow.rows == 0)  # a file that could not be read
        wanted = _IMPORTS.where(~is_nothing).order_by(ImportRow.id.desc()).limit(PAGE + 1)
        if before:
            wanted = wanted.where(ImportRow.id < before)
        with self._transactions.read() as work:
            return [_import(work, row) for row in work.execute(wanted).all()]

    def fault_causes(self, import_id: str, most: int) -> list[FaultCause]:
        """Return the first faults of an import by what is wrong, in the order in which they were found."""
        rows: dict[tuple[str, str], list[int]] = {}
        for _number, fault in faults_after(self._transactions, import_id, most=most):
            reason = re.sub(r"\brow \d+", "an earlier row", fault.reason)
            rows.setdefault((fault.column, reason), []).append(fault.row)
        return [FaultCause(column, reason, found) for (column, reason), found in rows.items()]

    def all_faults(self, import_id: str) -> Iterator[RowFault]:
        """Yield every stored fault."""
        after = -1
        while some := faults_after(self._transactions, import_id, after):
            after = some[-1][0]
            yield from (fault for _number, fault in some)


_IMPORTS = select(*table_of(ImportRow).c, Admin.name.label("by")).outerjoin(Admin, Admin.id == ImportRow.admin_id)


def _import(work: Work, row: Any) -> Import:
    seconds_left = None
    if row.state in WORK and row.began_at is not None and row.done >= FEWEST_FOR_A_GUESS and row.total > row.done:
        seconds_left = int((work.now - row.began_at).total_seconds() * (row.total - row.done) / row.done)
    same = {field.name: getattr(row, field.name) for field in fields(Import) if hasattr(row, field.name)}
    derived = {"counts": ImportCounts.from_json(row.counts), "by": row.by or "", "seconds_left": seconds_left}
    return Import(**same | derived | {"is_notifying": row.is_telling})


# --- By a command


@dataclass(frozen=True)
class ImportReport:
    """What an import did, or in a dry run would do. With faults nothing was written."""

    is_dry_run: bool
    new: int = 0
    changed: int = 0
    equal: int = 0
    columns: Mapping[str, Tally] = field(default_factory=dict)
    countries: Mapping[str, int] = field(default_factory=dict)  # how many phone numbers of the file are in each
    warnings: Sequence[str] = ()  # sentences
    errors: tuple[RowFault, ...] = ()
    error_count: int = 0
    recontacted: int = 0  # customers whose phone number or email address changes
    routes: tuple[NoticeRoute, ...] = ()  # how the notices to them leave
    is_notifying: bool = False

    @property
    def lines(self) -> list[str]:
        """Return the report for the operator. The first thousand faults are listed, all are counted."""
        if self.error_count:
            rest = self.error_count - len(self.errors)
            listed = [str(fault) for fault in self.errors] + ([f"and {rest} more"] if rest else [])
            noun = "fault" if self.error_count == 1 else "faults"
            return [f"Nothing was imported: {self.error_count} {noun}.", *self.warnings, *listed]
        verb = "Dry run, nothing was imported" if self.is_dry_run else "Imported"
        rows = f"{self.new} new customer{'' if self.new == 1 else 's'}, {self.changed} changed, {self.equal} equal"
        columns = (f"  {column}: {tally}" for column, tally in self.columns.items())
        lines = [f"{verb}: {rows}.", *columns]
        if self.countries:
            lines.append(
                "  phone numbers by country: "
                + ", ".join(f"{number} {name}" for name, number in self.countries.items())
            )
        lines += [f"  {warning}" for warning in self.warnings]
        if not self.routes:
            return lines
        who = f"{customers_word(self.recontacted)} whose phone number or email address changes"
        if not self.is_dry_run and not self.is_notifying:
            return [*lines, f"Not notified: {who}. All owners get a mail that says so."]
        verb = "With --notify the portal notifies" if self.is_dry_run else "The portal now notifies"
        lines += [f"{verb} {who}, at the old and the new one:", *(f"  {route}" for route in self.routes)]
        if any(route.carries == "sms" for route in self.routes):
            lines.append("  What an SMS costs is between you and its provider: the portal does not know it.")
        return lines


class CommandImport:
    """Import whole files, with every core hashing."""

    def __init__(self, transactions: Transactions, passwords: Passwords, notices: Notices) -> None:
        self._transactions = transactions
        self._passwords = passwords
        self._work = ImportWork(transactions, passwords, notices, threads=os.cpu_count() or 1)
        self._notices = ImportNotices(transactions, notices)

    def import_csv(
        self, source: Source, *, default_region: str, dry_run: bool, is_notifying: bool = False, sheet: str = ""
    ) -> ImportReport:
        """Bring the directory to what the file says, or with any faulty row change nothing and report why.

        ``sheet`` is the name or number of a workbook's sheet. With ``is_notifying`` the serving processes notify
        customers whose contacts change. Plain passwords take about 25 ms of one core each. Raise OSError for a file
        that cannot be read, and Misconfigured if another admin or program changed the same customers in the meantime,
        or if the notices would take too many days.
        """
        try:
            table = open_table(source, sheet)
        except FileRefused as refusal:
            return ImportReport(dry_run, errors=(RowFault(0, "", str(refusal)),), error_count=1)
        counts = ImportCounts(file_notes=table.notes)
        if dry_run:
            findings, first = CsvFindings(), list[RowFault]()
            for plans, faults in self._work.compare(table.text, findings, default_region, same=self._has_password):
                count(counts, findings, plans)
                first += faults
            return self._report(counts, findings, first, dry_run=True)
        file_name = source.name[:120] if isinstance(source, Path) else ""
        held = self._begin(file_name, default_region, is_telling=is_notifying, counts=counts.as_json())
        try:
            findings, first = self._work.check(held, table.text)
            if findings.fault_count:
                return self._report(counts, findings, first, dry_run=False)
            messages = ImportCounts.from_json(self._row(held.id).counts).messages
            if is_notifying and (days := days_of(self._notices.routes(messages))) > LONGEST.days:
                raise Misconfigured(
                    f"Notifying the customers would take about {days} days under the daily caps of the channels, more "
                    f"than {LONGEST.days}; nothing was imported. Raise the caps, split the file, or leave out --notify."
                )
            with self._transactions.write() as work:
                move(work, held.id, IMPORTING)
            again = take(self._transactions, held.id)
            if again is None:
                raise Misconfigured("The import was cancelled in the meantime; nothing was imported.")
            counts = self._work.bring_in(again)
            if self._row(held.id).state == FAILED:
                raise Misconfigured(
                    "The same customers were changed in the meantime; nothing was imported. Import the file again."
                )
            return self._report(counts, findings, first, dry_run=False, is_notifying=is_notifying)
        finally:
            self._end(held.id)

    def _has_password(self, stored: StoredCustomer, plain: str) -> bool:
        return stored.has_password(plain, self._passwords)

    def _report(
        self,
        counts: ImportCounts,
        findings: CsvFindings,
        first: list[RowFault],
        *,
        dry_run: bool,
        is_notifying: bool = False,
    ) -> ImportReport:
        if findings.fault_count:
            return ImportReport(
                dry_run,
                warnings=ImportCounts(file_notes=counts.file_notes).warnings,
                errors=tuple(first[:FAULTS_REPORTED]),
                error_count=findings.fault_count,
            )
        return ImportReport(
            is_dry_run=dry_run,
            new=counts.new,
            changed=counts.changed,
            equal=counts.equal,
            columns=counts.columns,
            countries=counts.by_country,
            warnings=counts.warnings,
            recontacted=counts.notified,
            routes=tuple(self._notices.routes(counts.messages)),
            is_notifying=is_notifying,
        )

    def _begin(self, file_name: str, region: str, **values: Any) -> ImportClaim:
        with self._transactions.write() as work:
            lease = work.new_id()
            facts = {"file_name": file_name, "region": region, "is_attended": True, **values}
            held = {"lease": lease, "leased_until": work.now + timedelta(seconds=LEASE_SECONDS)}
            values = new_import(work, **facts, **held)
            columns = table_of(ImportRow).c
            row = work.execute(insert(ImportRow).values(values | {"state": CHECKING}).returning(*columns)).one()
        return ImportClaim(row, lease)

    def _row(self, import_id: str) -> Any:
        with self._transactions.read() as work:
            return work.execute(table_of(ImportRow).select().where(ImportRow.id == import_id)).one()

    def _end(self, import_id: str) -> None:
        """Cancel what was not switched, for whatever reason, and remove what is stored of it."""
        unfinished = [state for state, targets in NEXT.items() if CANCELLED in targets and state not in SWITCHED]
        with self._transactions.write() as work:
            work.execute(
                update(ImportRow)
                .where(ImportRow.id == import_id, ImportRow.state.in_(unfinished))
                .values(state=CANCELLED, ended_at=work.now, lease=None, leased_until=None)
            )
        self._work.tidy()
