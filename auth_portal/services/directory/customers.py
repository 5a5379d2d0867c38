"""The customers one at a time: found, shown masked, revealed on the record, created, changed, switched off and on.

What a value may be is defined in ``fields``, the same for a file, a page and the API. A change names the version it was
based on, so that of two admins who edit one customer the second is warned. A change of a contact or a credential is
sent to the customer, at the old and at the new contact (R13).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, bindparam, func, insert, select, text, true, update
from sqlalchemy.exc import IntegrityError

from auth_portal.crypto import Passwords
from auth_portal.errors import Gone, NotFound
from auth_portal.methods.password import is_long
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.directory.fields import (
    CONTACTS,
    FIELDS,
    SEALED,
    activity,
    change_notices,
    check,
    column_values,
    contact_times,
    is_blank,
    is_hash,
    new_row,
    opened,
    recorded_changes,
)
from auth_portal.services.directory.person import (
    CustomerNotices,
    as_changed,
    end_links,
    hold_id_rule,
    learn_id_rule,
    mask_contact,
    mask_name,
    named_by,
    program_id,
    row_of,
    shared_keys,
)
from auth_portal.store.db import Transactions, Work, dialect_insert
from auth_portal.store.models import (
    NUMBERED,
    UNNUMBERED,
    Admin,
    AuditEvent,
    ChangeFeed,
    CustomerRemoval,
    CustomerRow,
    table_of,
)

PAGE = 50  # customers of one page of a list
ID_TAKEN = {"customer_id": "is another customer's already"}
_COLUMNS = tuple(
    getattr(CustomerRow, name)
    for name in (
        *("id", "customer_id", "customer_key", "locale", "password_is_long", "is_active"),
        *("subject_id", "created_at", "changed_at", "phone_changed_at", "email_changed_at", "phone_country"),
        *SEALED.values(),
    )
)


FEED_ROW = 1
NUMBERED_AT_ONCE = 200  # changes of one transaction, some 10 ms
_UNNUMBERED = select(CustomerRow.id, CustomerRow.changed_at).where(text(UNNUMBERED)).order_by(CustomerRow.id)
_UNNUMBERED_REMOVALS = select(CustomerRemoval.id).where(CustomerRemoval.change_number.is_(None))
_SET_NUMBER = (
    update(table_of(CustomerRow))
    .where(table_of(CustomerRow).c.id == bindparam("of"))
    .values(change_number=bindparam("number"), change_of=bindparam("at"))
)
_SET_REMOVAL_NUMBER = (
    update(table_of(CustomerRemoval))
    .where(table_of(CustomerRemoval).c.id == bindparam("of"))
    .values(change_number=bindparam("number"))
)


AlongWith = Callable[[Work, "Customer"], None]  # what commits together with the customer, as they are then


@dataclass(frozen=True)
class Customer:
    """A customer as stored, opened. ``masked()`` is what pages and lists may show."""

    row: str
    program_id: str  # what programs know the customer by, for good
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
    phone_changed_at: datetime | None = None
    email_changed_at: datetime | None = None
    phone_country: str = ""  # ISO 3166, two letters; empty without a phone, or if it is not known yet
    name: str = field(default="", repr=False)
    phone: str = field(default="", repr=False)
    email: str = field(default="", repr=False)

    def masked(self) -> Customer:
        """Return the same customer without what identifies them, except their customer ID."""
        return replace(
            self,
            name=mask_name(self.name),
            phone=mask_contact(self.phone) if self.phone else "",
            email=mask_contact(self.email) if self.email else "",
        )


@dataclass(frozen=True)
class CustomerPage:
    """One page of customers in the order of their keys. The next page, if there is one, begins after ``after``."""

    customers: tuple[Customer, ...]
    after: str = ""


class ChangePlace(NamedTuple):
    """Where a program has got to among the changes of customers: it has all up to ``number``.

    ``since`` is what the last number was when it last had all, or when it began: of customers who were removed before
    that it has never heard. ``portal`` says whose numbers these are.
    """

    portal: str
    number: int
    since: int

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the place that a text came from (``str``). Raise Gone for any other text."""
        if (found := re.fullmatch(r"([0-9a-f]{8})\.(\d{1,18})\.(\d{1,18})", text, re.ASCII)) is None:
            raise Gone("changes_forgotten")
        return cls(found[1], int(found[2]), int(found[3]))

    def __str__(self) -> str:
        return f"{self.portal}.{self.number}.{self.since}"


