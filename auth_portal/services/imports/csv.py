"""The table of customers: every row is read and checked before anything is written.

It has a header row, and cells separated by commas, semicolons, tabs or bars; a ``sep=;`` above the header says by
which. Blank rows are skipped, and so are rulers and what programs write above and below a table, which is noted. Each
fault names its row (as a spreadsheet counts them) and column, in words that never repeat a value.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple, TextIO

from auth_portal.services.directory.fields import (
    CONTACTS,
    FIELDS,
    CellFault,
    Check,
    LanguageUnknown,
    RegionUnset,
    checks,
    clears,
    differ_in_case,
    is_blank,
    is_rounded,
    is_secret,
    names_nothing,
)
from auth_portal.services.imports import LARGEST_FILE, Breath, FileRefused, Source, open_table

FAULTS_REPORTED = 1000  # in full, in the output of a command; all are counted
HEADER_LENGTH = 16 * 1024  # characters of a header that are looked at before its columns are chosen
LONGEST_CELL = 10_000  # characters of a cell that is imported
DELIMITERS = ",;\t|"
BLANK = f"{DELIMITERS} \r\n\ufeff"  # what a blank row is made of
CASE = (  # a reason is stored with at most 250 characters
    "they differ only in capital letters, which the portal does not tell apart. If they are different people, import"
    " IDs that differ otherwise (of Salesforce the ones of 18 characters)"
)
ROWS_NAMED = 10  # of one kind of note
SECRET = ("password", "totp_secret")  # no page shows a value of these
SAMPLES = 3  # rows shown before the columns are named
SAMPLE_LENGTH = 60  # characters of one sample
LONGEST_TRAILER = 30  # rows
MOST_TITLES = 10  # rows above a header
csv.field_size_limit(LARGEST_FILE)  # a long cell of a column that is not imported harms nothing

KeyOf = Callable[[str], str]

SPELLINGS = {  # how the headers of other systems name our columns, in letters and digits alone; the best come first
    "customer_id": "customerid customerno customernumber customernr kundennummer clientid clientno clientnumber "
    "memberid membernumber accountno accountnumber custid custno contactid contact18digitid recordid "
    "recordidcontact donotmodifycontact donotmodifyaccount customer client member account accountid id userid number",
    "name": "name fullname customername displayname clientname membername contactname firstname givenname lastname "
    "surname familyname",
    "phone": "mobile mobilephone mobilenumber mobileno mobilephonenumber cell cellphone cellnumber cellno msisdn "
    "whatsapp whatsappnumber whatsappphonenumber smsphonenumber smsphone phone phonenumber phoneno phone1value "
    "primaryphone contactnumber telephone telephonenumber telephone1 tel businessphone defaultaddressphone phone2value",
    "email": "email emailaddress emailaddress1 email1value email1 primaryemail mail mailaddress",
    "locale": "locale language lang preferredlanguage languagecode languagelocale languagelocalekey "
    "communicationlanguage",
    "password": "password passwordhash pass",
    "totp_secret": "totpsecret totp totpseed authenticatorsecret otpsecret otpauth otpauthurl",
}
NAME_PARTS = {"firstname", "givenname", "lastname", "surname", "familyname"}  # several make up one name
_NOT_PLAIN = re.compile(r"[^a-z0-9]")
_HAS_LETTER = re.compile(r"[^\W\d_]")
_NOT_A_NAME = re.compile(r"\W+", re.ASCII)
_RANKS = {
    spelling: (name, rank) for name, spellings in SPELLINGS.items() for rank, spelling in enumerate(spellings.split())
}
_SEVERAL = re.compile(r"\s*(?::::|[;|,\r\n]|\s/\s)\s*")  # between the values of one cell: Google writes :::
_RULER = re.compile(r"[-=*_+]{2,}")
_FIGURE = re.compile(r"[\d.,%$€£ ]+")
# What the first cell below a table says: totals, how many rows there were, who made the report.
_TRAILER = re.compile(
    r"\[[^\]]*\]|\(?(rows|records|contacts|customers|count)?\W*\d[\d.,\s]*(rows?|records?|contacts?|customers?|entries|"
    r"lines|results?)\b.*|(number of )?(rows?|records?)\W*(affected|selected|exported|count)?\W*\d+\W*|"
    r"((grand|sub)[\s-]?)?totals?\b.{0,40}|(sub|grand)totals?|sum|count|average|(gesamt)?summe|gesamt|totaal|"
    r"total g[eé]n[eé]ral|copyright\b.*|©.*|confidential\b.*|"
    r"(report |file |data )?(generated|exported|printed|created) (by|on|at)\b.*|"
    r"(report|export|run) (date|time|by|id)\b.*|(<|-|\s)*(end of (file|report|data|list|export)\b.*|eof)(>|-|\s)*|"
    r"page \d+( of \d+)?",
    re.IGNORECASE,
)


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
    notes: dict[str, list[int]] = field(default_factory=dict)  # by kind: how many rows, and the first of them
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

    def note(self, kind: str, row: int) -> None:
        """Note something about a row that does not stop it. The kinds are in ``staging.NOTES``."""
        count, *rows = self.notes.setdefault(kind, [0])
        self.notes[kind] = [count + 1, *rows, row][: ROWS_NAMED + 1]

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
    key_of: KeyOf,
    columns: Sequence[str] | None = None,
    most_rows: int | None = None,
    gives_way: bool = False,
) -> Iterator[int]:
    """Read a file row by row into ``findings`` and yield each row's number, so that the caller sets the pace.

    With ``gives_way`` it pauses now and then for other threads.
    ``key_of`` returns what this portal finds a customer ID by.
    ``columns`` names the field of each column ("" is not imported) for a file whose header has other names; without it
    the header itself must name them. More than ``most_rows`` rows are a fault. Raise only OSError, for the file itself.
    """
    try:
        text = open_table(source).text
    except FileRefused as refusal:
        findings.cut(0, "", str(refusal))
        return
    with text as file:
        table = _table(file)
        findings.row = table.row
        for title in table.titles:
            findings.note("title", title)
        names = _names(table.header, table.delimiter)
        findings.columns = tuple(columns) if columns is not None else _columns(names, findings)
        if findings.fault_count:
            findings.is_cut = True
            return
        rules = {column: rule for column, rule in checks(region).items() if column in findings.columns}
        seen: dict[str, tuple[int, str]] = {}
        rows, breath = _customer_rows(_rows(table.rest, table.delimiter, findings), findings), Breath()
        for count, (number, cells) in enumerate(rows, 1):
            findings.row = number
            if most_rows is not None and count > most_rows:
                words = f"is one too many: at most {most_rows} rows are imported at once; split the file"
                findings.cut(number, "", words)
                return
            _read_row(number, cells, rules, key_of, seen, findings)
            if findings.is_cut:
                return
            if gives_way:
                breath.take()
            yield number


def read_header(source: Source) -> list[str]:
    """Return the names in a file's header, as they are written there. Raise FileRefused."""
    with open_table(source).text as file:
        table = _table(file, HEADER_LENGTH)
    return _names(table.header, table.delimiter)


