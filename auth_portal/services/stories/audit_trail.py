"""Reading the audit trail: searching, exporting, and checking that no event was edited. ``audit`` writes it.

Each event's own HMAC is checked, which shows an edited event. That none was removed, added or moved cannot be shown by
it: that needs the sealed chain, which is not there yet, and whoever checks is told so.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select

from auth_portal.clock import Clock, iso_exact
from auth_portal.crypto import Keyring, same_text
from auth_portal.services import audit
from auth_portal.services.directory.customers import customer_key
from auth_portal.services.stories.audit_words import SENTENCES, sentence
from auth_portal.services.stories.lists import PAGE, Condition, Listing, as_written, listed, made_between
from auth_portal.store.db import Database
from auth_portal.store.models import COMMON_KINDS, RARE_KIND, Admin, AuditEvent, CustomerRow

BATCH = 1000  # events of an export read at once
CHECKED_AT_ONCE = 5000  # events checked in one request: some 0.3 s
KINDS = tuple(sorted(SENTENCES))
FORMATS = ("csv", "jsonl")
CSV_COLUMNS = ("at", "kind", "text", "admin", "customer_id", "verification_id", "subject_id", "admin_id", "facts", "id")
UNDEFUSED = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet compute a cell (R43)


@dataclass(frozen=True)
class AuditFilter:
    """Which events are wanted; what is empty does not count. Times are UTC."""

    kind: str = ""
    admin_id: str = ""
    subject_id: str = ""
    verification_id: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class AuditLine:
    """One event. ``holds`` is whether its HMAC is that of its content."""

    id: str
    at: datetime
    kind: str
    text: str
    verification_id: str | None
    subject_id: str | None
    customer_row: str | None
    customer_id: str | None
    admin_id: str | None
    admin: str | None
    facts: dict[str, Any]
    holds: bool


@dataclass(frozen=True)
class Checked:
    """How many events were checked, which of them do not hold, and from where to go on (empty at the end)."""

    count: int
    broken: tuple[str, ...]
    older: str = ""


_EVENT = tuple(getattr(AuditEvent, name) for name in (*audit.FIELDS, "mac"))
_EVENTS: Select[Any] = (
    select(*_EVENT, Admin.name.label("admin"), CustomerRow.id.label("customer_row"), CustomerRow.customer_id)
    .outerjoin(Admin, Admin.id == AuditEvent.admin_id)
    .outerjoin(CustomerRow, CustomerRow.subject_id == AuditEvent.subject_id)
)


class AuditTrail:
    """Searches, exports and checks."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    def page(self, wanted: AuditFilter, *, after: str = "", most: int = PAGE) -> Listing[AuditLine]:
        """A page of events, newest first."""
        with self._database.read() as connection:
            return self._page(connection, wanted, after, most)

    def _page(self, connection: Connection, wanted: AuditFilter, after: str, most: int) -> Listing[AuditLine]:
        found_by, filtered_by = _conditions(wanted)
        found = listed(
            connection, _EVENTS, AuditEvent.id, found_by=[found_by], filtered_by=filtered_by, after=after, most=most
        )
        return found.of(self._line)

    def subject_of(self, customer_id: str) -> str | None:
        """The subject id by which events name a customer; None where nobody has this customer ID."""
        found = select(CustomerRow.subject_id).where(CustomerRow.customer_key == customer_key(customer_id))
        with self._database.read() as connection:
            return connection.execute(found).scalar_one_or_none()

    def customer_of(self, subject_id: str) -> str:
        """The customer ID of a subject id; nothing where the customer is gone."""
        found = select(CustomerRow.customer_id).where(CustomerRow.subject_id == subject_id)
        with self._database.read() as connection:
            return connection.execute(found).scalar_one_or_none() or ""

    def admins(self) -> list[tuple[str, str]]:
        """Every admin's id and name, to choose from."""
        with self._database.read() as connection:
            rows = connection.execute(select(Admin.id, Admin.name).order_by(Admin.name, Admin.id)).all()
        return [(row.id, row.name) for row in rows]

    def export(self, wanted: AuditFilter, form: str, *, admin_id: str) -> Iterator[str]:
        """All events that are wanted, newest first, as ``csv`` or ``jsonl``, in pieces. The export is audited."""
        with self._database.write() as connection:
            audit.record(connection, self._keyring, self._clock(), "audit_exported", admin_id=admin_id, format=form)
        return _as_csv(self._all(wanted)) if form == "csv" else _as_json_lines(self._all(wanted))

    def _all(self, wanted: AuditFilter) -> Iterator[Sequence[AuditLine]]:
        after = ""
        while True:
            found = self.page(wanted, after=after, most=BATCH)
            yield found.rows
            if not (after := found.older):
                return

    def check(self, *, after: str = "", most: int = CHECKED_AT_ONCE) -> Checked:
        """Holds the next ``most`` events, newest first, against their HMACs."""
        with self._database.read() as connection:
            found = listed(connection, select(*_EVENT), AuditEvent.id, after=after, most=most)
        broken = [row.id for row in found.rows if not self._holds(row)]
        return Checked(len(found.rows), tuple(broken), found.older)

    def check_all(self) -> Iterator[Checked]:
        """Every event, in pieces."""
        after = ""
        while True:
            checked = self.check(after=after)
            yield checked
            if not (after := checked.older):
                return

    def _holds(self, row: Any) -> bool:
        event = {name: getattr(row, name) for name in audit.FIELDS}
        return same_text(row.mac, self._keyring.audit_mac(audit.canonical(event)))

    def _line(self, row: Any) -> AuditLine:
        values = row._asdict()
        values.pop("mac")
        return AuditLine(**values, text=sentence(row.kind, row.facts), holds=self._holds(row))


