"""One person of the directory: found, shown masked, revealed on the record, made, changed, switched off and on.

What a value may be is said in ``customer_fields``, the same for a file, a page and the API. A change names what it
was based on, so that of two admins at one customer the second is told. A change of a contact or a credential is told
to the customer, at the old and at the new address (R13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords
from auth_portal.errors import NotFound
from auth_portal.methods.password import is_long
from auth_portal.services import audit
from auth_portal.services.directory import customers
from auth_portal.services.directory.change_notices import CONTACTS, TOLD, notice, told_at
from auth_portal.services.directory.credential_links import end_links
from auth_portal.services.directory.customer_fields import FIELDS, check, is_hash
from auth_portal.services.directory.customer_rows import SEALED, column_values, index_of, new_row, opened
from auth_portal.services.journeys import Journeys
from auth_portal.services.notices import Notices
from auth_portal.store.db import Database
from auth_portal.store.models import Admin, AuditEvent, CustomerRow

PAGE = 50  # customers of one page of a list
_COLUMNS = (
    *(
        getattr(CustomerRow, name)
        for name in (
            "id", "customer_id", "customer_key", "locale", "password_is_long", "is_active", "subject_id",
            "created_at", "changed_at",
        )
    ),
    *(getattr(CustomerRow, column) for column in SEALED.values()),
)  # fmt: skip


Also = Callable[[Connection, "Customer"], None]  # what commits together with a new customer


@dataclass(frozen=True)
class Customer:
    """A person as stored, opened. ``masked()`` is what pages and lists may show."""

    row: str
    customer_id: str
    customer_key: str
    subject_id: str
    locale: str
    is_active: bool
    has_password: bool
    password_is_long: bool
    has_totp: bool
    created_at: datetime
    changed_at: datetime
    name: str = field(default="", repr=False)
    phone: str = field(default="", repr=False)
    email: str = field(default="", repr=False)

    def masked(self) -> Customer:
        """The same without what identifies the person, their customer ID excepted."""
        return replace(
            self,
            name=customers.mask_name(self.name),
            phone=customers.mask_contact(self.phone) if self.phone else "",
            email=customers.mask_contact(self.email) if self.email else "",
        )

    @property
    def contacts(self) -> tuple[str, ...]:
        """Where the person can be told something."""
        return tuple(contact for contact in (self.phone, self.email) if contact)


@dataclass(frozen=True)
class Listed:
    """One page of customers in the order of their keys, masked; behind the row ``after`` begins the next, if any."""

    customers: tuple[Customer, ...]
    after: str = ""


@dataclass(frozen=True)
class Saved:
    """What came of a wish to make or change a customer: a row, or by field what is wrong, or that it is stale."""

    row: str = ""
    changed: tuple[str, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)
    is_stale: bool = False  # somebody else changed the customer since the form was made
    is_taken: bool = False  # the customer ID is another's; ``faults`` says so too


@dataclass(frozen=True)
class Change:
    """Something that an admin or a program did to a customer. ``by`` is an admin's name, or nothing."""

    at: datetime
    fields: tuple[str, ...]
    by: str