def read_samples(source: Source, columns: Sequence[str]) -> list[str | None]:
    """Return the first values of each column in a line, as short as a page can show them.

    None stands for a column whose values no page may show. ``columns`` are the fields that they are, or seem to be.
    Raise FileRefused.
    """
    with open_table(source).text as file:
        table = _table(file)
        below = _rows(table.rest, table.delimiter, CsvFindings(row=table.row))
        rows = [cells for _number, cells in islice(below, SAMPLES)]
    found: list[str | None] = []
    for at, name in enumerate(columns):
        values = [row[at].strip() for row in rows if at < len(row) and not is_blank(row[at])]
        hides = name in SECRET or any(map(is_secret, values))
        found.append(None if hides else " · ".join(value[:SAMPLE_LENGTH] for value in values))
    return found


def guesses(header: Sequence[str]) -> list[str]:
    """Return the field that each column of a file seems to be; "" if none fits.

    Of several columns for one field it is the one with the best name, such as the mobile phone; the parts of a name
    are all of them the name.
    """
    plain = [_NOT_PLAIN.sub("", name.lower()) for name in header]
    found = [_RANKS.get(name, ("", 0)) for name in plain]
    best = {name: min(rank for other, rank in found if other == name) for name, _rank in found}
    taken: set[str] = set()
    result = []
    for name, (guess, rank) in zip(plain, found, strict=True):
        is_part = name in NAME_PARTS and plain[found.index(("name", best["name"]))] in NAME_PARTS
        is_best = rank == best[guess] and guess not in taken
        result.append(guess if is_part or is_best else "")
        taken.add(result[-1])
    return result


