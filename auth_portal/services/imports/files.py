"""What an import keeps beside its row: the file in sealed parts, its faults, its staged rows; and when they go.

The file is never on disk as it was sent: it is cut into parts that are sealed before they are stored, and read again
part by part.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import IO, Any, BinaryIO

from sqlalchemy import Connection, and_, delete, exists, insert, or_, select, tuple_
from sqlalchemy.orm import aliased

from auth_portal.crypto import Keyring
from auth_portal.services.imports.customers_csv import RowFault
from auth_portal.services.imports.states import CANCELLED, DONE, TELLING, UNDONE
from auth_portal.store.db import Database
from auth_portal.store.models import ImportFault, ImportPart, ImportRow, StagedRow, table_of

LARGEST_FILE = 50 * 1024 * 1024  # bytes
PART = 128 * 1024  # characters: sealed and stored in a few milliseconds
FAULTS_KEPT = 10_000  # of one import; all are counted
UNDO_KEPT = timedelta(days=7)
WAITING_KEPT = timedelta(hours=24)  # a file that nobody goes on with
REMOVED_AT_ONCE = 200  # rows of one removing transaction: about 10 ms


def store_parts(database: Database, keyring: Keyring, import_id: str, source: IO[bytes]) -> int:
    """Stores a file as sealed parts, each in a short transaction; about how many rows follow its header.

    Raises UnicodeDecodeError where it is not UTF-8, or has zero bytes as UTF-16 does; what was stored till then is
    removed like any other leftover.
    """
    lines, last = 0, ""
    for number, text in enumerate(_texts(source)):
        sealed = keyring.seal(text, "import_parts", f"{import_id}:{number}", "text")
        with database.write() as connection:
            connection.execute(insert(ImportPart), {"import_id": import_id, "number": number, "text_sealed": sealed})
        lines, last = lines + (text.count("\n") or text.count("\r")), text[-1]
    return lines - (last in "\r\n") if last else 0


def _texts(source: IO[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    while piece := source.read(PART):
        if b"\0" in piece:
            raise UnicodeDecodeError("utf-8", piece, 0, 1, "a zero byte")
        if text := decoder.decode(piece):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


class _Parts(io.RawIOBase):
    """A stored file as a stream of bytes."""

    def __init__(self, database: Database, keyring: Keyring, import_id: str) -> None:
        self._pieces = _opened(database, keyring, import_id)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def open_parts(database: Database, keyring: Keyring, import_id: str) -> BinaryIO:
    """The stored file, opened part by part as it is read."""
    return io.BufferedReader(_Parts(database, keyring, import_id), PART)


def has_parts(database: Database, import_id: str) -> bool:
    """Whether the file is still here."""
    with database.read() as connection:
        wanted = select(ImportPart.number).where(ImportPart.import_id == import_id).limit(1)
        return connection.execute(wanted).first() is not None


def _opened(database: Database, keyring: Keyring, import_id: str) -> Iterator[bytes]:
    number = 0
    while True:
        one = select(ImportPart.text_sealed).where(ImportPart.import_id == import_id, ImportPart.number == number)
        with database.read() as connection:
            sealed = connection.execute(one).scalar_one_or_none()
        if sealed is None:
            return
        yield keyring.open(sealed, "import_parts", f"{import_id}:{number}", "text").encode()
        number += 1


def add_faults(connection: Connection, import_id: str, first: int, faults: Iterable[RowFault]) -> None:
    """Keeps why rows cannot be imported, numbered on from ``first``."""
    rows = [
        {"import_id": import_id, "number": number, "row": fault.row, "column": fault.column, "reason": fault.reason}
        for number, fault in enumerate(faults, first)
        if number < FAULTS_KEPT
    ]
    if rows:
        connection.execute(insert(ImportFault), rows)


def faults(database: Database, import_id: str, *, after: int = -1, most: int = 500) -> list[tuple[int, RowFault]]:
    """The kept faults after a number, each with its own."""
    wanted = (
        select(ImportFault.number, ImportFault.row, ImportFault.column, ImportFault.reason)
        .where(ImportFault.import_id == import_id, ImportFault.number > after)
        .order_by(ImportFault.number)
        .limit(most)
    )
    with database.read() as connection:
        rows = connection.execute(wanted).all()
    return [(row.number, RowFault(row.row, row.column, row.reason)) for row in rows]


def forget(database: Database, import_id: str, *tables: Any) -> Iterator[None]:
    """Removes what an import keeps in these tables, in batches; gives control back after each."""
    for table in tables:
        yield from _remove(database, table, table.import_id == import_id)


def tidy(database: Database, now: datetime) -> int:
    """Removes what is no longer needed of any import; how many rows. In batches, safe beside other tidiers."""
    other = aliased(ImportRow)
    newer = exists().where(other.switched_at > ImportRow.switched_at)
    is_over = ImportRow.state.in_((CANCELLED, UNDONE))
    no_undo = and_(ImportRow.state == DONE, or_(newer, ImportRow.switched_at < now - UNDO_KEPT, _never_switched()))
    kinds = (
        (ImportPart, or_(is_over, ImportRow.state.in_((DONE, TELLING)))),
        (StagedRow, or_(is_over, no_undo)),
        (ImportFault, ImportRow.created_at < now - UNDO_KEPT),
    )
    return sum(
        sum(1 for _ in _remove(database, table, table.import_id.in_(select(ImportRow.id).where(which))))
        for table, which in kinds
    )


def _never_switched() -> Any:
    return ImportRow.switched_at.is_(None)


def _remove(database: Database, table: Any, which: Any) -> Iterator[None]:
    keys = select(table.import_id, table.number).where(which).limit(REMOVED_AT_ONCE)
    columns = table_of(table).c
    while True:
        with database.read() as connection:
            found = [tuple(row) for row in connection.execute(keys)]
        if not found:
            return
        with database.write() as connection:
            connection.execute(delete(table).where(tuple_(columns.import_id, columns.number).in_(found)))
        yield
