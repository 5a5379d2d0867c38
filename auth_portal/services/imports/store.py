"""What is stored of an import: its state, its file in sealed parts, its faults and staged rows, and how long they stay.

::

    receiving ──▶ uploaded ──▶ checking ──▶ checked ──▶ importing ──▶ telling ──▶ done
                                  ▲ │          │ ▲          │  └───────────────────▲
                                  │ ▼          │ └ (other columns: checking)
                                failed ◀───────┴────────────┘        cancelled ◀── all before the switch

    telling or done ──▶ undoing ──▶ retelling ──▶ undone
         ▲                 │  └────────────────────▲
         └─────────────────┘ (a customer was changed since)

``checking`` reads, compares and stages; ``importing`` hashes passwords and ends with the switch; ``telling`` notifies
customers; ``undoing`` takes the import back, and ``retelling`` notifies those who had been notified. These five are
work: the worker holds a lease and renews it with each batch, in the transaction of that batch, so that of two workers
one writes nothing. The import of a killed worker is taken up when its lease has expired.

A file is never on disk as it was sent: it is cut into parts that are sealed before they are stored.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TextIO

from sqlalchemy import and_, delete, exists, insert, or_, select, tuple_, update

from auth_portal.errors import Problem
from auth_portal.services.imports.csv import RowFault
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import IMPORT_PART_TEXT, ImportFault, ImportPart, ImportRow, StagedRow, table_of

RECEIVING, UPLOADED, CHECKING, CHECKED, IMPORTING = "receiving", "uploaded", "checking", "checked", "importing"
TELLING, DONE, UNDOING, RETELLING, UNDONE = "telling", "done", "undoing", "retelling", "undone"
CANCELLED, FAILED = "cancelled", "failed"
NEXT = {
    RECEIVING: {UPLOADED, CANCELLED},
    UPLOADED: {CHECKING, CANCELLED},
    CHECKING: {CHECKED, FAILED, CANCELLED},
    CHECKED: {CHECKING, IMPORTING, CANCELLED},
    IMPORTING: {TELLING, DONE, FAILED, CANCELLED},
    TELLING: {DONE, UNDOING},
    FAILED: {CHECKING, CANCELLED},
    DONE: {UNDOING},
    UNDOING: {TELLING, DONE, RETELLING, UNDONE},
    RETELLING: {UNDONE},
    UNDONE: set(),
    CANCELLED: set(),
}
WORK = (CHECKING, IMPORTING, TELLING, UNDOING, RETELLING)
SWITCHED = (TELLING, DONE)
LEASE_SECONDS = 30  # much longer than any batch or the switch takes; how long a killed worker's import waits
MOST_ATTEMPTS = 5  # to do one piece of work, before it is given up
PART = 128 * 1024  # characters: sealed and stored in a few milliseconds
FAULTS_STORED = 10_000  # of one import; all are counted
UNDO_PERIOD = timedelta(days=7)
WAITING_PERIOD = timedelta(hours=24)  # how long a file waits for its admin
REMOVED_AT_ONCE = 200  # rows of one removing transaction, which takes about 10 ms


# --- States and leases


class LostLease(Exception):
    """Another worker has this import now, or it was cancelled: nothing more may be written for it."""


@dataclass(frozen=True)
class ImportClaim:
    """An import that this worker may work on."""

    row: Any
    lease: str

    @property
    def id(self) -> str:
        """Return the id of the import."""
        return str(self.row.id)


def new_import(work: Work, **values: Any) -> dict[str, Any]:
    """Return the row of a new import."""
    return {"id": work.new_id(), "state": RECEIVING, "columns": [], "counts": {}, "created_at": work.now, **values}


def move(work: Work, import_id: str, to: str, **values: Any) -> None:
    """Bring an import into another state, for an admin. Raise Problem if its state does not lead there."""
    if not _move(work, import_id, to, None, values):
        raise Problem("import_moved_on", status=409)


def finish(work: Work, held: ImportClaim, to: str, **values: Any) -> None:
    """End a piece of work, for the worker that holds it. Raise LostLease."""
    if not _move(work, held.id, to, held.lease, values):
        raise LostLease


def _move(work: Work, import_id: str, to: str, lease: str | None, values: dict[str, Any]) -> int:
    sources = [state for state, targets in NEXT.items() if to in targets]
    ends = {"ended_at": work.now} if to in (DONE, UNDONE, CANCELLED, FAILED) else {}
    begins = {"began_at": work.now, "done": 0, "place": 0, "attempts": 0} if to in WORK else {}
    statement = update(ImportRow).where(ImportRow.id == import_id, ImportRow.state.in_(sources))
    if lease is not None:
        statement = statement.where(ImportRow.lease == lease)
    values = {"state": to, "lease": None, "leased_until": None, "reason": "", **begins, **ends, **values}
    return work.execute(statement.values(**values)).rowcount


def hold(work: Work, held: ImportClaim, **values: Any) -> None:
    """Renew the lease in the transaction of a batch, and store how far the work has come. Raise LostLease."""
    mine = update(ImportRow).where(ImportRow.id == held.id, ImportRow.lease == held.lease)
    if not work.execute(mine.values(leased_until=work.now + timedelta(seconds=LEASE_SECONDS), **values)).rowcount:
        raise LostLease


def put_aside(transactions: Transactions, held: ImportClaim, pause: timedelta, reason: str = "") -> None:
    """Give an import back unfinished, for ``pause`` at least; the attempt does not count."""
    mine = update(ImportRow).where(ImportRow.id == held.id, ImportRow.lease == held.lease)
    with transactions.write() as work:
        values = {"lease": None, "attempts": held.row.attempts - 1, "reason": reason}
        work.execute(mine.values(**values, leased_until=work.now + pause))


def claim(transactions: Transactions) -> ImportClaim | None:
    """Take up the import that has waited longest, if there is one that no worker has."""
    with transactions.read() as work:
        free = or_(ImportRow.leased_until.is_(None), ImportRow.leased_until < work.now)
        waiting = select(ImportRow.id).where(ImportRow.state.in_(WORK), ImportRow.is_attended.is_(False), free)
        found = work.execute(waiting.order_by(ImportRow.id).limit(1)).scalar_one_or_none()
    return None if found is None else take(transactions, found)


def take(transactions: Transactions, import_id: str) -> ImportClaim | None:
    """Take up this import, if no worker has it."""
    with transactions.write() as work:
        free = or_(ImportRow.leased_until.is_(None), ImportRow.leased_until < work.now)
        lease, until = work.new_id(), work.now + timedelta(seconds=LEASE_SECONDS)
        row = work.execute(
            update(ImportRow)
            .where(ImportRow.id == import_id, ImportRow.state.in_(WORK), free)
            .values(lease=lease, leased_until=until, attempts=ImportRow.attempts + 1)
            .returning(*table_of(ImportRow).c)
        ).one_or_none()
    return None if row is None else ImportClaim(row, lease)


# --- The file


def store_file(transactions: Transactions, import_id: str, text: TextIO) -> None:
    """Store a file as sealed parts, each in a short transaction."""
    for number, piece in enumerate(iter(lambda: text.read(PART), "")):
        sealed = transactions.keyring.seal(piece, IMPORT_PART_TEXT, f"{import_id}:{number}")
        with transactions.write() as work:
            work.execute(insert(ImportPart), {"import_id": import_id, "number": number, "text_sealed": sealed})


def has_file(transactions: Transactions, import_id: str) -> bool:
    """Report whether the file is still stored."""
    with transactions.read() as work:
        found = select(ImportPart.number).where(ImportPart.import_id == import_id).limit(1)
        return work.execute(found).first() is not None


def open_file(transactions: Transactions, import_id: str) -> TextIO:
    """Return the stored file; each part is opened when it is read."""
    stored = io.BufferedReader(_StoredFile(transactions, import_id), PART)
    return io.TextIOWrapper(stored, encoding="utf-8-sig", newline="")  # a version before this one kept the BOM


class _StoredFile(io.RawIOBase):
    """A stored file as a stream of bytes."""

    def __init__(self, transactions: Transactions, import_id: str) -> None:
        self._transactions = transactions
        self._import_id = import_id
        self._number = 0
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            this = ImportPart.import_id == self._import_id, ImportPart.number == self._number
            with self._transactions.read() as work:
                sealed = work.execute(select(ImportPart.text_sealed).where(*this)).scalar_one_or_none()
            if sealed is None:
                return 0
            self._rest = work.open(sealed, IMPORT_PART_TEXT, f"{self._import_id}:{self._number}").encode()
            self._number += 1
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


# --- Faults


def add_faults(work: Work, import_id: str, first: int, faults: Iterable[RowFault]) -> None:
    """Store why rows cannot be imported, numbered from ``first``."""
    rows = [
        {"import_id": import_id, "number": number, "row": fault.row, "column": fault.column, "reason": fault.reason}
        for number, fault in enumerate(faults, first)
        if number < FAULTS_STORED
    ]
    if rows:
        work.execute(insert(ImportFault), rows)


def faults_after(
    transactions: Transactions, import_id: str, number: int = -1, most: int = 500
) -> list[tuple[int, RowFault]]:
    """Return the stored faults after a number, each with its own number."""
    found = (
        select(ImportFault.number, ImportFault.row, ImportFault.column, ImportFault.reason)
        .where(ImportFault.import_id == import_id, ImportFault.number > number)
        .order_by(ImportFault.number)
        .limit(most)
    )
    with transactions.read() as work:
        rows = work.execute(found).all()
    return [(row.number, RowFault(row.row, row.column, row.reason)) for row in rows]


# --- Removal


def remove_rows(transactions: Transactions, import_id: str, *tables: Any) -> Iterator[None]:
    """Remove the rows of an import from these tables in batches; yield after each."""
    for table in tables:
        yield from _remove(transactions, table, table.import_id == import_id)


def remove_unneeded(transactions: Transactions, now: datetime) -> int:
    """Remove in batches what no import needs any longer; return how many batches. Several processes may do so."""
    other = table_of(ImportRow).alias().c
    newer = exists().where(other.switched_at > ImportRow.switched_at)
    is_over = ImportRow.state.in_((CANCELLED, UNDONE))
    too_old = or_(newer, ImportRow.switched_at < now - UNDO_PERIOD, ImportRow.switched_at.is_(None))
    kinds = (
        (ImportPart, or_(is_over, ImportRow.state.in_((DONE, TELLING)))),
        (StagedRow, or_(is_over, and_(ImportRow.state == DONE, too_old))),
        (ImportFault, ImportRow.created_at < now - UNDO_PERIOD),
    )
    return sum(
        sum(1 for _ in _remove(transactions, table, table.import_id.in_(select(ImportRow.id).where(which))))
        for table, which in kinds
    )


def forget_customer(work: Work, row: str) -> None:
    """Delete what is staged for a customer who is erased."""
    work.execute(delete(StagedRow).where(StagedRow.customer_row == row))


def _remove(transactions: Transactions, table: Any, which: Any) -> Iterator[None]:
    keys = select(table.import_id, table.number).where(which).limit(REMOVED_AT_ONCE)
    columns = table_of(table).c
    while True:
        with transactions.read() as work:
            found = [tuple(row) for row in work.execute(keys)]
        if not found:
            return
        with transactions.write() as work:
            work.execute(delete(table).where(tuple_(columns.import_id, columns.number).in_(found)))
        yield
