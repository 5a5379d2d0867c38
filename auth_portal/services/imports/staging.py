"""The staged rows of an import: compared with the directory, counted, switched in, and perhaps taken back.

A staged row holds every new value sealed for the row of ``customers`` that it is meant for, and every old one as it is
stored there, so that the switch and its undo are SQL alone: each is one transaction, all of it or nothing. Both write a
customer only if their row is still as it was when the rows were staged or switched, and return how many they wrote:
fewer than all rolls the transaction back. ``bench/imports.py`` measures how long other writers wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, select

from auth_portal.crypto import Passwords
from auth_portal.methods.password import is_long
from auth_portal.services.delivery.notices import kind_of
from auth_portal.services.directory.batches import delete_those, insert_from, rebuilt_indexes, update_from
from auth_portal.services.directory.fields import (
    CONTACTS,
    FIELDS,
    column_values,
    contact_times,
    differ_in_case,
    is_hash,
    new_row,
    opened,
)
from auth_portal.services.directory.person import (
    CASED,
    OWN,
    country_of,
    customer_key,
    end_links,
    hold_id_rule,
    learn_id_rule,
    line_of,
    shared_keys,
)
from auth_portal.services.imports.csv import CsvFindings, CustomerEntry, RowFault
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import IMPORT_ROW_PLAIN, CredentialLink, CustomerRow, StagedRow, table_of

BATCH = 200  # rows compared, and staged in one transaction of about 10 ms
FIELD_COLUMNS: Mapping[str, tuple[str, ...]] = {  # by field; the first column shows whether it was changed
    "customer_id": ("customer_id", "identity_mac"),
    "name": ("name_sealed", "name_key"),
    "phone": ("phone_sealed", "phone_key", "phone_country"),
    "email": ("email_sealed", "email_key"),
    "locale": ("locale",),
    "password": ("password_hash", "password_is_long"),
    "totp_secret": ("totp_sealed",),
}
VALUE_COLUMNS = tuple(column for columns in FIELD_COLUMNS.values() for column in columns)
BITS = {name: 1 << position for position, name in enumerate(FIELDS)}
NOTHING: Mapping[str, Any] = {"customer_id": None, "locale": "", "password_is_long": False}
NOTES = {  # what an import says about rows that it takes, by the kind of note in ``CsvFindings``
    "title": "above the names of the columns: not imported",
    "trailer": "not a customer but a total, a ruler or a footer: not imported",
    "several_phone": "several phone numbers in one cell: the first that can be used is imported",
    "several_email": "several email addresses in one cell: the first that can be used is imported",
    "null": "NULL or the like in a cell: it counts as empty",
    "locale": "an unknown language: a new customer gets the default language, the others keep theirs",
    "rounded": "a customer ID of more than 15 digits that ends in zeros: the spreadsheet may have rounded it. Compare"
    " it with its source, and make the column Text before you fill it",
}
RESPELLED = (
    "is a customer's already, with other capital letters. If it is the same customer, write the ID as it is stored; if"
    " not, import IDs that differ otherwise (of Salesforce the ones of 18 characters)"
)
SHARED = "is stored for several customers in different spellings; change or erase all but one of them first"
NOT_HASHED = "not hashed yet"
TOTP_STEP_SECONDS = 30
# Measured with 100,000 customers on SQLite: row by row 1.5 s of one core, with rebuilt indexes 0.7 s.
REBUILD_ROWS = 5_000  # fewer take hardly any time
REBUILD_SHARE = 3  # one of so many customers: changing an index in two places takes 5 µs a row, building it 1.5 µs
_CUSTOMERS, _STAGED = table_of(CustomerRow).c, table_of(StagedRow).c

_STORED = select(
    *(getattr(CustomerRow, column) for column in ("id", "customer_key", "subject_id", "is_active", *VALUE_COLUMNS)),
)

SamePassword = Callable[["StoredCustomer", str], bool]


def fields_of(sets: int) -> list[str]:
    """Return the fields that a staged row changes."""
    return [name for name, bit in BITS.items() if sets & bit]


@dataclass
class Tally:
    """What an import does to one column, in rows. An empty cell counts nowhere."""

    new: int = 0
    changed: int = 0
    cleared: int = 0
    equal: int = 0

    def __str__(self) -> str:
        return f"{self.new} new, {self.changed} changed, {self.cleared} cleared, {self.equal} equal"


@dataclass
class ImportCounts:
    """What an import does, in customers and by column."""

    new: int = 0
    changed: int = 0
    equal: int = 0
    hashes: int = 0  # passwords that come as argon2id strings
    plain: int = 0  # passwords to be hashed
    short: int = 0  # of these, the ones that count only together with a second proof (R21)
    columns: dict[str, Tally] = field(default_factory=dict)
    messages: dict[str, int] = field(default_factory=dict)  # notices to old and new contacts: "email", or "sms:ZA"
    notified: int = 0  # customers who get these notices; stored as "told"
    left_out: int = 0  # rows that were not imported
    countries: dict[str, int] = field(default_factory=dict)  # phone numbers of the file in each; "" is in none
    lines: dict[str, int] = field(default_factory=dict)  # of these, by kind, the ones that may get no SMS
    notes: dict[str, list[int]] = field(default_factory=dict)  # by NOTES: how many rows, and the first of them
    file_notes: list[str] = field(default_factory=list)  # what to know about the file; each follows "the file"

    def add(self, plan: RowPlan) -> None:
        """Count one row."""
        for name, verdict in plan.verdicts.items():
            tally = self.columns[name]
            setattr(tally, verdict, getattr(tally, verdict) + 1)
        self.new += plan.stored is None
        self.changed += plan.stored is not None and not plan.is_equal
        self.equal += plan.is_equal
        if phone := plan.entry.cells.get("phone"):
            country = country_of(phone)
            self.countries[country] = self.countries.get(country, 0) + 1
            if line := line_of(phone):
                self.lines[line] = self.lines.get(line, 0) + 1
        password = plan.entry.cells.get("password")
        if password is not None:
            self.hashes += is_hash(password)
            self.plain += not is_hash(password)
            self.short += not is_hash(password) and not is_long(password)
        contacts = plan.notified_contacts
        self.notified += bool(contacts)
        for contact in contacts:
            kind = ":".join(filter(None, kind_of(contact)))
            self.messages[kind] = self.messages.get(kind, 0) + 1

    def found_equal(self, *, row_is_equal: bool) -> None:
        """Correct the count for a password that turned out to be the stored one."""
        self.columns["password"].changed -= 1
        self.columns["password"].equal += 1
        if row_is_equal:
            self.changed -= 1
            self.equal += 1

    def leave_out(self, new: int, changed: int) -> None:
        """Correct the count for rows that cannot be imported after all."""
        self.new -= new
        self.changed -= changed
        self.left_out += new + changed

    @property
    def all_messages(self) -> int:
        """Return the number of notices if every customer concerned is notified."""
        return sum(self.messages.values())

    @property
    def by_country(self) -> dict[str, int]:
        """Return how many phone numbers of the file are in each country, the most first."""
        counts = sorted(self.countries.items(), key=lambda item: (-item[1], item[0]))
        return {country or "no country": count for country, count in counts}

    @property
    def warnings(self) -> list[str]:
        """Return what to look at before the import, in sentences."""
        found = [f"The file {note}." for note in self.file_notes]
        for kind, (number, *rows) in self.notes.items():
            these = ", ".join(map(str, rows)) + (" and more" if number > len(rows) else "")
            found.append(f"Row{'s' if number > 1 else ''} {these}: {NOTES[kind]}.")
        if self.lines:
            lines = ", ".join(f"{number} {kind}" for kind, number in sorted(self.lines.items()))
            found.append(f"A code by SMS may never arrive at these phone numbers of the file: {lines}.")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the counts as they are stored.

        What earlier versions do not know stands among the columns, where they read only those in ``order``.
        """
        values = {**vars(self), "told": self.notified, "order": list(self.columns)}
        values["columns"] = {name: vars(tally) for name, tally in self.columns.items()}
        values["columns"] |= {name: values.pop(name) for name in ("countries", "lines", "notes")}
        values["columns"]["file"] = values.pop("file_notes")
        del values["notified"]
        return values

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ImportCounts:
        """Return counts that were stored."""
        values = dict(stored)
        columns, order = dict(values.pop("columns", {})), values.pop("order", [])
        later = {name: columns.get(name, {}) for name in ("countries", "lines", "notes")}
        later["file_notes"] = columns.get("file", [])
        tallies = {name: Tally(**columns[name]) for name in order}
        return cls(notified=values.pop("told", 0), columns=tallies, **later, **values)


