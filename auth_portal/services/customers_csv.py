"""Reads the customers CSV: every row is checked, whatever is in the file, before anybody writes anything.

UTF-8 with or without BOM, a header row, cells separated by commas or semicolons. Faults are told by row (as a
spreadsheet counts them, the header being row 1) and column, in words that never repeat a value.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from auth_portal.services import customers
from auth_portal.services.customer_fields import CLEAR, FIELDS, CellFault, Check, checks

FAULTS_KEPT = 1000  # told in full; all are counted

Source = bytes | Path | BinaryIO


@dataclass(frozen=True)
class RowFault:
    """One reason why nothing was imported. Row 0 is the file as a whole, an empty column the row as a whole."""

    row: int
    column: str
    reason: str

    def __str__(self) -> str:
        place = f"row {self.row}" if self.row else "the file"
        return f"{place}, {self.column}: {self.reason}" if self.column else f"{place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One checked row. ``cells`` has what the row says, in its one form: a text, or None to clear."""

    row: int
    customer_id: str
    key: str
    cells: Mapping[str, str | None]
    is_active: bool | None = None  # None leaves it; a file never says


@dataclass
class Reading:
    """A whole file: its checked rows, and what is wrong with the others."""

    entries: list[Entry] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    faults: list[RowFault] = field(default_factory=list)
    fault_count: int = 0

    def refuse(self, row: int, column: str, reason: str) -> None:
        """Notes a fault; the first 1000 are kept, all are counted."""
        self.fault_count += 1
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append(RowFault(row, column, reason))


def read_customers(source: Source, *, region: str) -> Reading:
    """Reads and checks a file; national phone numbers are of ``region``. Raises only OSError, for the file itself."""
    reading = Reading()
    try:
        with _opened(source) as file:
            _read_table(file, region, reading)
    except UnicodeDecodeError:
        reading.refuse(0, "", "is not UTF-8; save it as CSV UTF-8")
    return reading


def _opened(source: Source) -> io.TextIOWrapper:
    binary = open(source, "rb") if isinstance(source, Path) else source  # noqa: SIM115 -- closed by the caller
    stream = io.BytesIO(binary) if isinstance(binary, bytes) else binary
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")


def _read_table(file: io.TextIOWrapper, region: str, reading: Reading) -> None:
    header = file.readline()
    reading.columns = _columns(header, reading)
    if reading.fault_count:
        return
    rules = {column: rule for column, rule in checks(region).items() if column in reading.columns}
    seen: dict[str, int] = {}
    for number, cells in _rows(file, _delimiter(header), reading):
        _read_row(number, cells, rules, seen, reading)


def _delimiter(header: str) -> str:
    return max(",;", key=header.count)


def _columns(header: str, reading: Reading) -> tuple[str, ...]:
    names = [name.strip().strip('"').strip().lower() for name in header.rstrip("\r\n").split(_delimiter(header))]
    if not any(names):
        reading.refuse(1, "", f"is empty; it must name the columns: {', '.join(FIELDS)}")
        return ()
    for position, name in enumerate(names, 1):
        if name not in FIELDS:
            reading.refuse(1, f"column {position}", f"is not known; known: {', '.join(FIELDS)}")
        elif name in names[: position - 1]:
            reading.refuse(1, name, "is there twice")
    if "customer_id" not in names:
        reading.refuse(1, "customer_id", "is missing")
    return tuple(names)


def _rows(file: io.TextIOWrapper, delimiter: str, reading: Reading) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(file, delimiter=delimiter, strict=True)
    number = 1
    while True:
        number += 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # from here on nobody knows where a row ends
            reading.refuse(number, "", f"cannot be read: {error}; look at its quotation marks")
            return
        if any(cell.strip() for cell in cells):
            yield number, cells


def _read_row(
    number: int, cells: list[str], rules: Mapping[str, Check], seen: dict[str, int], reading: Reading
) -> None:
    while len(cells) > len(reading.columns) and not cells[-1].strip():
        cells.pop()
    if len(cells) != len(reading.columns):
        reading.refuse(number, "", f"has {len(cells)} cells, the header has {len(reading.columns)}")
        return
    before = reading.fault_count
    # An empty cell leaves what is stored, so it says nothing; a missing customer ID says so itself.
    said = [
        (name, cell) for name, cell in zip(reading.columns, cells, strict=True) if cell.strip() or name == "customer_id"
    ]
    found = {name: _checked(number, name, cell, rules[name], reading) for name, cell in said}
    customer_id = found.pop("customer_id")
    if customer_id is None:
        return
    key = customers.customer_key(customer_id)
    _note_duplicate(number, key, seen, reading)
    if reading.fault_count == before:
        reading.entries.append(Entry(number, customer_id, key, found))


def _checked(number: int, column: str, cell: str, check: Check, reading: Reading) -> str | None:
    if cell.strip() == CLEAR and column != "customer_id":
        return None
    try:
        return check(cell)
    except CellFault as fault:
        reading.refuse(number, column, str(fault))
        return None


def _note_duplicate(number: int, key: str, seen: dict[str, int], reading: Reading) -> None:
    first = seen.setdefault(key, number)
    if first != number:
        reading.refuse(number, "customer_id", f"is the same customer as in row {first}")