@dataclass(frozen=True)
class CustomerChanges:
    """A page of what changed, in the order of the last change: customers as they are now, or their removals.

    With ``is_more`` there is more to read at once; ``place`` is where to go on in any case.
    """

    entries: tuple[Customer | Removal, ...]
    place: ChangePlace
    is_more: bool


class Removal(NamedTuple):
    """A customer who was erased, or whose import was undone: what programs knew them by alone."""

    program_id: str
    at: datetime


@dataclass(frozen=True)
class CustomerSave:
    """The result of creating or changing a customer: the fields changed, or the reason, by field, why none was."""

    row: str = ""
    changed: tuple[str, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)
    is_stale: bool = False  # another change came first
    is_taken: bool = False  # another customer has the customer ID; ``faults`` says so too


@dataclass(frozen=True)
class CustomerChange:
    """What an admin or a program did to a customer. ``by`` is an admin's name, or empty."""

    at: datetime
    fields: tuple[str, ...]
    by: str


class Customers:
    """Read and write single customers. ``admin_id`` is the admin who acts, None for a command or a program."""

    def __init__(
        self, transactions: Transactions, passwords: Passwords, journeys: Journeys, notices: CustomerNotices
    ) -> None:
        self._transactions = transactions
        self._passwords = passwords
        self._journeys = journeys
        self._notices = notices

    # --- Looking up

    def page(self, after: str = "", typed: str = "") -> CustomerPage:
        """Return a page of all customers, or of those that ``typed`` names exactly; masked.

        Customers are named by customer ID, phone number, email address or name. ``after`` is a row, not a customer
        ID: it becomes part of URLs, which others log.
        """
        key_of_row = select(CustomerRow.customer_key).where(CustomerRow.id == after).scalar_subquery()
        behind = CustomerRow.customer_key > func.coalesce(key_of_row, "")
        rows = self._named(typed, behind) if typed else self._rows(behind)
        shown = tuple(self._customer(row).masked() for row in rows[:PAGE])
        return CustomerPage(shown, shown[-1].row if len(rows) > PAGE else "")

    def unmasked_page(self, after_key: str, most: int) -> CustomerPage:
        """Return a page of all customers with their contacts, for a program whose key may read them."""
        rows = self._rows(CustomerRow.customer_key > after_key, most=most)
        shown = tuple(self._customer(row) for row in rows[:most])
        return CustomerPage(shown, shown[-1].customer_key if len(rows) > most else "")

    def holders(self, contact: str, typed: str) -> tuple[Customer, ...]:
        """Return the first PAGE customers, with their contacts, whose ``phone`` or ``email`` this is."""
        return tuple(map(self._customer, self._named(typed, true(), contact=contact)[:PAGE]))

    def _named(self, typed: str, behind: ColumnElement[bool], *, contact: str = "") -> list[Mapping[str, Any]]:
        """Look in each index by itself: one query over all of them would use none."""
        names = named_by(typed, self._region, self._transactions.keyring, contact=contact)
        found = {row["id"]: row for name in names for row in self._rows(name, behind)}
        return sorted(found.values(), key=lambda row: str(row["customer_key"]))[: PAGE + 1]

    def _rows(self, *where: ColumnElement[bool], most: int = PAGE) -> list[Mapping[str, Any]]:
        """Return one row more than ``most`` if there are more."""
        found = select(*_COLUMNS).where(*where).order_by(CustomerRow.customer_key).limit(most + 1)
        with self._transactions.read() as work:
            return [dict(row) for row in work.execute(found).mappings()]

    def row_of(self, customer_id: str) -> str:
        """Return the row of a customer ID. Raise NotFound."""
        with self._transactions.read() as work:
            return row_of(work.connection, work.keyring, customer_id)

    def get_masked(self, row: str) -> Customer:
        """Return a customer as pages may show them. Raise NotFound."""
        return self.get(row).masked()

    def get(self, row: str) -> Customer:
        """Return a customer in the clear, for the portal's own use: pages show ``get_masked`` or ``reveal``."""
        return self._customer(self._stored(row))

    def reveal(self, row: str, admin_id: str, **facts: Any) -> Customer:
        """Return a customer in the clear, on the record. Raise NotFound."""
        customer = self.get(row)
        with self._transactions.write() as work:
            work.record("customer_revealed", subject_id=customer.subject_id, admin_id=admin_id, **facts)
        return customer

    def changes_since(self, subject_id: str, moment: datetime) -> list[CustomerChange]:
        """Return what was done to a customer's fields after a moment; an import records no single customers."""
        found = select(AuditEvent.at, AuditEvent.facts, Admin.name).outerjoin(Admin, Admin.id == AuditEvent.admin_id)
        later = (AuditEvent.subject_id == subject_id) & (AuditEvent.kind == "customer_changed")
        with self._transactions.read() as work:
            rows = work.execute(found.where(later, AuditEvent.at > moment).order_by(AuditEvent.id)).all()
        return [CustomerChange(row.at, tuple(row.facts.get("fields", ())), row.name or "") for row in rows]

    # --- What changed, for programs

    def changes_after(self, place: ChangePlace | None, most: int) -> CustomerChanges:
        """Return the customers who changed since a place, without one all of them, with their contacts.

        A change is numbered after it has committed, and by the next who asks, under one lock: so no lower number ever
        appears after a higher one was read, whatever the clocks say and however long a transaction takes. What commits
        later gets a later number, and a customer who changes again moves to the end. Raise Gone for a place that is so
        old that removals since were forgotten, that a restored backup does not know, or that is another portal's.
        """
        portal = self._transactions.keyring.index("change feed", "")[:8]
        is_more = self._number_changes()
        with self._transactions.read() as work:
            feed = work.execute(select(ChangeFeed.last_number, ChangeFeed.cut_number)).one_or_none()
            last, cut = (feed.last_number, feed.cut_number) if feed is not None else (0, 0)
            place = place or ChangePlace(portal, 0, last)
            if place.portal != portal or place.since < cut or max(place.number, place.since) > last:
                raise Gone("changes_forgotten")
            # All up to ``last`` has committed; what is numbered while this reads has to wait for the next page.
            number = CustomerRow.change_number
            changed = select(*_COLUMNS, number).where(text(NUMBERED), number > place.number, number <= last)
            rows = [dict(row) for row in work.execute(changed.order_by(number).limit(most)).mappings()]
            number = CustomerRemoval.change_number
            removed = select(CustomerRemoval.__table__).where(number > place.number, number <= last)
            gone = work.execute(removed.order_by(number).limit(most)).all()
        found: list[tuple[int, Customer | Removal]] = [(row["change_number"], self._customer(row)) for row in rows]
        found += [(row.change_number, Removal(row.id, row.removed_at)) for row in gone]
        entries = sorted(found, key=lambda one: one[0])[:most]
        is_full = len(entries) == most
        reached = entries[-1][0] if is_full else last
        at = ChangePlace(portal, reached, place.since if is_full else last)
        return CustomerChanges(tuple(entry for _number, entry in entries), at, is_full or is_more)

    def _number_changes(self) -> bool:
        """Give numbers to changes that have committed since; return True if there may be more of them."""
        with self._transactions.read() as work:
            if not any(work.execute(found.limit(1)).first() for found in (_UNNUMBERED, _UNNUMBERED_REMOVALS)):
                return False
        with self._transactions.write() as work:
            begin = dialect_insert(work.connection.dialect.name, table_of(ChangeFeed))
            begin = begin.values(id=FEED_ROW, last_number=0, cut_number=0).on_conflict_do_nothing()
            work.execute(begin)
            last = work.execute(select(ChangeFeed.last_number).with_for_update()).scalar_one()
            # A row that a transaction is changing now is left for later: that one may take minutes.
            mine = [found.limit(NUMBERED_AT_ONCE) for found in (_UNNUMBERED, _UNNUMBERED_REMOVALS)]
            changed, removed = (work.execute(one.with_for_update(skip_locked=True)).all() for one in mine)
            numbers = iter(range(last + 1, last + 1 + len(changed) + len(removed)))
            if changed:
                work.execute(
                    _SET_NUMBER, [{"of": row.id, "at": row.changed_at, "number": next(numbers)} for row in changed]
                )
            if removed:
                work.execute(_SET_REMOVAL_NUMBER, [{"of": row.id, "number": next(numbers)} for row in removed])
            work.execute(update(ChangeFeed).values(last_number=last + len(changed) + len(removed)))
        return NUMBERED_AT_ONCE in (len(changed), len(removed))

    # --- Writing

    def create(
        self,
        fields: Mapping[str, str | None],
        *,
        is_active: bool = True,
        admin_id: str | None = None,
        along_with: AlongWith | None = None,
        **facts: Any,
    ) -> CustomerSave:
        """Create a customer from typed fields (the columns of the CSV; an empty one is left out).

        A plain password takes about 25 ms of one core; raise Busy if too many are hashed at once. ``facts`` go into
        the audit event.
        """
        wanted, faults = self._checked(fields)
        if wanted.get("customer_id") is None:
            faults.setdefault("customer_id", "is missing")
        if faults:
            return CustomerSave(faults=faults)
        changes, is_long = self._hashed({name: text for name, text in wanted.items() if text is not None})
        try:
            with self._transactions.write() as work:
                hold_id_rule(work.connection, work.keyring)
                values = new_row(work.keyring, work.now, changes, is_long=is_long)
                values |= activity(work.keyring, values["id"], is_active=is_active)
                if shared_keys(work.connection, [values["customer_key"]]):
                    return CustomerSave(faults=ID_TAKEN, is_taken=True)
                work.execute(insert(CustomerRow).values(values))
                facts |= {"subject_id": values["subject_id"], "admin_id": admin_id, "fields": sorted(changes)}
                work.record("customer_created", **facts)
                self._notices.customer_changed(work, values["id"], values["customer_id"], "created")
                if along_with is not None:
                    along_with(work, self._customer(values))
        except IntegrityError:
            return CustomerSave(faults=ID_TAKEN, is_taken=True)
        return CustomerSave(values["id"], tuple(sorted(changes)))

    def change(
        self,
        row: str,
        fields: Mapping[str, str | None],
        *,
        is_active: bool | None = None,
        seen_at: datetime | None = None,
        admin_id: str | None = None,
        along_with: AlongWith | None = None,
        **facts: Any,
    ) -> CustomerSave:
        """Change the fields given: an empty or missing one leaves what is stored, None clears it.

        ``is_active`` also switches the customer on or off. ``seen_at`` is the ``changed_at`` that the caller saw; if
        the customer has changed since, nothing is written. Raise NotFound, and Busy as ``create`` does.
        """
        stored = self._stored(row)
        if seen_at is not None and stored["changed_at"] != seen_at:
            return CustomerSave(row, is_stale=True)
        wanted, faults = self._checked(fields)
        if faults:
            return CustomerSave(row, faults=faults)
        keyring = self._transactions.keyring
        before = opened(keyring, stored, SEALED)
        changes, is_long = self._hashed(
            {name: text for name, text in wanted.items() if text != (before.get(name) or None)}
        )
        values = column_values(keyring, row, changes, is_long=is_long)
        if is_active is not None and is_active != stored["is_active"]:
            values |= activity(keyring, row, is_active=is_active)
        if not values and along_with is None:
            return CustomerSave(row)
        try:
            with self._transactions.write() as work:
                key = values.get("customer_key")
                if key is not None and shared_keys(work.connection, [key]):
                    return CustomerSave(row, faults=ID_TAKEN)
                values |= contact_times(changes, work.now)
                if not _overwrite(work, stored, values):
                    return CustomerSave(row, is_stale=True)
                who = {"subject_id": stored["subject_id"], "admin_id": admin_id, **facts}
                self._follow_up(work, after := {**stored, **values}, before, changes, who)
                if "is_active" in values:
                    work.record(_switch_kind(is_active=values["is_active"]), **who)
                if along_with is not None:
                    along_with(work, self._customer(after))
        except IntegrityError:
            return CustomerSave(row, faults=ID_TAKEN)
        return CustomerSave(row, tuple(sorted(changes)))

    def _follow_up(
        self,
        work: Work,
        after: Mapping[str, Any],
        before: Mapping[str, str],
        changes: Mapping[str, str | None],
        who: Mapping[str, Any],
    ) -> None:
        """Record changed fields, end links that may lie at an old contact, and notify the customer and programs."""
        row = after["id"]
        if "change_number" in after:
            self._notices.customer_changed(work, row, after["customer_id"], "changed")
        if changes:
            facts = {"fields": sorted(changes), "changes": recorded_changes(before, changes), **who}
            work.record("customer_changed", **facts)
        if changes.keys() & set(CONTACTS):
            end_links(work, [row])
        for notice in change_notices(before, changes):
            self._notices.to_customer(work, row, notice.contacts, notice.subject, notice.text)

    def set_active(self, row: str, *, is_active: bool, admin_id: str | None = None, **facts: Any) -> None:
        """Switch a customer off, who then proves nothing and is sent nothing, or on again. Raise NotFound."""
        stored = self._stored(row)
        with self._transactions.write() as work:
            switched = update(CustomerRow).where(CustomerRow.id == row)
            work.execute(switched.values(**activity(work.keyring, row, is_active=is_active), **as_changed(work.now)))
            who = {"subject_id": stored["subject_id"], "admin_id": admin_id, **facts}
            work.record(_switch_kind(is_active=is_active), **who)
            self._notices.customer_changed(work, row, stored["customer_id"], "changed")

    # --- What both need

    @property
    def _region(self) -> str:
        return self._journeys.current().portal.default_region

    def _stored(self, row: str) -> Mapping[str, Any]:
        with self._transactions.read() as work:
            found = work.execute(select(*_COLUMNS).where(CustomerRow.id == row)).mappings().one_or_none()
            learn_id_rule(work.connection, work.keyring)  # which stays as it is while there is a customer
        if found is None:
            raise NotFound("customer_unknown")
        return dict(found)

    def _customer(self, row: Mapping[str, Any]) -> Customer:
        texts = opened(self._transactions.keyring, row, ("name", "phone", "email"))
        return Customer(
            row=row["id"],
            program_id=program_id(self._transactions.keyring, row["id"]),
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
            phone_changed_at=row["phone_changed_at"],
            email_changed_at=row["email_changed_at"],
            phone_country=row.get("phone_country") or "",
            name=texts.get("name", ""),
            phone=texts.get("phone", ""),
            email=texts.get("email", ""),
        )

    def _checked(self, fields: Mapping[str, str | None]) -> tuple[dict[str, str | None], dict[str, str]]:
        """Return the fields in their one form, and by field what is wrong with the others."""
        given = {name: text for name, text in fields.items() if name in FIELDS and (text is None or not is_blank(text))}
        checked = check(given, self._region)
        return dict(checked.fields), dict(checked.faults)

    def _hashed(self, changes: dict[str, str | None]) -> tuple[dict[str, str | None], bool]:
        """Return the changes with a plain password hashed, and whether that password may stand alone."""
        plain = changes.get("password")
        if plain is None or is_hash(plain):
            return changes, False
        with self._passwords.slot():
            return {**changes, "password": self._passwords.hash(plain)}, is_long(plain)


def _overwrite(work: Work, stored: Mapping[str, Any], values: dict[str, Any]) -> bool:
    """Write values, if there are any, into a row that is still as it was read. Report whether it is.

    The new ``changed_at`` is later than the old one even if the clock stands still or was set back.
    """
    changed_at = stored["changed_at"]
    if values:
        values |= as_changed(work.now)
        values["changed_at"] = changed_at = max(work.now, changed_at + timedelta(microseconds=1))
    same = (CustomerRow.id == stored["id"]) & (CustomerRow.changed_at == stored["changed_at"])
    return work.execute(update(CustomerRow).where(same).values(**values | {"changed_at": changed_at})).rowcount == 1


def _switch_kind(*, is_active: bool) -> str:
    return "customer_enabled" if is_active else "customer_disabled"