@dataclass(frozen=True, slots=True)
class StoredCustomer:
    """A customer as stored: the row, and the values of the file's columns in the clear."""

    row: Mapping[str, Any]
    texts: Mapping[str, str]

    def has_password(self, plain: str, passwords: Passwords) -> bool:
        """Report whether a plain password is the stored one; costs a hash."""
        return is_same_password(passwords, self.texts.get("password"), self.row["password_is_long"], plain)


@dataclass(frozen=True, slots=True)
class RowPlan:
    """What one row of the file changes: the values to seal, each None to clear, and a verdict for each column."""

    entry: CustomerEntry
    stored: StoredCustomer | None
    changes: Mapping[str, str | None]
    verdicts: Mapping[str, str]  # column: new, changed, cleared or equal
    is_active: bool | None = None  # None if that stays as it is; a file never says

    @property
    def is_equal(self) -> bool:
        """Report whether the directory has all of it already."""
        return self.stored is not None and not self.changes and self.is_active is None

    @property
    def is_respelled(self) -> bool:
        """Report whether the customer is stored with other capital letters: it may be another person's ID."""
        return self.stored is not None and differ_in_case(str(self.stored.row["customer_id"]), self.entry.customer_id)

    @property
    def plain_password(self) -> str | None:
        """Return the password that is to be hashed, or None."""
        password = self.entry.cells.get("password") if "password" in self.changes else None
        return None if password is None or is_hash(password) else password

    @property
    def notified_contacts(self) -> list[str]:
        """Return the old and the new ones of the contacts that change: where notices would go."""
        if self.stored is None:
            return []
        changed = [name for name in CONTACTS if name in self.changes]
        both = [text for name in changed for text in (self.stored.texts.get(name), self.changes[name])]
        return [text for text in both if text is not None]


