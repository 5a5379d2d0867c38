"""Imports of customers as the configuration page sees them.

A file is taken in, its columns are named, what it would change is looked at, it is started, watched, and taken back.
The work itself is ``imports.work``'s, in the background. Nothing here reads a row of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, NoReturn

from sqlalchemy import Connection, func, insert, select

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.errors import NotFound, Problem
from auth_portal.services import audit
from auth_portal.services.directory.customer_fields import FIELDS
from auth_portal.services.imports import switch
from auth_portal.services.imports.customers_csv import RowFault, read_header
from auth_portal.services.imports.files import UNDO_KEPT, faults, has_parts, open_parts, store_parts
from auth_portal.services.imports.staging import Counts
from auth_portal.services.imports.states import (
    CANCELLED,
    CHECKED,
    CHECKING,
    DONE,
    FAILED,
    IMPORTING,
    TELLING,
    UNDOING,
    UPLOADED,
    WORK,
    move,
)
from auth_portal.services.imports.telling import LONGEST, Notices, Telling, Way, longest
from auth_portal.services.imports.undoing import CHANGED
from auth_portal.services.imports.work import new_import
from auth_portal.services.journeys import Journeys
from auth_portal.store.db import Database
from auth_portal.store.models import Admin, ImportRow, table_of

WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # how .xlsx and .ods, and how .xls begin; others are web pages
PEEKED = 64  # bytes
PAGE = 20  # imports of one page of their list
FEWEST_FOR_A_GUESS = 50  # rows done before the time that is left is guessed
NAMED_AT_MOST = 10  # customers who stand in the way of an undo
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
_FIELD_OF = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings.split()}
GONE = "somebody who is gone"  # between two looks
_NOT_PLAIN = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True)
class Import:
    """An import as pages tell of it. Times in UTC."""

    id: str
    file_name: str
    state: str
    columns: Sequence[str]
    counts: Counts
    fault_count: int
    is_cut: bool
    is_partial: bool
    reason: str
    by: str  # who sent the file; nobody for a command
    created_at: datetime
    ended_at: datetime | None
    switched_at: datetime | None
    done: int
    total: int
    seconds_left: int | None  # of the work under way, as far as it can be told
    undo_fault: str  # why an undo that was asked for could not be done
    is_telling: bool

    @property
    def is_at_work(self) -> bool:
        """Whether something goes on in the background."""
        return self.state in WORK

    @property
    def may_start(self) -> bool:
        """Whether all of it, or a part, could be imported now."""
        return self.state == CHECKED and not self.is_cut and bool(self.counts.new or self.counts.changed)

    @property
    def may_be_mapped(self) -> bool:
        """Whether its columns may be named, or named anew."""
        return self.state in (UPLOADED, CHECKED, FAILED)

    @property
    def percent(self) -> int:
        """How much of the work under way is done."""
        return min(100, self.done * 100 // self.total) if self.total else 0


class Imports:
    """Takes in files, starts imports and takes them back. ``admin_id`` is whose act it is."""

    def __init__(
        self, database: Database, keyring: Keyring, clock: Clock, journeys: Journeys, notices: Notices,
        wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._journeys = journeys
        self._wake = wake
        self._telling = Telling(database, keyring, clock, notices)

    def receive(self, source: IO[bytes], file_name: str, *, admin_id: str) -> str:
        """Takes in a file, sealed part by part; its id. Raises Problem where it is empty, a workbook or not UTF-8."""
        begin = source.read(PEEKED)
        if begin.startswith(WORKBOOKS) or begin.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
            raise Problem("import_workbook", status=422)
        source.seek(0)
        now = self._clock()
        values = new_import(
            now, file_name=_clean(file_name), region=self._region(), is_attended=False, admin_id=admin_id
        )  # fmt: skip
        with self._database.write() as connection:
            connection.execute(insert(ImportRow), values)
        try:
            lines = store_parts(self._database, self._keyring, values["id"], source)
        except UnicodeDecodeError:
            self._refuse(values["id"], "import_not_utf8", "it is not in UTF-8")
        if not lines:
            self._refuse(values["id"], "import_empty", "it has no rows")
        with self._database.write() as connection:
            move(connection, values["id"], UPLOADED, self._clock(), rows=lines)
            self._record(connection, "customers_import_uploaded", admin_id, values["id"])
        return str(values["id"])

    def _refuse(self, import_id: str, code: str, reason: str) -> NoReturn:
        with self._database.write() as connection:
            move(connection, import_id, CANCELLED, self._clock(), reason=reason)
        raise Problem(code, status=422)

    def _region(self) -> str:
        return self._journeys.current().portal.default_region

    def _record(self, connection: Connection, kind: str, admin_id: str, import_id: str, **facts: Any) -> None:
        audit.record(connection, self._keyring, self._clock(), kind, admin_id=admin_id, import_id=import_id, **facts)

    def header(self, import_id: str) -> list[str]:
        """What the file itself calls its columns; nothing where it is not kept any more."""
        if not has_parts(self._database, import_id):
            return []
        return read_header(open_parts(self._database, self._keyring, import_id))

    def name_columns(self, import_id: str, columns: Sequence[str]) -> dict[str, str]:
        """Says which of ours each column of the file is ("" is not imported), and has the file checked.

        Gives what is wrong, by field, and then changed nothing. Raises Problem where it is too late for that.
        """
        if found := column_faults(columns):
            return found
        if not has_parts(self._database, import_id):
            raise Problem("import_file_gone", status=410)
        now = self._clock()
        with self._database.write() as connection:
            move(
                connection, import_id, CHECKING, now, columns=list(columns), region=self._region(), counts={},
                fault_count=0, is_cut=False, total=ImportRow.rows,
            )  # fmt: skip
        self._wake()
        return {}

    def start(self, import_id: str, *, is_partial: bool, is_telling: bool, admin_id: str) -> None:
        """Has a checked import done.

        Raises Problem where it cannot be, where it has faults and is not to be partial, and where telling customers
        would take too many days.
        """
        found = self.get(import_id)
        if not found.may_start:
            raise Problem("import_moved_on", status=409)
        if found.fault_count and not is_partial:
            raise Problem("import_has_faults", status=422)
        if is_telling and longest(self.ways(found)) > LONGEST.days:
            raise Problem("import_telling_long", status=422)
        with self._database.write() as connection:
            move(
                connection, import_id, IMPORTING, self._clock(), is_partial=is_partial, is_telling=is_telling,
                total=found.counts.plain,
            )  # fmt: skip
            self._record(connection, "customers_import_started", admin_id, import_id, partial=is_partial)
        self._wake()

    def cancel(self, import_id: str, *, admin_id: str) -> None:
        """Gives an import up before its switch: nothing was changed. Raises Problem where it is too late."""
        with self._database.write() as connection:
            move(connection, import_id, CANCELLED, self._clock())
            self._record(connection, "customers_import_cancelled", admin_id, import_id)

    def ways(self, found: Import) -> list[Way]:
        """How the messages that tell customers of this import would leave, as things stand now."""
        return self._telling.ways(found.counts.messages)

    def may_undo(self, found: Import) -> bool:
        """Whether it is the last import that changed something, and not too old."""
        if found.state not in (DONE, TELLING) or found.switched_at is None:
            return False
        if self._clock() - found.switched_at > UNDO_KEPT:
            return False
        with self._database.read() as connection:
            newest = connection.execute(select(func.max(ImportRow.switched_at))).scalar_one()
        return bool(newest == found.switched_at)

    def undo(self, import_id: str, *, admin_id: str) -> None:
        """Has what the import changed put back, all of it or nothing; customers who are being told no more are.

        Raises Problem where it is not the last import, or too old.
        """
        if not self.may_undo(self.get(import_id)):
            raise Problem("import_undo_over", status=409)
        with self._database.write() as connection:
            asked = {"undone_by": admin_id, "undo_fault": "", "is_attended": False, "total": 0}
            move(connection, import_id, UNDOING, self._clock(), **asked)
            self._record(connection, "customers_import_undo_asked", admin_id, import_id)
        self._wake()

    def in_the_way(self, found: Import) -> list[str]:
        """The customers for whose sake an undo was refused, at most ten: somebody changed them since the import."""
        if found.undo_fault != CHANGED or found.switched_at is None:
            return []
        staged = switch.extent(self._database, found.id)
        rows = switch.changed_since(self._database, found.id, found.switched_at, staged, NAMED_AT_MOST)
        return [str(row.customer_id) for row in rows] or [GONE]

    # --- Looking ---------------------------------------------------------------------------------------------

    def get(self, import_id: str) -> Import:
        """One import. Raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(_IMPORTS.where(ImportRow.id == import_id)).one_or_none()
        if row is None:
            raise NotFound("import_unknown")
        return self._as_told(row)

    def page(self, before: str = "") -> list[Import]:
        """The imports that were begun before this one (all of them without it), the newest first; one page."""
        wanted = _IMPORTS.order_by(ImportRow.id.desc()).limit(PAGE + 1)
        if before:
            wanted = wanted.where(ImportRow.id < before)
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
        return [self._as_told(row) for row in rows]

    def _as_told(self, row: Any) -> Import:
        return Import(
            id=row.id,
            file_name=row.file_name,
            state=row.state,
            columns=row.columns,
            counts=Counts.from_json(row.counts),
            fault_count=row.fault_count,
            is_cut=row.is_cut,
            is_partial=row.is_partial,
            reason=row.reason,
            by=row.by or "",
            created_at=row.created_at,
            ended_at=row.ended_at,
            switched_at=row.switched_at,
            done=row.done,
            total=row.total,
            seconds_left=_seconds_left(row, self._clock()),
            undo_fault=row.undo_fault,
            is_telling=row.is_telling,
        )

    def faults(self, import_id: str, most: int) -> list[RowFault]:
        """The first faults of an import."""
        return [fault for _number, fault in faults(self._database, import_id, most=most)]

    def all_faults(self, import_id: str) -> Iterator[RowFault]:
        """Every fault that was kept, read as it is asked for."""
        after = -1
        while some := faults(self._database, import_id, after=after):
            after = some[-1][0]
            yield from (fault for _number, fault in some)


