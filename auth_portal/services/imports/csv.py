"""The CSV of customers: every row is read and checked before anything is written.

UTF-8 with or without BOM, a header row, cells separated by commas, semicolons or tabs. Blank rows are skipped, and so
is the ``sep=;`` that some programs write above the header. An error of the spreadsheet (``#N/A``) is not a value. Each
fault names its row (as a spreadsheet counts them) and column, in words that never repeat a value.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from auth_portal.services.directory.fields import FIELDS, CellFault, Check, RegionUnset, checks, clears, is_blank
from auth_portal.services.directory.person import customer_key, name_form

FAULTS_REPORTED = 1000  # in full, in the output of a command; all are counted
HEADER_LENGTH = 16 * 1024  # characters of a header that are looked at before its columns are chosen
BLANK = ",;\t \r\n\ufeff"  # what a blank row is made of
NOT_UTF8 = "is not UTF-8; save it as CSV UTF-8"

ERRORS = {"#n/a", "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!", "########"}
NOT_A_VALUE = "is an error of the spreadsheet, not a value; fix its formula there"

SPELLINGS = {  # how the headers of other systems name our columns, in letters and digits alone
    "customer_id": "id customerid customer customerno customernumber customernr client clientid clientno clientnumber "
    "account accountid accountno accountnumber memberid membernumber userid number custid custno kundennummer",
    "name": "name fullname customername displayname clientname membername",
    "phone": "phone phonenumber phoneno cell cellphone cellnumber cellno mobile mobilephone mobilenumber mobileno "
    "msisdn telephone tel telephonenumber contactnumber whatsapp whatsappnumber",
    "email": "email emailaddress mail mailaddress",
    "locale": "locale language lang preferredlanguage",
    "password": "password passwordhash pass",
    "totp_secret": "totpsecret totp totpseed authenticatorsecret otpsecret",
}
_NOT_PLAIN = re.compile(r"[^a-z0-9]")
_FIELD_OF = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings.split()}

Source = bytes | Path | BinaryIO


@dataclass(frozen=True)
class RowFault:
    """One reason why a row cannot be imported. Row 0 is the whole file, an empty column the whole row."""

    row: int
    column: str
    reason: str

    def __str__(self) -> str:
        place = f"row {self.row}" if self.row else "the file"
        return f"{place}, {self.column}: {self.reason}" if self.column else f"{place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class CustomerEntry:
    """One checked row. ``cells`` has its values in their one form: a text, or None to clear."""

    row: int
    customer_id: str
    key: str
    cells: Mapping[str, str | None]
    is_active: bool | None = None  # None leaves it as it is; a file never says


@dataclass
class CsvFindings:
    """What a pass over a file has found so far: its checked rows, and what is wrong with the others."""

    columns: tuple[str, ...] = ()  # ours, by position; an empty one is left out
    entries: list[CustomerEntry] = field(default_factory=list)
    faults: list[RowFault] = field(default_factory=list)
    fault_count: int = 0
    most_faults: int = FAULTS_REPORTED
    row: int = 1  # the last one that was read
    is_cut: bool = False  # the rest of the file could not be read

    def refuse(self, row: int, column: str, reason: str) -> None:
        """Add a fault; the first ``most_faults`` are listed, all are counted."""
        self.fault_count += 1
        if self.fault_count <= self.most_faults:
            self.faults.append(RowFault(row, column, reason))

    def cut(self, row: int, column: str, reason: str) -> None:
        """Add a fault after which nothing more can be read."""
        self.is_cut = True
        self.refuse(row, column, reason)

    def take(self) -> tuple[list[CustomerEntry], list[RowFault]]:
        """Return the rows and faults found since the last call."""
        found = self.entries, self.faults
        self.entries, self.faults = [], []
        return found


def read_rows(
    source: Source,
    findings: CsvFindings,
    *,
    region: str,
    columns: Sequence[str] | None = None,
    most_rows: int | None = None,
) -> Iterator[int]:
    """Read a file row by row into ``findings`` and yield each row's number, so that the caller sets the pace.

    ``columns`` names the field of each column ("" is not imported) for a file whose header has other names; without it
    the header itself must name them. More than ``most_rows`` rows are a fault. Raise only OSError, for the file itself.
    """
    try:
        with _opened(source) as file:
            findings.row, header = _header(file)
            findings.columns = tuple(columns) if columns is not None else _columns(header, findings)
            if findings.fault_count:
                findings.is_cut = True
                return
            rules = {column: rule for column, rule in checks(region).items() if column in findings.columns}
            seen: dict[str, int] = {}
            for count, (number, cells) in enumerate(_rows(file, _delimiter(header), findings), 1):
                findings.row = number
                if most_rows is not None and count > most_rows:
                    words = f"is one too many: at most {most_rows} rows are imported at once; split the file"
                    findings.cut(number, "", words)
                    return
                _read_row(number, cells, rules, seen, findings)
                if findings.is_cut:
                    return
                yield number
    except UnicodeDecodeError:
        findings.cut(0, "", NOT_UTF8)


def read_header(source: Source) -> list[str]:
    """Return the names in a file's header, as they are written there. Raise UnicodeDecodeError if it is not UTF-8."""
    with _opened(source) as file:
        _number, header = _header(file, HEADER_LENGTH)
    return _names(header)