class Comparison:
    """Compare rows of a file with the directory."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._keyring = transactions.keyring

    def learn_id_rule(self) -> None:
        """Read whether customer IDs are case-sensitive now: in the background nothing else may have done that."""
        with self._transactions.read() as work:
            learn_id_rule(work.connection, work.keyring)

    def key_of(self, customer_id: str) -> str:
        """Return what this portal finds a customer ID by."""
        return customer_key(self._keyring, customer_id)

    def plans(
        self, entries: Sequence[CustomerEntry], columns: Iterable[str], *, same: SamePassword | None = None
    ) -> list[RowPlan]:
        """Return what each row changes, found in one query. ``same`` reports whether a password is the stored one.

        It costs a hash for each. Without it a plain password of a customer who has one counts as changed until it is
        hashed.
        """
        named = _STORED.where(CustomerRow.customer_key.in_([entry.key for entry in entries]))
        with self._transactions.read() as work:
            rows = [dict(row) for row in work.execute(named).mappings()]
        names = tuple(columns)
        stored = {str(row["customer_key"]): StoredCustomer(row, opened(self._keyring, row, names)) for row in rows}
        plans = []
        for entry in entries:
            known, wanted = stored.get(entry.key), {"customer_id": entry.customer_id, **entry.cells}
            before = known.texts if known is not None else {}
            plain = wanted.get("password")
            if known is not None and plain and not is_hash(plain) and before.get("password"):
                wanted["password"] = before["password"] if same is not None and same(known, plain) else NOT_HASHED
            verdicts = {name: _verdict(before.get(name) or None, text) for name, text in wanted.items()}
            changes = {name: wanted[name] for name, verdict in verdicts.items() if verdict != "equal"}
            was_active = known is None or known.row["is_active"]
            is_active = entry.is_active if entry.is_active != was_active else None
            plans.append(RowPlan(entry, known, changes, verdicts, is_active))
        return plans

    def safe_plans(
        self, findings: CsvFindings, *, same: SamePassword | None = None
    ) -> tuple[list[RowPlan], list[RowFault]]:
        """Return what the rows found since the last call change, and all faults.

        None of the rows overwrites another customer whose ID looks the same.
        """
        self.refuse_shared(findings)
        plans = []
        for plan in self.plans(findings.entries, findings.columns, same=same):
            if plan.is_respelled:
                findings.refuse(plan.entry.row, "customer_id", RESPELLED)
            else:
                plans.append(plan)
        return plans, findings.take()[1]

    def refuse_shared(self, findings: CsvFindings) -> None:
        """Turn the rows whose customer ID several stored customers share into faults: none of them is meant."""
        with self._transactions.read() as work:
            shared = shared_keys(work.connection, [entry.key for entry in findings.entries])
        for entry in findings.entries:
            if entry.key in shared:
                findings.refuse(entry.row, "customer_id", SHARED)
        findings.entries = [entry for entry in findings.entries if entry.key not in shared]

    def staged(self, import_id: str, plans: Iterable[RowPlan], now: datetime) -> list[dict[str, Any]]:
        """Return the staged rows of those plans that change something."""
        rows = []
        for plan in plans:
            if plan.stored is not None and not plan.changes:
                continue
            plain = plan.plain_password
            changes = {name: text for name, text in plan.changes.items() if name != "password" or plain is None}
            # The length of an argon2id string's password is unknown; that of a plain one is noted when it is hashed.
            if plan.stored is None:
                old, values = NOTHING, new_row(self._keyring, now, changes, is_long=False)
                row_id, subject_id = str(values["id"]), values["subject_id"]
            else:
                old = plan.stored.row
                row_id, subject_id = str(old["id"]), old["subject_id"]
                values = column_values(self._keyring, row_id, changes, is_long=False)
            row = {
                "import_id": import_id,
                "number": plan.entry.row,
                "customer_row": row_id,
                "customer_key": plan.entry.key,
                "shared_key": OWN,
                "subject_id": subject_id,
                "is_new": plan.stored is None,
                "active_mac": values.get("active_mac"),
                "sets": sum(BITS[name] for name in plan.changes),
                "plain_sealed": None if plain is None else self._keyring.seal(plain, IMPORT_ROW_PLAIN, row_id),
                **{column: values.get(column, NOTHING.get(column)) for column in VALUE_COLUMNS},
                **{f"old_{column}": old.get(column) for column in VALUE_COLUMNS},
            }
            rows.append(row)
        return rows


def is_same_password(passwords: Passwords, before: str | None, before_is_long: bool, plain: str) -> bool:
    """Report whether a plain password is the stored one and its length is stored rightly; costs a hash."""
    return before is not None and before_is_long == is_long(plain) and passwords.matches(before, plain)


def _verdict(before: str | None, wanted: str | None) -> str:
    if before == wanted:
        return "equal"
    if wanted is None:
        return "cleared"
    return "new" if before is None else "changed"


# --- The switch and its undo


@dataclass(frozen=True)
class Extent:
    """How much is staged: rows of new customers, and by changed fields the rows of customers that exist."""

    new: int
    changed: dict[int, int]  # by the fields they set
    customers: int = 0  # in the directory, those not concerned included
    is_of_other_rule: bool = False  # keys of new customers were made before IDs became case-sensitive, or no longer are

    @property
    def rows(self) -> int:
        """Return the number of all of them."""
        return self.new + sum(self.changed.values())

    @property
    def much_changed(self) -> set[str]:
        """Return the columns that change in so many rows that rebuilding their indexes is cheaper."""
        rows = dict.fromkeys(VALUE_COLUMNS, self.new)
        for sets, number in self.changed.items():
            rows |= {column: rows[column] + number for column in _columns(sets)}
        fewest = max(REBUILD_ROWS, (self.customers + self.new) / REBUILD_SHARE)
        return {column for column, number in rows.items() if number >= fewest}


def measure_extent(transactions: Transactions, import_id: str) -> Extent:
    """Count what is staged, before the switch so that the switch need not."""
    counted = (
        select(_STAGED.is_new, _STAGED.sets, func.count().label("number"))
        .where(_STAGED.import_id == import_id)
        .group_by(_STAGED.is_new, _STAGED.sets)
    )
    with transactions.read() as work:
        rows = work.execute(counted).all()
        customers = work.execute(select(func.count()).select_from(CustomerRow)).scalar_one()
        learn_id_rule(work.connection, work.keyring)
        is_cased = func.substr(_STAGED.customer_key, 1, len(CASED)) == CASED
        others = select(_STAGED.number).where(*_of(import_id, None), ~is_cased if work.keyring.has_case else is_cased)
        is_of_other_rule = work.execute(others.limit(1)).first() is not None
    new = sum(row.number for row in rows if row.is_new)
    return Extent(new, {row.sets: row.number for row in rows if not row.is_new}, customers, is_of_other_rule)


def switch(work: Work, import_id: str, staged: Extent) -> int:
    """Write every staged row whose customer is still as it was compared; return how many were."""
    if staged.new and not hold_id_rule(work.connection, work.keyring):
        return 0
    with rebuilt_indexes(work, staged.much_changed):
        written = 0
        if staged.new:
            new: dict[str, Any] = {
                "id": _STAGED.customer_row,
                "customer_key": _STAGED.customer_key,
                "shared_key": _STAGED.shared_key,
                "subject_id": _STAGED.subject_id,
                "active_mac": _STAGED.active_mac,
                "created_at": literal(work.now, _CUSTOMERS.created_at.type),
                "changed_at": literal(work.now, _CUSTOMERS.changed_at.type),
                **{column: _STAGED[column] for column in VALUE_COLUMNS},
            }
            rows = select(*new.values()).where(*_of(import_id, None)).order_by(_STAGED.number)
            written += insert_from(work, new, rows)
        for sets in staged.changed:
            values: dict[str, Any] = {column: _STAGED[column] for column in _columns(sets)}
            if "totp_sealed" in values:
                values["totp_last_step"] = 0  # the steps of another seed say nothing about this one
            written += _update_changed(work, import_id, sets, values, _is_as_before(sets))
        return written


def _update_changed(work: Work, import_id: str, sets: int, values: dict[str, Any], fits: ColumnElement[bool]) -> int:
    if {"phone", "email"} & set(fields_of(sets)):
        # Each of the few links looks for its staged row, instead of each staged row for a link.
        of_link = _STAGED.customer_row == CredentialLink.customer_row
        end_links(work, select(_STAGED.customer_row).where(of_link, *_of(import_id, sets)))
    values = {**values, **contact_times(fields_of(sets), work.now)}
    return update_from(work, values, _CUSTOMERS.id == _STAGED.customer_row, *_of(import_id, sets), fits)


def undo(work: Work, import_id: str, switched_at: datetime, staged: Extent) -> int:
    """Take back every staged row whose customer is still as the switch left them; return how many were.

    Raise IntegrityError if a one-time link refers to a customer that would be deleted.
    """
    with rebuilt_indexes(work, staged.much_changed):
        written = 0
        if staged.new:
            untouched = (
                select(_CUSTOMERS.id)
                .join_from(table_of(StagedRow), table_of(CustomerRow), _CUSTOMERS.id == _STAGED.customer_row)
                .where(*_of(import_id, None), _is_as_switched(None, switched_at), _CUSTOMERS.is_active)
            )
            written += delete_those(work, untouched)
        for sets in staged.changed:
            values: dict[str, Any] = {column: _STAGED[f"old_{column}"] for column in _columns(sets)}
            if "totp_sealed" in values:
                # Which codes of the restored seed were used is unknown: all until now count as used (R17).
                values["totp_last_step"] = int(work.now.timestamp()) // TOTP_STEP_SECONDS
            written += _update_changed(work, import_id, sets, values, _is_as_switched(sets, switched_at))
        return written


def overtaken(transactions: Transactions, import_id: str, staged: Extent) -> list[Any]:
    """Return the staged rows (number, is_new, customer_id) whose customers were changed since they were compared."""
    made = _joined(_CUSTOMERS.customer_key == _STAGED.customer_key).where(*_of(import_id, None))
    found: list[Any] = []
    with transactions.read() as work:
        found += work.execute(made.where(_CUSTOMERS.id.is_not(None))).all() if staged.new else []
        for sets in staged.changed:
            changed = _joined(_CUSTOMERS.id == _STAGED.customer_row).where(*_of(import_id, sets))
            found += work.execute(changed.where(_is_gone_or_not(_is_as_before(sets)))).all()
    return found


def changed_since(
    transactions: Transactions, import_id: str, switched_at: datetime, staged: Extent, most: int
) -> list[Any]:
    """Return up to ``most`` staged rows (number, is_new, customer_id) whose customers were changed since the switch."""
    found: list[Any] = []
    with transactions.read() as work:
        for sets in (None, *staged.changed):
            fits = _is_as_switched(sets, switched_at)
            if sets is None:
                fits = and_(fits, _CUSTOMERS.is_active)
            rows = _joined(_CUSTOMERS.id == _STAGED.customer_row).where(*_of(import_id, sets), _is_gone_or_not(fits))
            found += work.execute(rows.limit(most - len(found))).all()
    return found


def ids_of(transactions: Transactions, import_id: str, numbers: Sequence[int]) -> list[str]:
    """Return the IDs of the customers of some staged rows, as they are now; none of one who was erased."""
    rows = _joined(_CUSTOMERS.id == _STAGED.customer_row).where(_STAGED.import_id == import_id)
    with transactions.read() as work:
        found = work.execute(rows.where(_STAGED.number.in_(numbers)).order_by(_STAGED.number))
        return [str(row.customer_id) for row in found]


def _joined(on: ColumnElement[bool]) -> Select[Any]:
    return select(
        _STAGED.number,
        _STAGED.is_new,
        func.coalesce(_CUSTOMERS.customer_id, _STAGED.customer_id, _STAGED.old_customer_id).label("customer_id"),
    ).join_from(table_of(StagedRow), table_of(CustomerRow), on, isouter=True)


def _is_gone_or_not(fits: ColumnElement[bool]) -> ColumnElement[bool]:
    return or_(_CUSTOMERS.id.is_(None), ~fits)


def _of(import_id: str, sets: int | None) -> Iterator[ColumnElement[bool]]:
    """Yield what selects the staged rows of new customers, or those that change these fields of a customer."""
    yield _STAGED.import_id == import_id
    yield _STAGED.is_new if sets is None else ~_STAGED.is_new
    if sets is not None:
        yield _STAGED.sets == sets


def _columns(sets: int) -> list[str]:
    return [column for name in fields_of(sets) for column in FIELD_COLUMNS[name]]


def _is_as_before(sets: int) -> ColumnElement[bool]:
    return and_(*(_CUSTOMERS[name].is_not_distinct_from(_STAGED[f"old_{name}"]) for name in _leading(sets)))


def _is_as_switched(sets: int | None, switched_at: datetime) -> ColumnElement[bool]:
    same = (_CUSTOMERS[name].is_not_distinct_from(_STAGED[name]) for name in _leading(sets))
    return and_(_CUSTOMERS.changed_at == switched_at, *same)


def _leading(sets: int | None) -> Sequence[str]:
    """Return for each field the column that shows a change: a value that is sealed again never looks the same."""
    return [FIELD_COLUMNS[name][0] for name in (fields_of(sets) if sets is not None else FIELD_COLUMNS)]
