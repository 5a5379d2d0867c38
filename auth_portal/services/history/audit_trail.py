"""Read the audit trail: search and export. What is shown is compared with its own HMAC; ``audit_check`` does more."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select

from auth_portal.clock import iso_exact
from auth_portal.services.directory.person import customer_key, has_id
from auth_portal.services.history.lists import PAGE, Condition, Listing, Search, as_written, listed, made_between
from auth_portal.services.history.words import EVENTS, browser_words, event_sentence, who_acted
from auth_portal.store.db import EVENT_FIELDS, Transactions, canonical_event, parted_facts
from auth_portal.store.models import COMMON_KINDS, RARE_KIND, Admin, ApiKeyRow, AuditEvent, CustomerRow

BATCH = 1000  # events of an export that are loaded at once
ABOUT_KEYS = ("api_key_created", "api_key_revoked")  # their fact ``api_key`` is not who acted
KINDS = tuple(sorted(EVENTS))
FORMATS = ("csv", "jsonl")
CSV_COLUMNS: tuple[str, ...] = (
    "at",
    "kind",
    "text",
    "admin",
    "customer_id",
    "verification_id",
    "subject_id",
    "admin_id",
    "facts",
    "id",
)
CSV_COLUMNS += ("by", "address", "browser")  # since 0.2.0; what reads columns by their place finds the others as before
# Beginnings that make a spreadsheet compute a cell (R43). An Excel for Chinese or Japanese reads the wide ones, too.
UNDEFUSED = ("=", "+", "-", "@", "\t", "\r", *"\uff1d\uff0b\uff0d\uff20")


@dataclass(frozen=True)
class AuditFilter:
    """Which events to list; an empty field does not filter. Times are UTC."""

    kind: str = ""
    admin_id: str = ""
    subject_id: str = ""
    verification_id: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class AuditLine:
    """One event. ``holds`` is True if its HMAC is that of its content.

    ``by`` is who did it: an admin or an API key by name, or a command; empty for customers. ``address``, ``browser`` in
    words, and the ``account`` that ran a command say from where. ``facts`` are as they were recorded.
    """

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
    by: str
    address: str
    browser: str
    account: str


_EVENT = tuple(getattr(AuditEvent, name) for name in (*EVENT_FIELDS, "mac"))
_EVENTS: Select[Any] = (
    select(*_EVENT, Admin.name.label("admin"), CustomerRow.id.label("customer_row"), CustomerRow.customer_id)
    .outerjoin(Admin, Admin.id == AuditEvent.admin_id)
    .outerjoin(CustomerRow, CustomerRow.subject_id == AuditEvent.subject_id)
)


class AuditTrail:
    """Search and export the audit trail."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def page(self, wanted: AuditFilter, *, after: str = "", most: int = PAGE) -> Listing[AuditLine]:
        """Return a page of events, newest first."""
        found_by, filtered_by = _conditions(wanted)
        search = Search(found_by=[found_by], filtered_by=filtered_by, after=after, most=most)
        with self._transactions.read() as work:
            found = listed(work.connection, _EVENTS, AuditEvent.id, search)

            # Events of before 0.2.0 have a key's id and not its name.
            keys = {row.facts["api_key"] for row in found.rows if row.facts.get("api_key")}
            names = select(ApiKeyRow.id, ApiKeyRow.name).where(ApiKeyRow.id.in_(keys))
            named = {row.id: row.name for row in work.execute(names)} if keys else {}

        def line(row: Any) -> AuditLine:
            values = row._asdict()
            values.pop("mac")
            holds = self._transactions.keyring.is_audit_mac(canonical_event(values), row.mac)
            own, origin = parted_facts(row.facts)
            name = named.get(origin.get("api_key"), "")
            if row.kind in ABOUT_KEYS:
                own, origin = {"name": name, **own}, {**origin, "api_key": ""}
            elif name:
                origin.setdefault("key", name)
            return AuditLine(
                **values,
                text=event_sentence(row.kind, own),
                holds=holds,
                by=who_acted(row.admin or "", origin),
                address=origin.get("address", ""),
                browser=browser_words(origin.get("browser", "")),
                account=origin.get("account", ""),
            )

        return found.of(line)

    def last_of(self, subject_id: str, most: int) -> Listing[AuditLine]:
        """Return the last events about a customer, newest first."""
        return self.page(AuditFilter(subject_id=subject_id), most=most)

    def subject_of(self, customer_id: str) -> str | None:
        """Return the subject id by which events name a customer; None if no customer has this customer ID."""
        found = select(CustomerRow.subject_id).where(has_id(customer_key(customer_id)))
        with self._transactions.read() as work:
            return work.execute(found.limit(1)).scalar_one_or_none()

    def customer_of(self, subject_id: str) -> str:
        """Return the customer ID of a subject id; "" if the customer was erased."""
        found = select(CustomerRow.customer_id).where(CustomerRow.subject_id == subject_id)
        with self._transactions.read() as work:
            return work.execute(found).scalar_one_or_none() or ""

    def admins(self) -> list[tuple[str, str]]:
        """Return every admin's id and name, to choose from."""
        with self._transactions.read() as work:
            rows = work.execute(select(Admin.id, Admin.name).order_by(Admin.name, Admin.id)).all()
        return [(row.id, row.name) for row in rows]

    def export(self, wanted: AuditFilter, form: str, *, admin_id: str) -> Iterator[str]:
        """Return all events of a filter, newest first, as ``csv`` or ``jsonl``, in pieces. The export is audited."""
        with self._transactions.write() as work:
            work.record("audit_exported", admin_id=admin_id, format=form)
        if form == "csv":
            return _as_csv(self._all(wanted))
        return (_as_json(line) for lines in self._all(wanted) for line in lines)

    def _all(self, wanted: AuditFilter) -> Iterator[Sequence[AuditLine]]:
        after = ""
        while True:
            found = self.page(wanted, after=after, most=BATCH)
            yield found.rows
            if not (after := found.older):
                return


def _conditions(wanted: AuditFilter) -> tuple[list[Condition], list[Condition]]:
    """Return what an index serves, the one that finds the fewest rows, and the rest."""
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
    """Return a cell of a CSV file that no spreadsheet runs as a formula (R43)."""
    return f"'{cell}" if cell.startswith(UNDEFUSED) else cell


def _as_csv(batches: Iterator[Sequence[AuditLine]]) -> Iterator[str]:
    yield csv_rows([CSV_COLUMNS])
    for lines in batches:
        yield csv_rows([[_cell(line, name) for name in CSV_COLUMNS] for line in lines])


def csv_rows(rows: Iterable[Iterable[object]]) -> str:
    """Return rows of a CSV file. Each cell is one line of text, and none is run as a formula (R43)."""
    written = io.StringIO()
    csv.writer(written).writerows([defused(cell_text(value)) for value in row] for row in rows)
    return written.getvalue()


def cell_text(value: object) -> str:
    """Return a value as one line of text, whatever it contains."""
    return " ".join((iso_exact(value) if isinstance(value, datetime) else str(value or "")).split())


def _cell(line: AuditLine, name: str) -> str:
    """Return a field as one line of text."""
    value = getattr(line, name)
    return json.dumps(value, sort_keys=True) if name == "facts" else cell_text(value)


def _as_json(line: AuditLine) -> str:
    cells = {name: _cell(line, name) for name in CSV_COLUMNS if name != "facts"}
    return f"{json.dumps({'facts': line.facts, **cells}, sort_keys=True)}\n"