def column_faults(columns: Sequence[str]) -> dict[str, str]:
    """Return what is wrong with a choice of columns, by the field of the page."""
    found = {}
    for position, name in enumerate(columns):
        if name and name not in FIELDS:
            found[f"column-{position}"] = "unknown"
        elif name and name != "name" and name in columns[:position]:
            found[f"column-{position}"] = "twice"
    if "customer_id" not in columns:
        found["columns"] = "no_customer_id"
    return found


class _Table(NamedTuple):
    """Where a table begins. ``rest`` is what follows its header, ``titles`` are the filled rows above it."""

    row: int
    header: str
    delimiter: str
    rest: Iterable[str]
    titles: list[int]


def _table(file: TextIO, most: int = -1) -> _Table:
    """Find the row that names the columns: the first that is neither blank nor ``sep=;`` nor a title.

    Programs write above a table what it is called and when it was made. So where the first row seems to be no header a
    few more are looked at: one with names of fields is the header, or else, below a single cell, one of several words.
    """
    rows: list[str] = []
    filled: dict[int, list[str]] = {}  # the cells of the rows that are not blank
    at, hint, is_title = -1, "", False
    while at < 0 and len(filled) <= MOST_TITLES and (row := file.readline(most)):
        if named := _hint(row):
            hint = named  # spreadsheets do not show it, so it is no row
            continue
        while row.count('"') % 2 and len(row) < HEADER_LENGTH and (line := file.readline(most)):
            row += line  # a name with a line break in it
        if names := [name for name in _names(row, _delimiter(row)) if name.strip(BLANK)]:
            filled[len(rows)] = names
            known = sum(_NOT_PLAIN.sub("", name.lower()) in _RANKS for name in names)
            if known > 1 or (len(filled) == 1 and 0 < known < len(names)):
                at = len(rows)
            is_title = known == 0 and len(names) == 1 if len(filled) == 1 else is_title
        rows.append(row)
    if at < 0:
        words = (row for row, names in filled.items() if len(names) > 1 and all(map(_HAS_LETTER.search, names)))
        at = next(words if is_title else iter(filled), min(filled, default=0))
    header = rows[at] if filled else ""
    rest = chain(*(row.splitlines(keepends=True) for row in rows[at + 1 :]), file)
    return _Table(at + 1, header, hint or _delimiter(header), rest, [row + 1 for row in filled if row < at])


def _delimiter(row: str) -> str:
    outside_quotes = re.sub(r'"[^"]*"', "", row)
    return max(DELIMITERS, key=outside_quotes.count)


def _hint(line: str) -> str:
    """Return the separator that a line names to spreadsheets; "" if it is another line."""
    text = line.strip('" \r\n\ufeff')
    return text[4:] if text[:4].lower() == "sep=" and text[4:] and text[4:] in DELIMITERS else ""


def _names(header: str, delimiter: str) -> list[str]:
    rows = csv.reader(io.StringIO(header, newline=""), delimiter=delimiter)
    return [" ".join(name.split()) for name in next(rows, [])]


def _columns(header: Sequence[str], findings: CsvFindings) -> tuple[str, ...]:
    names = [_NOT_A_NAME.sub("", name.lower()) for name in header]
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


def _rows(file: Iterable[str], delimiter: str, findings: CsvFindings) -> Iterator[tuple[int, list[str]]]:
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


