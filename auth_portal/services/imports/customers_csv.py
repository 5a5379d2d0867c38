"""Reads the customers CSV: every row is checked, whatever is in the file, before anybody writes anything.

UTF-8 with or without BOM, a header row, cells separated by commas, semicolons or tabs. Blank rows are passed over, and
so is the ``sep=;`` that some write above the header. An error of the spreadsheet (``#N/A``) is no value. Faults are
told by row (as a spreadsheet counts them) and column, in words that never repeat a value.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from auth_portal.services.directory import customers
from auth_portal.services.directory.customer_fields import CLEAR, FIELDS, CellFault, Check, checks

FAULTS_TOLD = 1000  # in full, to whoever gave a command; all are counted
HEADER_LENGTH = 16 * 1024  # characters of a header that are looked at before its columns are chosen
BLANK = ",;\t \r\n\ufeff"  # what a blank row is made of
NOT_UTF8 = "is not UTF-8; save it as CSV UTF-8"

ERRORS = {"#n/a", "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!", "########"}
NOT_A_VALUE = "is an error of the spreadsheet, not a value; mend its formula there"

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
    """What one pass over a file has found so far: its checked rows, and what is wrong with the others."""

    columns: tuple[str, ...] = ()  # ours, by position; an empty one is left out
    entries: list[Entry] = field(default_factory=list)
    faults: list[RowFault] = field(default_factory=list)
    fault_count: int = 0
    faults_kept: int = FAULTS_TOLD
    row: int = 1  # the last one that was read
    is_cut: bool = False  # the rest of the file could not be read

    def refuse(self, row: int, column: str, reason: str) -> None:
        """Notes a fault; the first ``faults_kept`` are kept, all are counted."""
        self.fault_count += 1
        if self.fault_count <= self.faults_kept:
            self.faults.append(RowFault(row, column, reason))

    def cut(self, row: int, column: str, reason: str) -> None:
        """Notes a fault after which nothing more can be read."""
        self.is_cut = True
        self.refuse(row, column, reason)

    def take(self) -> tuple[list[Entry], list[RowFault]]:
        """The rows and faults found since this was asked last."""
        found = self.entries, self.faults
        self.entries, self.faults = [], []
        return found


def read_rows(
    source: Source, reading: Reading, *, region: str, columns: Sequence[str] | None = None, most_rows: int | None = None
) -> Iterator[int]:
    """Reads a file row by row into ``reading`` and gives each row's number, so that the caller sets the pace.

    ``columns`` names ours by position ("" is not imported) for a file whose header has other names; without it the
    header itself must name them. More than ``most_rows`` rows are a fault. Raises only OSError, for the file itself.
    """
    try:
        with _opened(source) as file:
            yield from _read_table(file, reading, region, columns, most_rows)
    except UnicodeDecodeError:
        reading.cut(0, "", NOT_UTF8)


def read_header(source: Source) -> list[str]:
    """The names in a file's header, as they are written there. Raises UnicodeDecodeError where it is not UTF-8."""
    with _opened(source) as file:
        _number, header = _header(file, HEADER_LENGTH)
    return _names(header)


def _opened(source: Source) -> io.TextIOWrapper:
    binary = open(source, "rb") if isinstance(source, Path) else source  # noqa: SIM115 -- closed by the caller
    stream = io.BytesIO(binary) if isinstance(binary, bytes) else binary
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")


def _read_table(
    file: io.TextIOWrapper, reading: Reading, region: str, columns: Sequence[str] | None, most_rows: int | None
) -> Iterator[int]:
    reading.row, header = _header(file)
    reading.columns = tuple(columns) if columns is not None else _columns(header, reading)
    if reading.fault_count:
        reading.is_cut = True
        return
    rules = {column: rule for column, rule in checks(region).items() if column in reading.columns}
    seen: dict[str, int] = {}
    for count, (number, cells) in enumerate(_rows(file, _delimiter(header), reading), 1):
        reading.row = number
        if most_rows is not None and count > most_rows:
            reading.cut(number, "", f"is one too many: at most {most_rows} rows are imported at once; split the file")
            return
        _read_row(number, cells, rules, seen, reading)
        yield number


def _header(file: io.TextIOWrapper, most: int = -1) -> tuple[int, str]:
    """The row that names the columns, and its number: the first that is neither blank nor ``sep=;``."""
    number, header = 1, file.readline(most)
    while header and (_is_hint(header) or not header.strip(BLANK)):
        number += not _is_hint(header)  # which spreadsheets do not show, so it is no row
        header = file.readline(most)
    while header.count('"') % 2 and len(header) < HEADER_LENGTH and (line := file.readline(most)):
        header += line  # a name with a line break in it
    return number if header else 1, header


def _is_hint(line: str) -> bool:
    return line.lower().strip('" \r\n').startswith("sep=")


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _names(header: str) -> list[str]:
    rows = csv.reader(io.StringIO(header, newline=""), delimiter=_delimiter(header))
    return [" ".join(name.split()) for name in next(rows, [])]


def _columns(header: str, reading: Reading) -> tuple[str, ...]:
    names = [name.lower() for name in _names(header)]
    if not any(names):
        reading.refuse(reading.row, "", f"is empty; it must name the columns: {', '.join(FIELDS)}")
        return ()
    for position, name in enumerate(names, 1):
        if name not in FIELDS:
            reading.refuse(reading.row, f"column {position}", f"is not known; known: {', '.join(FIELDS)}")
        elif name in names[: position - 1]:
            reading.refuse(reading.row, name, "is there twice")
    if "customer_id" not in names:
        reading.refuse(reading.row, "customer_id", "is missing")
    return tuple(names)


def _rows(file: io.TextIOWrapper, delimiter: str, reading: Reading) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(file, delimiter=delimiter, strict=True)
    number = reading.row
    while True:
        number += 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # from here on nobody knows where a row ends
            reading.cut(number, "", f"cannot be read: {error}; look at its quotation marks")
            return
        if any(cell.strip() for cell in cells):
            yield number, cells


def _read_row(
    number: int, cells: list[str], rules: Mapping[str, Check], seen: dict[str, int], reading: Reading
) -> None:
    while len(cells) > len(reading.columns) and not cells[-1].strip():
        cells.pop()
    if len(cells) < len(reading.columns) and not any(reading.columns[len(cells) :]):
        cells += [""] * (len(reading.columns) - len(cells))  # spreadsheets leave out empty cells at the end
    if len(cells) != len(reading.columns):
        reading.refuse(number, "", f"has {len(cells)} cells, the header has {len(reading.columns)}")
        return
    before = reading.fault_count
    # An empty cell leaves what is stored, so it says nothing; a missing customer ID says so itself.
    said = [
        (name, cell)
        for name, cell in zip(reading.columns, cells, strict=True)
        if name and (cell.strip() or name == "customer_id")
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
    if cell.strip().lower() in ERRORS:
        reading.refuse(number, column, NOT_A_VALUE)
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
