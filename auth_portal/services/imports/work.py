"""The work on an import: its file is read and staged, its passwords hashed, then it is switched, and perhaps undone.

Everything before the switch is short transactions that touch only the import's own tables, so that a worker killed
there has changed no customer; the switch is one transaction, and its result commits with it. Passwords are hashed
within the slots of the process, and people who sign in go first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TextIO

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from auth_portal.crypto import Passwords
from auth_portal.methods.password import is_long
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.imports import staging
from auth_portal.services.imports.csv import FAULTS_REPORTED, CsvFindings, RowFault, read_rows
from auth_portal.services.imports.notify import LONGEST, ImportNotices, NoRoom, count_notified, customers_word
from auth_portal.services.imports.staging import (
    BATCH,
    BITS,
    Comparison,
    ImportCounts,
    RowPlan,
    SamePassword,
    Tally,
    is_same_password,
)
from auth_portal.services.imports.store import (
    CANCELLED,
    CHECKED,
    CHECKING,
    DONE,
    FAILED,
    FAULTS_STORED,
    IMPORTING,
    MOST_ATTEMPTS,
    RECEIVING,
    RETELLING,
    TELLING,
    UNDOING,
    UNDONE,
    UPLOADED,
    WAITING_PERIOD,
    ImportClaim,
    add_faults,
    claim,
    finish,
    has_file,
    hold,
    open_file,
    put_aside,
    remove_rows,
    remove_unneeded,
)
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import CUSTOMER_PASSWORD, IMPORT_ROW_PLAIN, ImportFault, ImportRow, StagedRow

MOST_ROWS = 120_000  # of one file from a page: the switch of many more would keep other writers waiting for 2 s
HASHES_AT_ONCE = 16  # passwords settled in one transaction: under half a second of one core
SWITCH_TRIES = 5
OTHER_RULE = "customer IDs have become case-sensitive, or no longer are, since the file was checked; check it again"
CHANGED_MEANWHILE = "was changed by another admin or program in the meantime"
# Why an undo could not be done: customers or links changed, a newer import, or too many attempts.
CHANGED, LINKS, OVER, TRIED = "changed", "links", "over", "tried"
MET_MOST = 10  # changed customers that an undo names


class WorkerStop(Exception):
    """The process ends; the import waits for the next one."""


class SwitchConflict(Exception):
    """Customers of this import were changed since they were compared: rolls the switch back."""


class UndoRefusal(Exception):
    """Rolls an undo back; its text is the reason."""


class ImportWork:
    """Do the work of imports, whether a page or a command asked for them."""

    def __init__(
        self,
        transactions: Transactions,
        passwords: Passwords,
        notices: Notices,
        *,
        threads: int = 1,
        is_aside: bool = False,
    ) -> None:
        """Prepare the work. ``is_aside``: the process serves people, who go first. ``threads`` hash in parallel."""
        self._transactions = transactions
        self._passwords = passwords
        self._notices = notices
        self._threads = threads
        self._is_aside = is_aside
        self._is_stopping: Callable[[], bool] = lambda: False
        self._comparison = Comparison(transactions)
        self._import_notices = ImportNotices(transactions, notices)
        self._works: Mapping[str, Callable[[ImportClaim], object]] = {
            CHECKING: self._check_stored,
            IMPORTING: self.bring_in,
            TELLING: self.notify,
            UNDOING: self.undo,
            RETELLING: self.notify_of_undo,
        }

    def stop_when(self, is_stopping: Callable[[], bool]) -> None:
        """Stop between two batches when ``is_stopping`` returns True."""
        self._is_stopping = is_stopping

    def work_once(self) -> bool:
        """Take up one import and bring it into its next state; return False if none waits.

        Raise LostLease if another worker took it over, and WorkerStop.
        """
        held = claim(self._transactions)
        if held is None:
            return False
        if held.row.attempts > MOST_ATTEMPTS:
            self._give_up(held)
            return True
        try:
            self._works[held.row.state](held)
        except WorkerStop:
            put_aside(self._transactions, held, timedelta(seconds=-1))
            raise
        return True

    def _give_up(self, held: ImportClaim) -> None:
        if held.row.state == UNDOING:
            self._refuse_undo(held, TRIED)
            return
        end = {TELLING: DONE, RETELLING: UNDONE}.get(held.row.state, FAILED)
        with self._transactions.write() as work:
            finish(work, held, end, reason=f"was started {MOST_ATTEMPTS} times and never finished")

    # --- Reading, comparing, staging

    def _check_stored(self, held: ImportClaim) -> None:
        if not has_file(self._transactions, held.id):
            self._fail(held, "the file is no longer stored; send it again")
            return
        source = open_file(self._transactions, held.id)
        self.check(held, source, columns=held.row.columns, most_rows=MOST_ROWS)

    def check(
        self, held: ImportClaim, source: TextIO, *, columns: Sequence[str] | None = None, most_rows: int | None = None
    ) -> tuple[CsvFindings, list[RowFault]]:
        """Read a file, stage what it changes and count it; return what was found and the first faults.

        Raise OSError if the file cannot be read, LostLease, WorkerStop.
        """
        for _batch in remove_rows(self._transactions, held.id, StagedRow, ImportFault):  # of an attempt that was killed
            self._stop_if_asked()
            with self._transactions.write() as work:
                hold(work, held)
        self._comparison.learn_id_rule()
        first: list[RowFault] = []
        findings = CsvFindings(most_faults=FAULTS_STORED)
        counts = ImportCounts(file_notes=ImportCounts.from_json(held.row.counts).file_notes)
        for plans, faults in self.compare(source, findings, held.row.region, columns=columns, most_rows=most_rows):
            count(counts, findings, plans)
            self._stop_if_asked()
            rows = self._comparison.staged(held.id, plans, self._transactions.clock())
            with self._transactions.write() as work:
                hold(work, held, done=findings.row - 1, fault_count=findings.fault_count)
                if rows:
                    work.execute(insert(StagedRow), rows)
                add_faults(work, held.id, findings.fault_count - len(faults), faults)
            first += faults[: FAULTS_REPORTED - len(first)]
        with self._transactions.write() as work:
            result = {"counts": counts.as_json(), "fault_count": findings.fault_count, "is_cut": findings.is_cut}
            finish(work, held, CHECKED, **result)
        return findings, first

    def compare(
        self,
        source: TextIO,
        findings: CsvFindings,
        region: str,
        *,
        columns: Sequence[str] | None = None,
        most_rows: int | None = None,
        same: SamePassword | None = None,
    ) -> Iterator[tuple[list[RowPlan], list[RowFault]]]:
        """Yield batch by batch what a file's rows change, and what is wrong with the others. Writes nothing."""
        key_of = self._comparison.key_of
        rows = read_rows(
            source,
            findings,
            region=region,
            key_of=key_of,
            columns=columns,
            most_rows=most_rows,
            gives_way=self._is_aside,
        )
        for count_read, _row in enumerate(rows, 1):
            if count_read % BATCH == 0:
                yield self._comparison.safe_plans(findings, same=same)
        yield self._comparison.safe_plans(findings, same=same)

    # --- Hashing

    def bring_in(self, held: ImportClaim) -> ImportCounts:
        """Hash what waits to be hashed, then switch; return the counts as they turned out.

        If customers were changed in the meantime, the import has failed, or they are left out. Raise LostLease,
        WorkerStop.
        """
        counts = ImportCounts.from_json(held.row.counts)
        if counts.plain:
            self._hash_all(held, counts)
        self._switch(held, counts)
        return counts

    def _hash_all(self, held: ImportClaim, counts: ImportCounts) -> None:
        place, done = held.row.place, held.row.done
        waiting = (
            select(StagedRow.__table__)
            .where(StagedRow.import_id == held.id, StagedRow.plain_sealed.is_not(None))
            .order_by(StagedRow.number)
            .limit(HASHES_AT_ONCE)
        )
        with ThreadPoolExecutor(self._threads) as pool:
            while True:
                with self._transactions.read() as work:
                    rows = work.execute(waiting.where(StagedRow.number > place)).all()
                if not rows:
                    return
                self._stop_if_asked()
                hashed = list(pool.map(self._hash, rows))
                place, done = rows[-1].number, done + len(rows)
                for row, values in zip(rows, hashed, strict=True):
                    if "password_hash" not in values:
                        counts.found_equal(row_is_equal=row.sets == BITS["password"])
                with self._transactions.write() as work:
                    hold(work, held, place=place, done=done, counts=counts.as_json())
                    for row, values in zip(rows, hashed, strict=True):
                        this = (StagedRow.import_id == row.import_id, StagedRow.number == row.number)
                        if values.get("sets") == 0:
                            work.execute(delete(StagedRow).where(*this))
                        else:
                            work.execute(update(StagedRow).where(*this).values(**values))

    def _hash(self, row: Any) -> dict[str, Any]:
        """Return the changes of a staged row once its password is hashed; no hash if it is the stored password."""
        if self._is_aside:
            self._passwords.let_people_go_first()
        keyring, before = self._transactions.keyring, None
        plain = keyring.open(row.plain_sealed, IMPORT_ROW_PLAIN, row.customer_row)
        if row.old_password_hash is not None:
            before = keyring.open(row.old_password_hash, CUSTOMER_PASSWORD, row.customer_row)
        if is_same_password(self._passwords, before, row.old_password_is_long, plain):
            return {"plain_sealed": None, "sets": row.sets & ~BITS["password"]}
        hashed = keyring.seal(self._passwords.hash(plain), CUSTOMER_PASSWORD, row.customer_row)
        return {"plain_sealed": None, "password_hash": hashed, "password_is_long": is_long(plain)}

    # --- The switch

    def _switch(self, held: ImportClaim, counts: ImportCounts) -> None:
        for _try in range(SWITCH_TRIES):
            staged = staging.measure_extent(self._transactions, held.id)
            if staged.is_of_other_rule:
                self._fail(held, OTHER_RULE)
                return
            try:
                with self._transactions.write_much() as work:
                    self._switch_once(work, held, counts, staged)
                return
            except (SwitchConflict, IntegrityError):
                rows = staging.overtaken(self._transactions, held.id, staged)
            if rows and not held.row.is_partial:
                who = customers_word(len(rows))
                self._fail(held, f"{who} of this file {'was' if len(rows) == 1 else 'were'} changed in the meantime")
                return
            self._leave_out(held, counts, rows)
        self._fail(held, "its customers were changed again and again in the meantime")

    def _switch_once(self, work: Work, held: ImportClaim, counts: ImportCounts, staged: staging.Extent) -> None:
        notifies = held.row.is_telling and counts.all_messages > 0
        switched: dict[str, Any] = {"switched_at": work.now} if staged.rows else {}
        # Notices may take days: for an import by a command the serving processes send them.
        switched |= {"total": counts.notified, "is_attended": False} if notifies else {}
        finish(work, held, TELLING if notifies else DONE, counts=counts.as_json(), **switched)
        if not staged.rows:
            return
        if staging.switch(work, held.id, staged) < staged.rows:
            raise SwitchConflict
        facts: dict[str, Any] = {"new": counts.new, "changed": counts.changed, "equal": counts.equal}
        if counts.left_out:
            facts["left_out"] = counts.left_out
        work.record("customers_imported", admin_id=held.row.admin_id, **facts)
        self._notices.customer_changed(work, "", None, "imported")
        if counts.all_messages and not notifies:
            lines = [
                f"The file {held.row.file_name} changed the phone number or email address of"
                f" {customers_word(counts.notified)}. They were not notified.",
                "If none of you meant this, undo the import on its page.",
            ]
            self._notices.to_owners(work, "an import changed contacts of customers", lines)

    def _leave_out(self, held: ImportClaim, counts: ImportCounts, rows: Sequence[Any]) -> None:
        counts.leave_out(sum(row.is_new for row in rows), sum(not row.is_new for row in rows))
        faults = [RowFault(row.number, "", CHANGED_MEANWHILE) for row in rows]
        with self._transactions.write() as work:
            hold(work, held, fault_count=held.row.fault_count + counts.left_out)
            add_faults(work, held.id, held.row.fault_count + counts.left_out - len(rows), faults)
            for row in rows:
                work.execute(delete(StagedRow).where(StagedRow.import_id == held.id, StagedRow.number == row.number))

    # --- Notices

    def notify(self, held: ImportClaim) -> None:
        """Notify every customer whose phone number or email address was changed, at the old and the new one (R13)."""
        self._notify(held, DONE)

    def notify_of_undo(self, held: ImportClaim) -> None:
        """Notify those who were notified of the import that it was undone."""
        self._notify(held, UNDONE)

    def _notify(self, held: ImportClaim, end: str) -> None:
        reason = ""
        try:
            for _batch in self._import_notices.send(held, is_undone=end == UNDONE):
                self._stop_if_asked()
        except NoRoom as full:
            if self._transactions.clock() - held.row.began_at < LONGEST:
                put_aside(self._transactions, held, full.pause, full.reason)
                return
            reason = f"has waited {LONGEST.days} days for room under the daily caps of its channels"
        with self._transactions.write() as work:
            finish(work, held, end, reason=reason)
            if reason:
                lines = [f"Customers of the file {held.row.file_name} are no longer notified: it {reason}."]
                self._notices.to_owners(work, "customers were not notified of an import", lines)

    # --- The undo

    def undo(self, held: ImportClaim) -> None:
        """Take an import back, all of it, or nothing and the import says why. Raise LostLease.

        Those who were notified of the import are notified of the undo. If none was, all owners get a mail.
        """
        staged = staging.measure_extent(self._transactions, held.id)
        with self._transactions.read() as work:
            notified = count_notified(work, held.id, held.row.told_to)
        try:
            with self._transactions.write_much() as work:
                self._undo_once(work, held, staged, notified)
        except IntegrityError:
            self._refuse_undo(held, LINKS)
        except UndoRefusal as refusal:
            met = None
            if str(refusal) == CHANGED:  # looked for once, here: pages show them while another customer is saved
                switched_at = held.row.switched_at
                rows = staging.changed_since(self._transactions, held.id, switched_at, staged, MET_MOST)
                met = [row.number for row in rows]
            self._refuse_undo(held, str(refusal), met)

    def _undo_once(self, work: Work, held: ImportClaim, staged: staging.Extent, notified: int) -> None:
        switched_at = held.row.switched_at
        if work.execute(select(func.max(ImportRow.switched_at))).scalar_one() != switched_at:
            raise UndoRefusal(OVER)
        finish(work, held, RETELLING if notified else UNDONE, total=notified)
        if staging.undo(work, held.id, switched_at, staged) < staged.rows:
            raise UndoRefusal(CHANGED)
        facts: dict[str, Any] = {"import_id": held.id, "customers": staged.rows}
        work.record("customers_import_undone", admin_id=held.row.undone_by, **facts)
        self._notices.customer_changed(work, "", None, "imported")
        counts = ImportCounts.from_json(held.row.counts)
        if not notified and counts.notified:
            lines = [
                f"The import of the file {held.row.file_name} was undone, and with it the change of the phone number or"
                f" email address of {customers_word(counts.notified)}. They were notified of neither."
            ]
            self._notices.to_owners(work, "an import that changed contacts was undone", lines)

    def _refuse_undo(self, held: ImportClaim, fault: str, met: Sequence[int] | None = None) -> None:
        """Leave the import as it was before the undo was requested; ``met`` are the rows that were in its way.

        Raise LostLease.
        """
        row, counts = held.row, ImportCounts.from_json(held.row.counts)
        values = {"undo_fault": fault, "undo_met": met, "ended_at": row.ended_at}
        with self._transactions.write() as work:
            if row.is_telling and counts.notified:  # it may have been under way, and otherwise has none left to notify
                done = count_notified(work, held.id, row.told_to)
                values |= {"place": row.told_to, "done": done, "total": counts.notified}
            finish(work, held, TELLING if "place" in values else DONE, **values)

    # --- Housekeeping

    def tidy(self) -> None:
        """End what was abandoned, and remove what is no longer needed."""
        now = self._transactions.clock()
        waits = ImportRow.state.in_((RECEIVING, UPLOADED, CHECKED, FAILED)) & (
            ImportRow.created_at < now - WAITING_PERIOD
        )
        # A command that was killed: no other worker takes over what it was working on.
        left = ImportRow.is_attended & ImportRow.state.in_((CHECKING, CHECKED, IMPORTING))
        left &= or_(ImportRow.leased_until.is_(None), ImportRow.leased_until < now)
        left &= ImportRow.created_at < now - timedelta(minutes=1)
        with self._transactions.read() as work:
            over = work.execute(select(ImportRow.id).where(or_(waits, left))).scalars().all()
        if over:
            ended = {"state": CANCELLED, "ended_at": now, "lease": None, "leased_until": None, "reason": "abandoned"}
            with self._transactions.write() as work:
                work.execute(update(ImportRow).where(ImportRow.id.in_(over), or_(waits, left)).values(ended))
        remove_unneeded(self._transactions, now)

    def _fail(self, held: ImportClaim, reason: str) -> None:
        with self._transactions.write() as work:
            finish(work, held, FAILED, reason=reason)

    def _stop_if_asked(self) -> None:
        if self._is_stopping():
            raise WorkerStop


def count(counts: ImportCounts, findings: CsvFindings, plans: Iterable[RowPlan]) -> None:
    """Add what rows change; every column of the file is counted, also one without any value."""
    for name in findings.columns:
        if name:
            counts.columns.setdefault(name, Tally())
    counts.notes = findings.notes
    for plan in plans:
        counts.add(plan)