def _conditions(wanted: AuditFilter) -> tuple[list[Condition], list[Condition]]:
    """What an index serves, the one that finds fewest, and the rest."""
    by = {
        "verification_id": AuditEvent.verification_id == wanted.verification_id,
        "subject_id": AuditEvent.subject_id == wanted.subject_id,
        "kind": AuditEvent.kind == wanted.kind,
        "admin_id": AuditEvent.admin_id == wanted.admin_id,
    }
    given = {name: condition for name, condition in by.items() if getattr(wanted, name)}
    between = made_between(AuditEvent.id, wanted.since, wanted.until)
    served = next((name for name in given if name != "kind" or wanted.kind not in COMMON_KINDS), None)
    found_by: list[Condition] = [given.pop(served)] if served else []
    if served == "kind":
        found_by.append(as_written(RARE_KIND))
    return [*found_by, *between], list(given.values())


def defused(cell: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula (R43)."""
    return f"'{cell}" if cell.startswith(UNDEFUSED) else cell


def _as_csv(batches: Iterator[Sequence[AuditLine]]) -> Iterator[str]:
    yield _csv_rows([CSV_COLUMNS])
    for lines in batches:
        yield _csv_rows([[defused(_cell(line, name)) for name in CSV_COLUMNS] for line in lines])


def _csv_rows(rows: Sequence[Sequence[str]]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()


def _cell(line: AuditLine, name: str) -> str:
    """One line of text, whatever it contains."""
    value = getattr(line, name)
    if name == "facts":
        return json.dumps(value, sort_keys=True)
    return " ".join((iso_exact(value) if isinstance(value, datetime) else str(value or "")).split())


def _as_json_lines(batches: Iterator[Sequence[AuditLine]]) -> Iterator[str]:
    for lines in batches:
        yield "".join(f"{json.dumps(_json(line), sort_keys=True)}\n" for line in lines)


def _json(line: AuditLine) -> dict[str, Any]:
    return {"facts": line.facts, **{name: _cell(line, name) for name in CSV_COLUMNS if name != "facts"}}