class People:
    """Reads and writes single rows of the table ``customers``. ``admin_id`` is whose act it is, None for a command."""

    def __init__(
        self, database: Database, keyring: Keyring, passwords: Passwords, clock: Clock, journeys: Journeys,
        notices: Notices,
    ) -> None:  # fmt: skip
        self._database = database
        self._keyring = keyring
        self._passwords = passwords
        self._clock = clock
        self._journeys = journeys
        self._notices = notices

    def listed(self, after: str = "", typed: str = "") -> Listed:
        """A page of everybody, or of whom ``typed`` names exactly: by customer ID, phone, e-mail or name.

        ``after`` is a row, not a customer ID: it stands in URLs, which others log.
        """
        rows = self._matching(typed, after) if typed else self._rows(_behind(after))
        shown = tuple(self._customer(row).masked() for row in rows[:PAGE])
        return Listed(shown, shown[-1].row if len(rows) > PAGE else "")

    def listed_openly(self, after: str, most: int) -> Listed:
        """A page of everybody with their contacts, for programs whose key may see them; pages show ``listed``."""
        rows = self._rows(CustomerRow.customer_key > after, most=most)
        shown = tuple(self._customer(row) for row in rows[:most])
        return Listed(shown, shown[-1].customer_key if len(rows) > most else "")

    def _rows(self, *where: ColumnElement[bool], most: int = PAGE) -> list[Mapping[str, Any]]:
        found = select(*_COLUMNS).where(*where).order_by(CustomerRow.customer_key).limit(most + 1)
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(found).mappings()]

    def _matching(self, typed: str, after: str) -> list[Mapping[str, Any]]:
        """Each way of naming somebody has its own index, so each is asked for by itself."""
        typed = typed.strip()[: customers.IDENTIFIER_LENGTH]
        phone = customers.e164(typed, self._region)
        email = customers.email_form(typed) if "@" in typed else None
        ways = [
            CustomerRow.customer_key == customers.customer_key(typed)[: customers.CUSTOMER_ID_LENGTH],
            CustomerRow.name_key == index_of(self._keyring, "name", typed),
        ]
        if phone is not None:
            ways.append(CustomerRow.phone_key == index_of(self._keyring, "phone", phone))
        if email is not None:
            ways.append(CustomerRow.email_key == index_of(self._keyring, "email", email))
        found = {row["id"]: row for way in ways for row in self._rows(way, _behind(after))}
        return sorted(found.values(), key=lambda row: str(row["customer_key"]))[: PAGE + 1]

    @property
    def _region(self) -> str:
        return self._journeys.current().portal.default_region

    def row_of(self, customer_id: str) -> str:
        """The row of a customer ID. Raises NotFound."""
        with self._database.read() as connection:
            return customers.row_of(connection, customer_id)

    def look(self, row: str) -> Customer:
        """A person, masked. Raises NotFound."""
        return self.opened(row).masked()

    def opened(self, row: str) -> Customer:
        """A person with everything in the clear, for the portal's own use: pages show ``look`` or ``reveal``."""
        return self._customer(self._one(CustomerRow.id == row))

    def reveal(self, row: str, admin_id: str) -> Customer:
        """A person in the clear, once, on the record. Raises NotFound."""
        customer = self.opened(row)
        with self._database.write() as connection:
            audit.record(
                connection, self._keyring, self._clock(), "customer_revealed",
                subject_id=customer.subject_id, admin_id=admin_id,
            )  # fmt: skip
        return customer

    def _one(self, *where: ColumnElement[bool]) -> Mapping[str, Any]:
        with self._database.read() as connection:
            found = connection.execute(select(*_COLUMNS).where(*where)).mappings().one_or_none()
        if found is None:
            raise NotFound("customer_unknown")
        return dict(found)

    def _customer(self, row: Mapping[str, Any]) -> Customer:
        texts = opened(self._keyring, row, ("name", "phone", "email"))
        return Customer(
            row=row["id"],
            customer_id=row["customer_id"],
            customer_key=row["customer_key"],
            subject_id=row["subject_id"],
            locale=row["locale"],
            is_active=row["is_active"],
            has_password=row["password_hash"] is not None,
            password_is_long=row["password_is_long"],
            has_totp=row["totp_sealed"] is not None,
            created_at=row["created_at"],
            changed_at=row["changed_at"],
            name=texts.get("name", ""),
            phone=texts.get("phone", ""),
            email=texts.get("email", ""),
        )

    def create(
        self, fields: Mapping[str, str | None], *, is_active: bool = True, admin_id: str | None = None,
        also: Also | None = None, **facts: Any,
    ) -> Saved:  # fmt: skip
        """Makes a customer of typed fields (the columns of the CSV; an empty one says nothing).

        A plain password costs about 25 ms of one core; raises Busy where too many are hashed at once. ``facts`` go
        into the audit event beside the names of the fields; ``also`` commits together with the new customer.
        """
        wanted, faults = self._checked(fields)
        if wanted.get("customer_id") is None:
            faults.setdefault("customer_id", "is missing")
        if faults:
            return Saved(faults=faults)
        changes, is_long = self._hashed({name: text for name, text in wanted.items() if text is not None})
        now = self._clock()
        values = {**new_row(self._keyring, now, changes, is_long=is_long), "is_active": is_active}
        try:
            with self._database.write() as connection:
                connection.execute(insert(CustomerRow).values(values))
                audit.record(
                    connection, self._keyring, now, "customer_created",
                    subject_id=values["subject_id"], admin_id=admin_id, fields=sorted(changes), **facts,
                )  # fmt: skip
                if also is not None:
                    also(connection, self._customer(values))
        except IntegrityError:
            return Saved(faults={"customer_id": "is another customer's already"}, is_taken=True)
        return Saved(values["id"], tuple(sorted(changes)))

    def change(
        self, row: str, fields: Mapping[str, str | None], *, is_active: bool | None = None,
        seen_at: datetime | None = None, admin_id: str | None = None, also: Also | None = None, **facts: Any,
    ) -> Saved:  # fmt: skip
        """Changes what the fields say: an empty or missing one leaves what is stored, None clears it.

        ``is_active`` also switches the person on or off. ``seen_at`` is the ``changed_at`` that the form was made from;
        one that is no longer true changes nothing. ``also`` commits together with the customer as they are then.
        Raises NotFound, and Busy as ``create`` does.
        """
        stored = self._one(CustomerRow.id == row)
        if seen_at is not None and stored["changed_at"] != seen_at:
            return Saved(row, is_stale=True)
        wanted, faults = self._checked(fields)
        if faults:
            return Saved(row, faults=faults)
        before = opened(self._keyring, stored, SEALED)
        changes, is_long = self._hashed(
            {name: text for name, text in wanted.items() if text != (before.get(name) or None)},
        )
        values = column_values(self._keyring, row, changes, is_long=is_long)
        if is_active is not None and is_active != stored["is_active"]:
            values["is_active"] = is_active
        if not values and also is None:
            return Saved(row)
        if values:  # never as before, also by a clock that stands or was set back
            values["changed_at"] = max(self._clock(), stored["changed_at"] + timedelta(microseconds=1))
        try:
            with self._database.write() as connection:
                return self._written(connection, stored, before, changes, values, also, {"admin_id": admin_id, **facts})
        except IntegrityError:
            return Saved(row, faults={"customer_id": "is another customer's already"})

    def _written(
        self, connection: Connection, stored: Mapping[str, Any], before: Mapping[str, str],
        changes: Mapping[str, str | None], values: Mapping[str, Any], also: Also | None, facts: Mapping[str, Any],
    ) -> Saved:  # fmt: skip
        row, now, subject_id = stored["id"], self._clock(), stored["subject_id"]
        same = (CustomerRow.id == row) & (CustomerRow.changed_at == stored["changed_at"])
        written = update(CustomerRow).where(same).values(**(values or {"changed_at": stored["changed_at"]}))
        if connection.execute(written).rowcount != 1:
            return Saved(row, is_stale=True)
        if changes:
            audit.record(
                connection,
                self._keyring,
                now,
                "customer_changed",
                subject_id=subject_id,
                fields=sorted(changes),
                **facts,
            )
        if "is_active" in values:
            kind = _switched(is_active=values["is_active"])
            audit.record(connection, self._keyring, now, kind, subject_id=subject_id, **facts)
        if changes.keys() & set(CONTACTS):
            end_links(connection, [row])
        for name in TOLD.keys() & changes.keys():
            self._notices.to_customer(connection, now, row, told_at(name, before, changes), *notice(name, changes))
        if also is not None:
            also(connection, self._customer({**stored, **values}))
        return Saved(row, tuple(sorted(changes)))

    def changes_since(self, subject_id: str, moment: datetime) -> list[Change]:
        """What was done to a person's fields after a moment; an import leaves no names here."""
        found = select(AuditEvent.at, AuditEvent.facts, Admin.name).outerjoin(Admin, Admin.id == AuditEvent.admin_id)
        later = (AuditEvent.subject_id == subject_id) & (AuditEvent.kind == "customer_changed")
        with self._database.read() as connection:
            rows = connection.execute(found.where(later, AuditEvent.at > moment).order_by(AuditEvent.id)).all()
        return [Change(row.at, tuple(row.facts.get("fields", ())), row.name or "") for row in rows]

    def set_active(self, row: str, *, is_active: bool, admin_id: str | None = None, **facts: Any) -> None:
        """Switches a person off, who then proves nothing and is sent nothing, or on again. Raises NotFound."""
        subject_id, now = self._one(CustomerRow.id == row)["subject_id"], self._clock()
        with self._database.write() as connection:
            connection.execute(
                update(CustomerRow).where(CustomerRow.id == row).values(is_active=is_active, changed_at=now)
            )
            kind = _switched(is_active=is_active)
            audit.record(connection, self._keyring, now, kind, subject_id=subject_id, admin_id=admin_id, **facts)

    def _checked(self, fields: Mapping[str, str | None]) -> tuple[dict[str, str | None], dict[str, str]]:
        """The fields in their one form, and by field what is wrong with the others."""
        said = {name: text for name, text in fields.items() if name in FIELDS and (text is None or text.strip())}
        checked = check(said, self._region)
        return dict(checked.fields), dict(checked.faults)

    def _hashed(self, changes: dict[str, str | None]) -> tuple[dict[str, str | None], bool]:
        """The changes with a plain password hashed, and whether that one may stand alone."""
        plain = changes.get("password")
        if plain is None or is_hash(plain):
            return changes, False
        with self._passwords.slot():
            return {**changes, "password": self._passwords.hash(plain)}, is_long(plain)


def _switched(*, is_active: bool) -> str:
    return "customer_enabled" if is_active else "customer_disabled"


def _behind(after: str) -> ColumnElement[bool]:
    before = select(CustomerRow.customer_key).where(CustomerRow.id == after).scalar_subquery()
    return CustomerRow.customer_key > func.coalesce(before, "")
