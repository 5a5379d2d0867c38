"""What the rows of a customers file come to: compared with what is stored, counted, and staged for the switch.

A staged row holds every new value sealed for the row of ``customers`` where it will stand, and every old one as it
stands there, so that the switch and its undoing are SQL alone. Nothing here writes the table ``customers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select

from auth_portal.crypto import Keyring, Passwords
from auth_portal.methods.password import is_long
from auth_portal.services.directory.customer_fields import FIELDS, is_hash
from auth_portal.services.directory.customer_rows import column_values, new_row, opened
from auth_portal.services.imports.customers_csv import Entry
from auth_portal.services.notices import kind_of
from auth_portal.store.db import Database
from auth_portal.store.models import CustomerRow

BATCH = 200  # rows compared, and staged in one transaction: about 10 ms of it
FIELD_COLUMNS: Mapping[str, tuple[str, ...]] = {  # of each field its columns; the first tells whether it was changed
    "customer_id": ("customer_id",),
    "name": ("name_sealed", "name_key"),
    "phone": ("phone_sealed", "phone_key", "phone_country"),
    "email": ("email_sealed", "email_key"),
    "locale": ("locale",),
    "password": ("password_hash", "password_is_long"),
    "totp_secret": ("totp_sealed",),
}
VALUE_COLUMNS = tuple(column for columns in FIELD_COLUMNS.values() for column in columns)
BITS = {name: 1 << position for position, name in enumerate(FIELDS)}
CONTACTS = ("phone", "email")
NOTHING: Mapping[str, Any] = {"customer_id": None, "locale": "", "password_is_long": False}
NOT_HASHED = "not hashed yet"

_STORED = select(
    *(getattr(CustomerRow, column) for column in ("id", "customer_key", "subject_id", "is_active", *VALUE_COLUMNS)),
)

Same = Callable[["Stored", str], bool]


def fields_of(sets: int) -> list[str]:
    """The fields that a staged row changes."""
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
class Counts:
    """What an import does, in customers and by column."""

    new: int = 0
    changed: int = 0
    equal: int = 0
    hashes: int = 0  # passwords that come as argon2id strings
    plain: int = 0  # passwords to be hashed
    short: int = 0  # of these, the ones that count only beside a second proof (R21)
    columns: dict[str, Tally] = field(default_factory=dict)
    messages: dict[str, int] = field(default_factory=dict)  # to tell old and new contacts: "email", or "sms:ZA"
    told: int = 0  # customers whom these would tell
    left_out: int = 0  # rows that were not imported

    def add(self, plan: Plan) -> None:
        """Counts one row."""
        for name, verdict in plan.verdicts.items():
            tally = self.columns[name]
            setattr(tally, verdict, getattr(tally, verdict) + 1)
        self.new += plan.stored is None
        self.changed += plan.stored is not None and not plan.is_equal
        self.equal += plan.is_equal
        self._add_password(plan)
        told = plan.told
        self.told += bool(told)
        for contact in told:
            kind = ":".join(filter(None, kind_of(contact)))
            self.messages[kind] = self.messages.get(kind, 0) + 1

    def _add_password(self, plan: Plan) -> None:
        password = plan.entry.cells.get("password")
        if password is None:
            return
        if is_hash(password):
            self.hashes += 1
        else:
            self.plain += 1
            self.short += not is_long(password)

    def found_equal(self, *, row_is_equal: bool) -> None:
        """Corrects the count for a password that turned out to be the stored one."""
        self.columns["password"].changed -= 1
        self.columns["password"].equal += 1
        if row_is_equal:
            self.changed -= 1
            self.equal += 1

    def leave_out(self, new: int, changed: int) -> None:
        """Corrects the count for rows that cannot be imported after all."""
        self.new -= new
        self.changed -= changed
        self.left_out += new + changed

    @property
    def all_messages(self) -> int:
        """How many messages telling everybody concerned takes."""
        return sum(self.messages.values())

    def as_json(self) -> dict[str, Any]:
        """As it is stored."""
        columns = {name: vars(tally) for name, tally in self.columns.items()}
        return {**vars(self), "columns": columns, "order": list(self.columns)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Counts:
        """As it was stored."""
        plain = {name: value for name, value in stored.items() if name not in ("columns", "order")}
        columns = stored.get("columns", {})
        return cls(**plain, columns={name: Tally(**columns[name]) for name in stored.get("order", [])})


@dataclass(frozen=True, slots=True)
class Stored:
    """A customer as stored: the row, and the values of the file's columns, opened."""

    row: Mapping[str, Any]
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one row of the file comes to: the values to seal, each None to clear, and those that stay as they are."""

    entry: Entry
    stored: Stored | None
    changes: Mapping[str, str | None]
    verdicts: Mapping[str, str]  # column: new, changed, cleared or equal
    is_active: bool | None = None  # None where that stays as it is; a file never says

    @property
    def is_equal(self) -> bool:
        """Whether the directory says all of it already."""
        return self.stored is not None and not self.changes and self.is_active is None

    @property
    def plain_password(self) -> str | None:
        """The password that is to be hashed, if there is one."""
        password = self.entry.cells.get("password") if "password" in self.changes else None
        return None if password is None or is_hash(password) else password

    @property
    def told(self) -> list[str]:
        """The contacts at which a change of them would be told: the old ones and the new ones."""
        if self.stored is None:
            return []
        changed = [name for name in CONTACTS if name in self.changes]
        both = [text for name in changed for text in (self.stored.texts.get(name), self.changes[name])]
        return [text for text in both if text is not None]


class Comparison:
    """Holds rows of a file against the directory."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    def plans(self, entries: Sequence[Entry], columns: Iterable[str], *, same: Same | None = None) -> list[Plan]:
        """What each row comes to, in one read. ``same`` tells whether a plain password is the stored one: a hash each.

        Without it a plain password of somebody who has one counts as changed until it is hashed.
        """
        stored = self._stored([entry.key for entry in entries], tuple(columns))
        return [_plan(entry, stored.get(entry.key), same) for entry in entries]

    def _stored(self, keys: Sequence[str], columns: Sequence[str]) -> dict[str, Stored]:
        with self._database.read() as connection:
            rows = connection.execute(_STORED.where(CustomerRow.customer_key.in_(keys))).mappings().all()
        found = [dict(row) for row in rows]
        return {str(row["customer_key"]): Stored(row, opened(self._keyring, row, columns)) for row in found}

    def staged(self, import_id: str, plans: Iterable[Plan], now: datetime) -> list[dict[str, Any]]:
        """The staged rows of those plans that change something."""
        return [self._staged_row(import_id, plan, now) for plan in plans if plan.stored is None or plan.changes]

    def _staged_row(self, import_id: str, plan: Plan, now: datetime) -> dict[str, Any]:
        old: Mapping[str, Any] = plan.stored.row if plan.stored is not None else NOTHING
        plain = plan.plain_password
        changes = {name: text for name, text in plan.changes.items() if name != "password" or plain is None}
        values = self._new_values(plan, changes, now)
        row_id = values.get("id") or str(old["id"])
        return {
            "import_id": import_id,
            "number": plan.entry.row,
            "customer_row": row_id,
            "customer_key": plan.entry.key,
            "subject_id": values.get("subject_id") or old["subject_id"],
            "is_new": plan.stored is None,
            "sets": sum(BITS[name] for name in plan.changes),
            "plain_sealed": None if plain is None else seal_plain(self._keyring, plain, row_id),
            **{column: values.get(column, NOTHING.get(column)) for column in VALUE_COLUMNS},
            **{f"old_{column}": old.get(column) for column in VALUE_COLUMNS},
        }

    def _new_values(self, plan: Plan, changes: Mapping[str, str | None], now: datetime) -> dict[str, Any]:
        # How long an argon2id string's password is cannot be seen; a plain one tells when it is hashed.
        if plan.stored is None:
            return new_row(self._keyring, now, changes, is_long=False)
        return column_values(self._keyring, str(plan.stored.row["id"]), changes, is_long=False)