def _customer_rows(rows: Iterable[tuple[int, list[str]]], findings: CsvFindings) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that may be customers, and note the others: rulers, and what stands below the last customer.

    A trailer has totals or says who made the report. The rows with a single cell around it belong to it, from the blank
    row above them on. In the middle of a file it is a row like any other.
    """
    waiting: list[tuple[int, list[str], bool]] = []
    last = findings.row
    for number, cells in rows:
        filled = [text for cell in cells if (text := " ".join(cell.split()))]
        if all(_RULER.fullmatch(text) for text in filled):
            findings.note("trailer", number)
            continue
        ends = bool(_TRAILER.fullmatch(filled[0])) and all(
            _FIGURE.fullmatch(text) or _TRAILER.fullmatch(text) for text in filled[1:]
        )
        if ends or (len(filled) == 1 and len(findings.columns) > 1 and len(waiting) < LONGEST_TRAILER):
            waiting.append((number, cells, ends))
            continue
        yield from ((number, cells) for number, cells, _ends in waiting)
        waiting.clear()
        last = number
        yield number, cells
    first = next((at for at, (_number, _cells, ends) in enumerate(waiting) if ends), len(waiting))
    above = [last, *(number for number, _cells, _ends in waiting)]
    gaps = [at for at in range(min(first, len(waiting) - 1) + 1) if waiting[at][0] > above[at] + 1]
    first = gaps[-1] if gaps and first < len(waiting) else first
    yield from ((number, cells) for number, cells, _ends in waiting[:first])
    for number, _cells, _ends in waiting[first:]:
        findings.note("trailer", number)


def _read_row(
    number: int,
    cells: list[str],
    rules: Mapping[str, Check],
    key_of: KeyOf,
    seen: dict[str, tuple[int, str]],
    findings: CsvFindings,
) -> None:
    before = findings.fault_count
    found: dict[str, str | None] = {}
    for name, cell in _given(number, cells, findings).items():
        try:
            found[name] = _checked(number, name, cell, rules[name], findings)
        except LanguageUnknown:
            findings.note("locale", number)
        except RegionUnset as fault:  # the same would be wrong with every row
            findings.cut(number, name, str(fault))
        except CellFault as fault:
            findings.refuse(number, name, str(fault))
    customer_id = found.pop("customer_id", None)
    if customer_id is None:
        return
    if is_rounded(customer_id):
        findings.note("rounded", number)
    key = key_of(customer_id)
    first, spelling = seen.setdefault(key, (number, customer_id))
    if first != number:
        why = f"; {CASE}" if differ_in_case(spelling, customer_id) else ""
        findings.refuse(number, "customer_id", f"is the same customer as in row {first}{why}")
    if findings.fault_count == before:
        findings.entries.append(CustomerEntry(number, customer_id, key, found))


def _given(number: int, cells: list[str], findings: CsvFindings) -> dict[str, str]:
    """Return the cells that say something: an empty one leaves what is stored. A missing ID is a fault of its check.

    Nothing is returned of a row that does not fit the header.
    """
    while len(cells) > len(findings.columns) and is_blank(cells[-1]):
        cells.pop()
    if len(cells) < len(findings.columns) and not any(findings.columns[len(cells) :]):
        cells += [""] * (len(findings.columns) - len(cells))  # spreadsheets leave out empty cells at the end
    if len(cells) != len(findings.columns):
        findings.refuse(number, "", f"has {len(cells)} cells, the header has {len(findings.columns)}")
        return {}
    given: dict[str, str] = {}
    for name, cell in zip(findings.columns, cells, strict=True):
        if not name or (is_blank(cell) and name != "customer_id"):
            pass
        elif name != "customer_id" and names_nothing(name, cell):
            findings.note("null", number)
        elif name == "name" and name in given:
            given[name] = f"{given[name]} {cell}" if not clears(cell) else given[name]
        else:
            given[name] = cell
    return given


def _checked(number: int, column: str, cell: str, check: Check, findings: CsvFindings) -> str | None:
    """Return a cell in its one form, or None if it clears what is stored. Raise CellFault."""
    if clears(cell) and column != "customer_id":
        return None
    if len(cell) > LONGEST_CELL:
        raise CellFault(f"is longer than {LONGEST_CELL} characters")
    try:
        return check(cell)
    except RegionUnset:
        raise
    except CellFault:
        if column not in CONTACTS or len(parts := [part for part in _SEVERAL.split(cell) if not is_blank(part)]) == 1:
            raise
        for part in parts:
            with suppress(CellFault):
                found = check(part)
                findings.note(f"several_{column}", number)
                return found
        raise
