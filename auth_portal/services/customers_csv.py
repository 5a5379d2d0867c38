"""Reads the customers CSV: every row is checked, whatever is in the file, before anybody writes anything.

UTF-8 with or without BOM, a header row, cells separated by commas or semicolons. Faults are told by row (as a
spreadsheet counts them, the header being row 1) and column, in words that never repeat a value.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from argon2 import extract_parameters

from auth_portal.crypto import PASSWORD_CODE_POINTS, normal_password
from auth_portal.methods.password import SHORT_PASSWORD
from auth_portal.services import customers

COLUMNS = ("customer_id", "name", "phone", "email", "locale", "password", "totp_secret")
CLEAR = "-"
FAULTS_KEPT = 1000  # told in full; all are counted
NAME_LENGTH = 200
SEED_BITS = 128  # RFC 4226 R6 demands these; the 160 that it recommends are for the seeds we make ourselves (R15)
SEED_LENGTH = 128  # Base32 digits: no app makes longer ones
PHC_PREFIX = "$argon2id$"
PHC_MEMORY_KIB = 128 * 1024  # more, or more rounds, would let one sign-in stop the server
PHC_ROUNDS = 10
PHC_LANES = 16

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # and what turns text around
_LOCALE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})?")
_PHC = re.compile(
    r"\$argon2id\$(v=(16|19)\$)?m=\d{1,7},t=\d{1,4},p=\d{1,3}\$(?P<salt>[A-Za-z0-9+/]{11,86})\$(?P<hash>[A-Za-z0-9+/]{22,86})"
)
_FOREIGN_HASH = re.compile(
    r"(argon2)?\$(argon2\w*|2[abxy]?|[156]|7|y|scrypt|pbkdf2[\w-]*)\$|(pbkdf2|scrypt|bcrypt)[:_$]|\{[A-Z0-9]+\}"
)
_FORGIVEN_IN_SEEDS = str.maketrans("", "", " -\u00a0\t")

Source = bytes | Path | BinaryIO
Check = Callable[[str], str]


class CellFault(ValueError):
    """Why a cell cannot be used, without its value."""


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
    checks = {column: check for column, check in _checks(region).items() if column in reading.columns}
    seen: dict[str, int] = {}
    for number, cells in _rows(file, _delimiter(header), reading):
        _read_row(number, cells, checks, seen, reading)


def _delimiter(header: str) -> str:
    return max(",;", key=header.count)


def _columns(header: str, reading: Reading) -> tuple[str, ...]:
    names = [name.strip().strip('"').strip().lower() for name in header.rstrip("\r\n").split(_delimiter(header))]
    if not any(names):
        reading.refuse(1, "", f"is empty; it must name the columns: {', '.join(COLUMNS)}")
        return ()
    for position, name in enumerate(names, 1):
        if name not in COLUMNS:
            reading.refuse(1, f"column {position}", f"is not known; known: {', '.join(COLUMNS)}")
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
    number: int, cells: list[str], checks: Mapping[str, Check], seen: dict[str, int], reading: Reading
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
    found = {name: _checked(number, name, cell, checks[name], reading) for name, cell in said}
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


# --- What each column may hold -------------------------------------------------------------------------------


def _checks(region: str) -> dict[str, Check]:
    return {
        "customer_id": _customer_id,
        "name": _name,
        "phone": lambda cell: _phone(cell, region),
        "email": _email,
        "locale": _locale,
        "password": _password,
        "totp_secret": _seed,
    }


def _customer_id(cell: str) -> str:
    text = _one_line(cell)
    key = customers.customer_key(text)
    if max(len(text), len(key)) > customers.CUSTOMER_ID_LENGTH:
        raise CellFault(f"is longer than {customers.CUSTOMER_ID_LENGTH} characters")
    if not key or text == CLEAR:
        raise CellFault("is missing")
    return text


def _name(cell: str) -> str:
    text = _one_line(cell)
    if len(text) > NAME_LENGTH:
        raise CellFault(f"is longer than {NAME_LENGTH} characters")
    return text


def _phone(cell: str, region: str) -> str:
    number = customers.e164(cell, region)
    if number is None:
        raise CellFault(f"is no phone number (numbers without + are read as of {region})")
    return number


def _email(cell: str) -> str:
    address = customers.email_form(cell)
    if address is None or len(address) > customers.IDENTIFIER_LENGTH:
        raise CellFault("is no e-mail address that codes can be sent to")
    return address


def _locale(cell: str) -> str:
    text = cell.strip()
    if not _LOCALE.fullmatch(text):
        raise CellFault("must be a language such as en, af or zu, perhaps with a region as in en-ZA")
    return text


def _one_line(cell: str) -> str:
    text = cell.strip()
    if _CONTROLS.search(text):
        raise CellFault("has a line break or another control character in it")
    return text


def _password(cell: str) -> str:
    if _CONTROLS.search(cell):
        raise CellFault("has a line break or another control character in it")
    if is_hash(cell.strip()):
        return _argon2id(cell.strip())
    if _FOREIGN_HASH.match(cell.strip()):
        raise CellFault(f"is a hash that cannot be used; only those that begin with {PHC_PREFIX} can")
    text = normal_password(cell)
    if len(text) < SHORT_PASSWORD:
        raise CellFault(f"is shorter than {SHORT_PASSWORD} characters")
    if max(len(cell), len(text)) > PASSWORD_CODE_POINTS:
        raise CellFault(f"is longer than {PASSWORD_CODE_POINTS} characters")
    return text


def _argon2id(text: str) -> str:
    """A hash from elsewhere, if it is whole and one sign-in with it would not stop the server."""
    match = _PHC.fullmatch(text)
    if match is None or not (_is_base64(match["salt"]) and _is_base64(match["hash"])):
        raise CellFault("begins like an argon2id string and is none")
    cost = extract_parameters(text)
    if (
        cost.memory_cost > PHC_MEMORY_KIB
        or not 1 <= cost.time_cost <= PHC_ROUNDS
        or not 1 <= cost.parallelism <= PHC_LANES
    ):
        raise CellFault(
            f"costs too much to check: at most m={PHC_MEMORY_KIB}, t={PHC_ROUNDS}, p={PHC_LANES} are accepted"
        )
    if cost.memory_cost < 8 * cost.parallelism:  # RFC 9106 3.1: no argon2 can verify it
        raise CellFault("begins like an argon2id string and is none")
    return text


def _is_base64(text: str) -> bool:
    """Whether argon2 can read it: unpadded, and without bits left over at its end."""
    try:
        return base64.b64encode(base64.b64decode(text + "=" * (-len(text) % 4))).decode().rstrip("=") == text
    except binascii.Error:
        return False


def is_hash(password: str) -> bool:
    """Whether a checked password cell is an argon2id string rather than the password itself."""
    return password.startswith(PHC_PREFIX)


def _seed(cell: str) -> str:
    text = cell.strip().translate(_FORGIVEN_IN_SEEDS).rstrip("=").upper()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise CellFault("is no Base32 (letters A to Z and digits 2 to 7)") from None
    if len(raw) * 8 < SEED_BITS:
        raise CellFault(f"is shorter than {SEED_BITS} bits (26 characters)")
    if len(text) > SEED_LENGTH:
        raise CellFault(f"is longer than {SEED_LENGTH} characters")
    return text