def seal_plain(keyring: Keyring, password: str, row_id: str) -> bytes:
    """A password that waits to be hashed."""
    return keyring.seal(password, "import_rows", row_id, "plain")


def open_plain(keyring: Keyring, row: Any) -> str:
    """The password that a staged row waits for."""
    return keyring.open(row.plain_sealed, "import_rows", row.customer_row, "plain")


def same_password(passwords: Passwords, before: str | None, before_is_long: bool, plain: str) -> bool:
    """Whether a plain password is the stored one, its length rightly known; costs a hash."""
    return before is not None and before_is_long == is_long(plain) and passwords.matches(before, plain)


def _plan(entry: Entry, stored: Stored | None, same: Same | None) -> Plan:
    wanted: dict[str, str | None] = {"customer_id": entry.customer_id, **entry.cells}
    before = stored.texts if stored is not None else {}
    if stored is not None and (plain := wanted.get("password")) and not is_hash(plain) and before.get("password"):
        wanted["password"] = before["password"] if same is not None and same(stored, plain) else NOT_HASHED
    verdicts = {name: _verdict(before.get(name) or None, text) for name, text in wanted.items()}
    changes = {name: wanted[name] for name, verdict in verdicts.items() if verdict != "equal"}
    was_active = stored is None or stored.row["is_active"]
    return Plan(entry, stored, changes, verdicts, entry.is_active if entry.is_active != was_active else None)


def _verdict(before: str | None, wanted: str | None) -> str:
    if before == wanted:
        return "equal"
    if wanted is None:
        return "cleared"
    return "new" if before is None else "changed"


def sealed_password(keyring: Keyring, row_id: str, hashed: str) -> bytes:
    """An argon2id string for its customer's row."""
    return keyring.seal(hashed, "customers", row_id, "password")