def guesses(header: Sequence[str]) -> list[str]:
    """Return the field that each column of a file seems to be, each field once; "" if none fits."""
    found: list[str] = []
    for name in header:
        guess = _FIELD_OF.get(_NOT_PLAIN.sub("", name.lower()), "")
        found.append("" if guess in found else guess)
    return found


def column_faults(columns: Sequence[str]) -> dict[str, str]:
    """Return what is wrong with a choice of columns, by the field of the page."""
    found = {}
    for position, name in enumerate(columns):
        if name and name not in FIELDS:
            found[f"column-{position}"] = "unknown"
        elif name and name in columns[:position]:
            found[f"column-{position}"] = "twice"
    if "customer_id" not in columns:
        found["columns"] = "no_customer_id"
    return found


def _opened(source: Source) -> io.TextIOWrapper:
    binary = open(source, "rb") if isinstance(source, Path) else source  # noqa: SIM115 -- closed by the caller
    stream = io.BytesIO(binary) if isinstance(binary, bytes) else binary
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")


def _header(file: io.TextIOWrapper, most: int = -1) -> tuple[int, str]:
    """Return the row that names the columns, and its number: the first that is neither blank nor ``sep=;``."""
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


def _columns(header: str, findings: CsvFindings) -> tuple[str, ...]:
    names = [name_form(name) for name in _names(header)]
    if not any(names):
        findings.refuse(findings.row, "", f"is empty; it must name the columns: {', '.join(FIELDS)}")
        return ()
    for position, name in enumerate(names, 1):
        if name not in FIELDS:
            findings.refuse(findings.row, f"column {position}", f"is not known; known: {', '.join(FIELDS)}")
        elif name in names[: position - 1]:
            findings.refuse(findings.row, name, "is given twice")
    if "customer_id" not in names:
        findings.refuse(findings.row, "customer_id", "is missing")
    return tuple(names)


def _rows(file: io.TextIOWrapper, delimiter: str, findings: CsvFindings) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(file, delimiter=delimiter, strict=True)
    number = findings.row
    while True:
        number += 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # from here on it is unknown where a row ends
            findings.cut(number, "", f"cannot be read: {error}; look at its quotation marks")
            return
        if not all(is_blank(cell) for cell in cells):
            yield number, cells


def _read_row(
    number: int, cells: list[str], rules: Mapping[str, Check], seen: dict[str, int], findings: CsvFindings
) -> None:
    while len(cells) > len(findings.columns) and is_blank(cells[-1]):
        cells.pop()
    if len(cells) < len(findings.columns) and not any(findings.columns[len(cells) :]):
        cells += [""] * (len(findings.columns) - len(cells))  # spreadsheets leave out empty cells at the end
    if len(cells) != len(findings.columns):
        findings.refuse(number, "", f"has {len(cells)} cells, the header has {len(findings.columns)}")
        return
    before = findings.fault_count
    # An empty cell leaves what is stored; a missing customer ID is a fault of its own check.
    given = [
        (name, cell)
        for name, cell in zip(findings.columns, cells, strict=True)
        if name and (not is_blank(cell) or name == "customer_id")
    ]
    found = {name: _checked(number, name, cell, rules[name], findings) for name, cell in given}
    customer_id = found.pop("customer_id")
    if customer_id is None:
        return
    key = customer_key(customer_id)
    if (first := seen.setdefault(key, number)) != number:
        findings.refuse(number, "customer_id", f"is the same customer as in row {first}")
    if findings.fault_count == before:
        findings.entries.append(CustomerEntry(number, customer_id, key, found))


def _checked(number: int, column: str, cell: str, check: Check, findings: CsvFindings) -> str | None:
    if clears(cell) and column != "customer_id":
        return None
    if cell.strip().lower() in ERRORS:
        findings.refuse(number, column, NOT_A_VALUE)
        return None
    try:
        return check(cell)
    except RegionUnset as fault:  # the same would be wrong with every row
        findings.cut(number, column, str(fault))
        return None
    except CellFault as fault:
        findings.refuse(number, column, str(fault))
        return None
