"""The work on an import: reading and staging its file, hashing its passwords, switching, telling customers.

Everything before the switch is short transactions that touch only the import's own tables, so that whoever is killed
there has changed nothing; the switch is one transaction, and its result commits with it. Passwords are hashed within
the process's own slots, and people who sign in go first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords
from auth_portal.methods.password import is_long
from auth_portal.services import audit
from auth_portal.services.imports import switch
from auth_portal.services.imports.customers_csv import FAULTS_TOLD, Reading, RowFault, Source, read_rows
from auth_portal.services.imports.files import (
    FAULTS_KEPT,
    WAITING_KEPT,
    add_faults,
    forget,
    has_parts,
    open_parts,
    tidy,
)
from auth_portal.services.imports.staging import (
    BATCH,
    BITS,
    Comparison,
    Counts,
    Plan,
    Same,
    Tally,
    open_plain,
    same_password,
    sealed_password,
)
from auth_portal.services.imports.states import (
    CANCELLED,
    CHECKED,
    CHECKING,
    DONE,
    FAILED,
    IMPORTING,
    MOST_ATTEMPTS,
    RECEIVING,
    RETELLING,
    TELLING,
    UNDOING,
    UNDONE,
    UPLOADED,
    Claim,
    claim,
    finish,
    hold,
    put_aside,
)
from auth_portal.services.imports.telling import LONGEST, Notices, NotNow, Telling, customers_word
from auth_portal.services.imports.undoing import TRIED, Undoing
from auth_portal.store.db import Database, new_id
from auth_portal.store.models import ImportFault, ImportRow, StagedRow

MOST_ROWS = 120_000  # of one file from a page: the switch of many more would keep other writers waiting for 2 s
BREATH_ROWS = 20  # read between two breaths, about 3 ms, so that requests of the same process go on
BREATH_SECONDS = 0.0005
HASHES_AT_ONCE = 16  # passwords settled in one transaction: under half a second of one core
SWITCH_TRIES = 5
CHANGED_MEANWHILE = "was changed by somebody else meanwhile"


class Stopped(Exception):
    """This process ends; the import waits for the next one."""


class Overtaken(Exception):
    """Customers of this import were changed since they were compared: rolls the switch back."""


class ImportWork:
    """Does the work of imports, whoever asked for them: a page, or a command."""

    def __init__(
        self, database: Database, keyring: Keyring, passwords: Passwords, clock: Clock, notices: Notices | None = None,
        *, threads: int = 1, is_aside: bool = False,
    ) -> None:  # fmt: skip
        """``is_aside``: the process has people to serve, who go first. ``threads`` hash at the same time."""
        self._database = database
        self._keyring = keyring
        self._passwords = passwords
        self._clock = clock
        self._notices = notices
        self._threads = threads
        self._is_aside = is_aside
        self._is_stopping: Callable[[], bool] = lambda: False
        self._comparison = Comparison(database, keyring)
        self._telling = None if notices is None else Telling(database, keyring, clock, notices)
        self._undoing = Undoing(database, keyring, clock, notices)
        self._works: Mapping[str, Callable[[Claim], object]] = {
            CHECKING: self._check_parts, IMPORTING: self.bring_in, TELLING: self.tell,
            UNDOING: self._undoing.undo, RETELLING: self.retell,
        }  # fmt: skip

    def stop_when(self, is_stopping: Callable[[], bool]) -> None:
        """Gives up between two batches where this says so."""
        self._is_stopping = is_stopping

    def work_once(self) -> bool:
        """Takes up one import and brings it a state further; False where none waits.

        Raises LostLease where somebody else took it over, and Stopped.
        """
        held = claim(self._database, self._clock())
        if held is None:
            return False
        if held.row.attempts > MOST_ATTEMPTS:
            self._give_up(held)
            return True
        try:
            self._works[held.row.state](held)
        except Stopped:
            put_aside(self._database, held, self._clock() - timedelta(seconds=1))
            raise
        return True

    def _give_up(self, held: Claim) -> None:
        if held.row.state == UNDOING:
            self._undoing.give_back(held, TRIED)
            return
        end = {TELLING: DONE, RETELLING: UNDONE}.get(held.row.state, FAILED)
        with self._database.write() as connection:
            finish(connection, held, end, self._clock(), reason=f"was begun {MOST_ATTEMPTS} times and never finished")

    # --- Reading, comparing, staging -------------------------------------------------------------------------

    def _check_parts(self, held: Claim) -> None:
        if not has_parts(self._database, held.id):
            self._fail(held, "the file is not kept any more; send it again")
            return
        source = open_parts(self._database, self._keyring, held.id)
        self.check(held, source, columns=held.row.columns, most_rows=MOST_ROWS)

    def check(
        self, held: Claim, source: Source, *, columns: Sequence[str] | None = None, most_rows: int | None = None
    ) -> tuple[Reading, list[RowFault]]:
        """Reads a file, stages what it changes and counts it; gives what was found and the first faults.

        Raises OSError where the file cannot be read, LostLease, Stopped.
        """
        for _batch in forget(self._database, held.id, StagedRow, ImportFault):  # of an attempt that was killed
            self._hold(held)
        told: list[RowFault] = []
        reading, counts = Reading(faults_kept=FAULTS_KEPT), Counts()
        for plans, faults in self.compared(source, reading, held.row.region, columns=columns, most_rows=most_rows):
            count(counts, reading, plans)
            self._stage(held, reading, counts, plans, faults)
            told += faults[: FAULTS_TOLD - len(told)]
        with self._database.write() as connection:
            found = {"counts": counts.as_json(), "fault_count": reading.fault_count, "is_cut": reading.is_cut}
            finish(connection, held, CHECKED, self._clock(), **found)
        return reading, told

    def compared(
        self, source: Source, reading: Reading, region: str, *, columns: Sequence[str] | None = None,
        most_rows: int | None = None, same: Same | None = None,
    ) -> Iterator[tuple[list[Plan], list[RowFault]]]:  # fmt: skip
        """A file batch by batch: what its rows come to, and what is wrong with the others. Writes nothing."""
        for count_read, _row in enumerate(
            read_rows(source, reading, region=region, columns=columns, most_rows=most_rows), 1
        ):
            self._breathe(count_read)
            if count_read % BATCH == 0:
                yield self._taken(reading, same)
        yield self._taken(reading, same)

    def _taken(self, reading: Reading, same: Same | None) -> tuple[list[Plan], list[RowFault]]:
        entries, faults = reading.take()
        return self._comparison.plans(entries, reading.columns, same=same), faults

    def same(self, plan_stored: Any, plain: str) -> bool:
        """Whether a plain password is the stored one; costs a hash."""
        before = plan_stored.texts.get("password")
        return same_password(self._passwords, before, plan_stored.row["password_is_long"], plain)

    def _stage(
        self, held: Claim, reading: Reading, counts: Counts, plans: Iterable[Plan], faults: Sequence[RowFault]
    ) -> None:
        self._stop_if_asked()
        now = self._clock()
        rows = self._comparison.staged(held.id, plans, now)
        with self._database.write() as connection:
            hold(connection, held, now, done=reading.row - 1, fault_count=reading.fault_count)
            if rows:
                connection.execute(insert(StagedRow), rows)
            add_faults(connection, held.id, reading.fault_count - len(faults), faults)

    # --- Hashing ---------------------------------------------------------------------------------------------

    def bring_in(self, held: Claim) -> Counts:
        """Hashes what waits to be hashed, then switches; gives the counts as they came out.

        Raises LostLease, Stopped. Where customers were changed meanwhile the import has failed, or they are left out.
        """
        counts = Counts.from_json(held.row.counts)
        if counts.plain:
            self._hash_all(held, counts)
        self._switch(held, counts)
        return counts

    def _hash_all(self, held: Claim, counts: Counts) -> None:
        place, done = held.row.place, held.row.done
        with ThreadPoolExecutor(self._threads) as pool:
            while rows := self._waiting(held.id, place):
                self._stop_if_asked()
                settled = list(pool.map(self._settled, rows))
                place, done = rows[-1].number, done + len(rows)
                for row, values in zip(rows, settled, strict=True):
                    if "password_hash" not in values:
                        counts.found_equal(row_is_equal=row.sets == BITS["password"])
                with self._database.write() as connection:
                    hold(connection, held, self._clock(), place=place, done=done, counts=counts.as_json())
                    _settle(connection, rows, settled)

    def _waiting(self, import_id: str, place: int) -> Sequence[Any]:
        waiting = (
            select(StagedRow.__table__)
            .where(StagedRow.import_id == import_id, StagedRow.number > place, StagedRow.plain_sealed.is_not(None))
            .order_by(StagedRow.number)
            .limit(HASHES_AT_ONCE)
        )
        with self._database.read() as connection:
            return connection.execute(waiting).all()

    def _settled(self, row: Any) -> dict[str, Any]:
        """What a staged row becomes when its password is hashed; without one where the stored password is the same."""
        if self._is_aside:
            self._passwords.let_people_go_first()
        plain, before = open_plain(self._keyring, row), None
        if row.old_password_hash is not None:
            before = self._keyring.open(row.old_password_hash, "customers", row.customer_row, "password")
        if same_password(self._passwords, before, row.old_password_is_long, plain):
            return {"plain_sealed": None, "sets": row.sets & ~BITS["password"]}
        hashed = sealed_password(self._keyring, row.customer_row, self._passwords.hash(plain))
        return {"plain_sealed": None, "password_hash": hashed, "password_is_long": is_long(plain)}

    # --- The switch ------------------------------------------------------------------------------------------

    def _switch(self, held: Claim, counts: Counts) -> None:
        for _try in range(SWITCH_TRIES):
            staged = switch.extent(self._database, held.id)
            try:
                with self._database.write_much() as connection:
                    self._switched(connection, held, counts, staged)
                return
            except (Overtaken, IntegrityError):
                rows = switch.overtaken(self._database, held.id, staged)
            if rows and not held.row.is_partial:
                self._fail(held, f"somebody else changed {customers_word(len(rows))} of this file meanwhile")
                return
            self._leave_out(held, counts, rows)
        self._fail(held, "its customers were changed again and again while it was at work")

    def _switched(self, connection: Connection, held: Claim, counts: Counts, staged: switch.Extent) -> None:
        now = self._clock()
        tells = held.row.is_telling and counts.all_messages > 0
        switched: dict[str, Any] = {"switched_at": now} if staged.rows else {}
        # Telling may take days: of an import by a command the serving processes do it.
        switched |= {"total": counts.told, "is_attended": False} if tells else {}
        finish(connection, held, TELLING if tells else DONE, now, counts=counts.as_json(), **switched)
        if not staged.rows:
            return
        if switch.switch(connection, held.id, now, staged) < staged.rows:
            raise Overtaken
        facts: dict[str, Any] = {"new": counts.new, "changed": counts.changed, "equal": counts.equal}
        if counts.left_out:
            facts["left_out"] = counts.left_out
        audit.record(connection, self._keyring, now, "customers_imported", admin_id=held.row.admin_id, **facts)
        if counts.all_messages and not tells and self._notices is not None:
            self._notices.to_owners(connection, now, "an import changed contacts of customers", _untold(held, counts))

    def _leave_out(self, held: Claim, counts: Counts, rows: Sequence[Any]) -> None:
        counts.leave_out(sum(row.is_new for row in rows), sum(not row.is_new for row in rows))
        faults = [RowFault(row.number, "", CHANGED_MEANWHILE) for row in rows]
        with self._database.write() as connection:
            hold(connection, held, self._clock(), fault_count=held.row.fault_count + counts.left_out)
            add_faults(connection, held.id, held.row.fault_count + counts.left_out - len(rows), faults)
            for number in (row.number for row in rows):
                connection.execute(delete(StagedRow).where(StagedRow.import_id == held.id, StagedRow.number == number))

    # --- Telling ---------------------------------------------------------------------------------------------

    def tell(self, held: Claim) -> None:
        """Tells every customer whose phone or e-mail address was changed, at the old one and at the new one (R13)."""
        self._tell(held, DONE)

    def retell(self, held: Claim) -> None:
        """Tells those who were told of the import that it was undone."""
        self._tell(held, UNDONE)

    def _tell(self, held: Claim, end: str) -> None:
        reason = ""
        try:
            for _batch in self._telling.tell(held, is_undone=end == UNDONE) if self._telling is not None else ():
                self._stop_if_asked()
        except NotNow as later:
            if self._clock() - held.row.began_at < LONGEST:
                put_aside(self._database, held, self._clock() + later.pause, later.reason)
                return
            reason = f"has waited {LONGEST.days} days for room under the daily caps of its channels"
        with self._database.write() as connection:
            finish(connection, held, end, now := self._clock(), reason=reason)
            if reason and self._notices is not None:
                lines = [f"Telling customers of the file {held.row.file_name} was given up: it {reason}."]
                self._notices.to_owners(connection, now, "customers were not told of an import", lines)

    # --- Keeping house ---------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Ends what nobody goes on with, and removes what is no longer needed."""
        now = self._clock()
        waits = ImportRow.state.in_((RECEIVING, UPLOADED, CHECKED, FAILED)) & (
            ImportRow.created_at < now - WAITING_KEPT
        )
        # A command that was killed: nobody takes over what it was working on.
        left = ImportRow.is_attended & ImportRow.state.in_((CHECKING, CHECKED, IMPORTING))
        left &= or_(ImportRow.leased_until.is_(None), ImportRow.leased_until < now)
        left &= ImportRow.created_at < now - timedelta(minutes=1)
        with self._database.read() as connection:
            over = connection.execute(select(ImportRow.id).where(or_(waits, left))).scalars().all()
        if over:
            with self._database.write() as connection:
                connection.execute(
                    update(ImportRow)
                    .where(ImportRow.id.in_(over), or_(waits, left))
                    .values(
                        state=CANCELLED, ended_at=now, lease=None, leased_until=None, reason="nobody went on with it"
                    )
                )
        tidy(self._database, now)

    def _fail(self, held: Claim, reason: str) -> None:
        with self._database.write() as connection:
            finish(connection, held, FAILED, self._clock(), reason=reason)

    def _hold(self, held: Claim) -> None:
        self._stop_if_asked()
        with self._database.write() as connection:
            hold(connection, held, self._clock())

    def _stop_if_asked(self) -> None:
        if self._is_stopping():
            raise Stopped

    def _breathe(self, count_read: int) -> None:
        if self._is_aside and count_read % BREATH_ROWS == 0:
            time.sleep(BREATH_SECONDS)


def count(counts: Counts, reading: Reading, plans: Iterable[Plan]) -> None:
    """Adds what rows come to; every column of the file is counted, also one that says nothing."""
    for name in reading.columns:
        if name:
            counts.columns.setdefault(name, Tally())
    for plan in plans:
        counts.add(plan)


def _settle(connection: Connection, rows: Sequence[Any], settled: Sequence[dict[str, Any]]) -> None:
    for row, values in zip(rows, settled, strict=True):
        this = (StagedRow.import_id == row.import_id, StagedRow.number == row.number)
        if values.get("sets") == 0:
            connection.execute(delete(StagedRow).where(*this))
        else:
            connection.execute(update(StagedRow).where(*this).values(**values))


def _untold(held: Claim, counts: Counts) -> list[str]:
    return [
        f"The file {held.row.file_name} changed the phone number or e-mail address of {customers_word(counts.told)}."
        " They were not told.",
        "If nobody among you meant this, take the import back on its page.",
    ]


def new_import(now: datetime, **values: Any) -> dict[str, Any]:
    """The row of an import that begins."""
    return {"id": new_id(now), "state": RECEIVING, "columns": [], "counts": {}, "created_at": now, **values}
