"""Imports of customers, and the files that they come as: each is brought to one text of CSV.

Read are CSV in UTF-8, UTF-16 (with or without BOM) and Windows-1252, and the values of one sheet of an Excel workbook
(``.xlsx``). A workbook is a ZIP of XML from a stranger: what is unpacked is bounded before it is read, document types
are refused, and rows are taken one at a time, so that neither a bomb nor a cell at the end of an empty sheet costs more
than the limits here.
"""

from __future__ import annotations

import codecs
import importlib
import io
import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from csv import writer
from dataclasses import dataclass
from datetime import date, datetime
from datetime import time as wall_time
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

LARGEST_FILE = 50 * 1024 * 1024  # bytes, as sent to a page; of a workbook also as text
LARGEST_SHEET = 256 * 1024 * 1024  # bytes of XML: the sheets, and the texts that they share
LARGEST_PART = 8 * 1024 * 1024  # bytes of XML: any other part, which is loaded as a whole
MOST_PARTS = 5000  # files within a workbook
MOST_SHEET_ROWS = 1_048_576  # of one sheet, as Excel allows
PEEKED = 64 * 1024  # bytes that show what a file is
BREATH_AFTER_SECONDS = 0.003  # of CPU
BREATH_SECONDS = 0.0005
PIECE = 1024 * 1024  # bytes read at a time

WORKBOOK = b"PK\x03\x04"
# Workbooks before 2007 and those with a password, web pages named .xls, and what has no table at all.
FOREIGN = (b"\xd0\xcf\x11\xe0", b"<", b"%PDF", b"{\\rtf", b"\x1f\x8b", b"\x89PNG", b"\xff\xd8\xff")
BOMS = (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")
SINGLE_BYTE = "cp1252"  # Windows in western Europe, the Americas and Africa: what Excel calls CSV without more
SAVE_AS = "save it as an Excel workbook (.xlsx) or as CSV UTF-8"
REASONS = {  # what follows "the file" in words
    "kind": f"is not a table that can be read: an old or protected workbook, a web page or a document; {SAVE_AS}",
    "encoding": f"is neither in UTF-8 nor in UTF-16 nor in Windows-1252; {SAVE_AS}",
    "damaged": f"is a workbook that cannot be read: it is damaged or of another kind; {SAVE_AS}",
    "large": "is a workbook with more than can be read at once; save the one sheet as CSV UTF-8, or split it",
    "sheet": "is a workbook without such a sheet; it has: %(sheets)s",
    "empty": "has no rows; the first must name the columns, and each further row is one customer",
}
_XML = (".xml", ".rels")
_DECLARATION = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)
_ZEROS = re.compile(r"0{2,40}")  # a number format that shows 123 as 00123

Source = bytes | Path | IO[bytes] | TextIO


class Breath:
    """Lets requests of the same process go on while a thread reads a long file: it pauses after some CPU."""

    def __init__(self) -> None:
        self._since = time.thread_time()

    def take(self) -> None:
        """Pause if it is time; to be called often."""
        if time.thread_time() - self._since > BREATH_AFTER_SECONDS:
            time.sleep(BREATH_SECONDS)
            self._since = time.thread_time()


class FileRefused(Exception):
    """No table of customers can be read from a file. Its text is the reason, as it follows "the file"."""

    def __init__(self, code: str, **params: str) -> None:
        super().__init__(REASONS[code] % params)


@dataclass(frozen=True)
class TableFile:
    """A file as one text of CSV."""

    text: TextIO
    encoding: str = "utf-8"
    sheet: str = ""  # of a workbook, the one that was read
    sheets: Sequence[str] = ()  # and all that have rows and columns

    @property
    def notes(self) -> list[str]:
        """Return what its sender has to know before they trust what was read; each follows "the file"."""
        if self.encoding == SINGLE_BYTE:
            return ["is not in UTF-8 and was read as Windows-1252: check names with accents"]
        if len(self.sheets) > 1:
            return [f"has {len(self.sheets)} sheets; the one named “{self.sheet}” was read"]
        return []


def open_table(source: Source, sheet: str = "") -> TableFile:
    """Return a file as CSV; of a workbook the first sheet that is not hidden, or the one of that name or number.

    A text is CSV already. Raise FileRefused, and OSError for a path.
    """
    if isinstance(source, io.TextIOBase):
        return TableFile(cast("TextIO", source))
    binary: Any = open(source, "rb") if isinstance(source, Path) else source  # noqa: SIM115 -- the reader closes it
    binary = io.BytesIO(binary) if isinstance(binary, bytes) else binary
    binary = binary if binary.seekable() else io.BytesIO(binary.read())
    begin = binary.read(PEEKED)
    if begin.startswith(WORKBOOK):
        try:
            return _workbook(binary, sheet)
        except FileRefused:
            raise
        except Exception as fault:  # openpyxl raises whatever it stumbles over
            raise FileRefused("damaged") from fault
    encoding = encoding_of(binary, begin)
    start = begin.decode(encoding.removesuffix("-sig"), errors="ignore").lstrip("\ufeff \t\r\n").encode()
    if begin.startswith(FOREIGN) or start.startswith(FOREIGN):
        raise FileRefused("kind")
    binary.seek(0)
    return TableFile(io.TextIOWrapper(binary, encoding=encoding, newline=""), encoding)