_IMPORTS = select(*table_of(ImportRow).c, Admin.name.label("by")).outerjoin(Admin, Admin.id == ImportRow.admin_id)


def guesses(header: Sequence[str]) -> list[str]:
    """Which of our columns each column of a file seems to be, each of ours once; "" where nothing fits."""
    found: list[str] = []
    for name in header:
        guess = _FIELD_OF.get(_NOT_PLAIN.sub("", name.lower()), "")
        found.append("" if guess in found else guess)
    return found


def column_faults(columns: Sequence[str]) -> dict[str, str]:
    """What is wrong with a choice of columns, by the field of the page."""
    found = {}
    for position, name in enumerate(columns):
        if name and name not in FIELDS:
            found[f"column-{position}"] = "unknown"
        elif name and name in columns[:position]:
            found[f"column-{position}"] = "twice"
    if "customer_id" not in columns:
        found["columns"] = "no_customer_id"
    return found


def _seconds_left(row: Any, now: datetime) -> int | None:
    if row.state not in WORK or row.began_at is None or row.done < FEWEST_FOR_A_GUESS or row.total <= row.done:
        return None
    took: float = (now - row.began_at).total_seconds()
    return int(took * (row.total - row.done) / row.done)


def _clean(file_name: str) -> str:
    """A file's name as it may be shown, without a path."""
    name = re.split(r"[/\\]", file_name)[-1]
    return "".join(char for char in name if char.isprintable())[:120] or "customers.csv"