def encoding_of(binary: BinaryIO, begin: bytes) -> str:
    """Return the encoding that all of a file is in. Raise FileRefused."""
    guessed = next((name for bom, name in BOMS if begin.startswith(bom)), "")
    if not guessed and begin.count(0) > len(begin) // 5:  # of Latin text in UTF-16 every other byte
        guessed = "utf-16-le" if begin[1::2].count(0) > begin[::2].count(0) else "utf-16-be"
    for encoding in (guessed,) if guessed else ("utf-8", SINGLE_BYTE):
        decoder = codecs.getincrementaldecoder(encoding)()
        binary.seek(0)
        try:
            while piece := binary.read(PIECE):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            continue
        return encoding
    raise FileRefused("kind" if begin.startswith(FOREIGN) else "encoding")


# --- Workbooks


def _workbook(binary: BinaryIO, wanted: str) -> TableFile:
    _check_parts(binary)
    book = importlib.import_module("openpyxl").load_workbook(binary, read_only=True, data_only=True, keep_links=False)
    sheets = {one.title: one for one in book.worksheets}
    shown = [one.title for one in book.worksheets if one.sheet_state == "visible"] or list(sheets)
    named = [name for name in sheets if name.strip().casefold() == wanted.strip().casefold()]
    numbered = [name for number, name in enumerate(sheets, 1) if wanted.strip() == str(number)]
    chosen = next(iter([*named, *numbered] if wanted.strip() else shown), None)
    if chosen is None:
        raise FileRefused("sheet", sheets=", ".join(sheets) or "none")
    text = io.StringIO()
    for line in sheet_lines(sheets[chosen]):
        text.write(line)
        if text.tell() > LARGEST_FILE:
            raise FileRefused("large")
    text.seek(0)
    return TableFile(text, sheet=chosen, sheets=shown)


def _check_parts(binary: BinaryIO) -> None:
    """Raise FileRefused for a workbook that unpacks to too much, or whose XML declares entities.

    Readers of a ZIP stop at the size that its directory states, so that a false one is no way around these limits.
    """
    with zipfile.ZipFile(binary) as archive:
        parts = archive.infolist()
        if not any(part.filename.lower() == "xl/workbook.xml" for part in parts):
            raise FileRefused("damaged")
        of_sheets = [part for part in parts if part.filename.lower().startswith(("xl/worksheets/", "xl/sharedstrings"))]
        others = [part for part in parts if part not in of_sheets and part.filename.lower().endswith(_XML)]
        too_large = any(part.file_size > LARGEST_PART for part in others)
        if too_large or len(parts) > MOST_PARTS or sum(part.file_size for part in of_sheets) > LARGEST_SHEET:
            raise FileRefused("large")
        for part in (*of_sheets, *others):
            with archive.open(part) as file:
                end = b""
                while piece := file.read(PIECE):
                    if _DECLARATION.search(end + piece) or piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        raise FileRefused("damaged")
                    end = piece[-16:]


def sheet_lines(sheet: Any) -> Iterator[str]:
    """Yield the rows of a sheet as lines of CSV, blank ones too: a row's number is what the spreadsheet shows."""
    sheet.reset_dimensions()  # what the sheet says of its size may be anything
    blank, width, breath = 0, 0, Breath()
    for number, row in enumerate(sheet.iter_rows(), 1):
        if number > MOST_SHEET_ROWS:
            raise FileRefused("large")
        breath.take()
        cells = [_cell_text(cell) for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if not cells:
            blank += 1
            continue
        width = width or len(cells)  # of the header; a sheet leaves out empty cells at the end of a row
        cells += [""] * (width - len(cells))
        line = io.StringIO(newline="")
        writer(line, lineterminator="\n").writerow(cells)
        yield "\n" * blank + line.getvalue()
        blank = 0


def _cell_text(cell: Any) -> str:
    """Return a value as a person reads it: no ``.0`` behind a number, a date as 2026-11-30, 00123 where it is shown so.

    A spreadsheet stores 15 digits of a number.
    """
    value = cell.value
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime) and value.time() == wall_time():
        value = value.date()
    if isinstance(value, (date, datetime, wall_time)):
        return value.isoformat(*([" "] if isinstance(value, datetime) else []))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and value >= 0 and _ZEROS.fullmatch(str(cell.number_format)):
        return str(value).zfill(len(cell.number_format))
    return "" if value is None else str(value)
