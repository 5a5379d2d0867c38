"""A person, and the identifiers that name one.

What a person types is brought to one form before any look-up or limit (R25, R55): customer IDs are compared without
regard to spaces and, unless the portal says otherwise, to case; phone numbers as E.164, email addresses in lower case
and ASCII, and all of them in plain characters (``typed``). It names a customer, or a stranger that no other module can
tell from one. What a proof uses up at a person is written here, in the transaction of the proof. ``CustomerNotices`` is
what the directory needs in order to notify customers.

What one-time links have in common, those of customers and of admins, is at the end (R47): each view has a fresh seed,
sealed into its form, and a link knows which browsers have opened it by the button on its first page.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

import phonenumbers
from phonenumbers import PhoneNumberType
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from auth_portal.crypto import NO_ROW, SUPPORT_CODE_MAC, KeyFault, Keyring, SealedColumn, new_seed
from auth_portal.errors import Conflict, NotFound
from auth_portal.methods import SUPPORT_CODE_DIGITS, IssuedCode
from auth_portal.services import limits
from auth_portal.services.limits import HOUR, Limit
from auth_portal.store.db import Compiled, Work
from auth_portal.store.models import (
    CUSTOMER_NAME,
    CUSTOMER_PASSWORD,
    CUSTOMER_TOTP_SECRET,
    PORTAL_ROW,
    Counter,
    CredentialLink,
    CustomerRemoval,
    CustomerRow,
    Portal,
    table_of,
)
from auth_portal.typed import (
    ADDRESS_LENGTH,
    BARE,
    chat_numbers,
    e164,
    email_form,
    identifier_form,
    plain_text,
    visible_text,
)

IDENTIFIER_LENGTH = ADDRESS_LENGTH
CUSTOMER_ID_LENGTH = 128
CASED = "C:"  # what the keys of case-sensitive IDs begin with
TYPED_LENGTH = 2 * IDENTIFIER_LENGTH  # characters: room for a name around an address and for what no one sees
OWN = ""  # the ``shared_key`` of a customer whose ID is no other customer's in another spelling
LONGEST_LINK_SECONDS = 72 * HOUR  # a customer's link or an admin's
LINK_SEED = SealedColumn("links", "seed")  # of a form, bound to its link and browser as if it were a column of theirs
NEW_KEY = "This page shows a new key. Add it to your app, then enter its code."
STALE_CODE = (
    "That isn't the code your app shows now. Wait for the next one. Opened this page again? Add its new key to your app"
    " first."
)
SECOND = 2  # the browser of a link whose opening is reported; those after it say nothing new
LINES = {
    PhoneNumberType.FIXED_LINE: "landline",
    PhoneNumberType.TOLL_FREE: "toll-free",
    PhoneNumberType.PREMIUM_RATE: "premium-rate",
    PhoneNumberType.SHARED_COST: "shared-cost",
    PhoneNumberType.VOIP: "internet phone",
    PhoneNumberType.PAGER: "pager",
    PhoneNumberType.UAN: "company number",
    PhoneNumberType.VOICEMAIL: "voicemail",
}
_BLANKS = re.compile(r"\s+")
_MAY_BE_PHONE = re.compile(r"(?:\D*\d){5}|\d+$")  # as few as four digits are written without anything between them


def customer_key(keyring: Keyring, customer_id: str) -> str:
    """Return what this portal finds a customer ID by, "" for an empty one: the only place that makes such keys.

    No key of a portal with case-sensitive IDs is one of any other portal, nor one that release 0.1.0 makes, since no
    folded text has a capital C. So a process that does not know the rule yet finds no customer, never another one.
    """
    form = id_form(customer_id, has_case=keyring.has_case)
    return f"{CASED}{form}" if form and keyring.has_case else form


def id_form(customer_id: str, *, has_case: bool = False) -> str:
    """Return a customer ID in its one form: plain characters, compatibility forms and case folded, spaces removed.

    With ``has_case`` large and small letters stay apart. A dash is part of the ID. What would leave nothing, such as an
    ID of punctuation alone, is not taken away.
    """
    form = _composed if has_case else _folded
    text = _BLANKS.sub(" ", form(customer_id))
    return form(_BLANKS.sub("", _unpacked(text) or plain_text(text)))


def _unpacked(typed: str) -> str:
    """Return what names a person without what was pasted around it; most people type nothing else."""
    return typed if BARE.fullmatch(typed) else identifier_form(typed)


def name_form(name: str) -> str:
    """Return a name in its one form: plain characters, compatibility forms and case folded, single spaces."""
    return " ".join(_folded(plain_text(_folded(name))).split())


def _composed(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _folded(text: str) -> str:
    return _composed(_composed(text).casefold())


def country_of(phone: str) -> str:
    """Return the country of a number in E.164, such as ``ZA``; an empty text if it belongs to none."""
    for length in (1, 2, 3):  # no calling code begins another; most belong to one country, which needs no parsing
        regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(int(phone[1 : 1 + length]), ())
        if len(regions) == 1:
            return str(regions[0])
    return phonenumbers.region_code_for_number(phonenumbers.parse(phone)) or ""


def line_of(phone: str) -> str:
    """Return what a number in E.164 is called if a code by SMS may never arrive there; "" for a mobile phone.

    Where the plan of a country does not tell them apart, as in the US, a number counts as a mobile phone.
    """
    return LINES.get(phonenumbers.number_type(phonenumbers.parse(phone)), "")


class ReadNumber(NamedTuple):
    """A phone number as it was read: ``+27 82 123 4567`` and ``ZA``."""

    text: str
    country: str


def numbers_of(typed: str, region: str) -> tuple[str, ...]:
    """Return the numbers in E.164 that a text may mean: as it is read here, then as chat networks write the same one.

    A Mexican mobile phone has two forms, for example.
    """
    found = (e164(typed, region), *chat_numbers(typed, region))
    return tuple(dict.fromkeys(number for number in found if number))


def read_number(typed: str, region: str) -> ReadNumber | None:
    """Return how a text is read as a phone number, for a person to check; None if it is none."""
    number = next(iter(numbers_of(typed, region)), None)
    if number is None:
        return None
    written = phonenumbers.format_number(phonenumbers.parse(number), phonenumbers.PhoneNumberFormat.INTERNATIONAL)
    return ReadNumber(written, country_of(number))


@dataclass(frozen=True)
class Identifier:
    """What a person typed to name themselves, in every form that it may be looked up by."""

    typed: str
    customer_key: str
    phone_key: str
    email_key: str
    key: str  # the keyed hash of its one form: what visible limits are counted by


def read_identifier(typed: str, kinds: Sequence[str], region: str, keyring: Keyring) -> Identifier | None:
    """Read what a customer typed, in a journey that accepts ``kinds``; None if it can be none of them.

    What contains an ``@`` and is no email address is refused by its text alone, so that a typing error is not taken for
    a customer ID for which no code ever arrives. Only where customer IDs alone are accepted may one contain an ``@``.
    """
    text = _unpacked(typed) if len(typed) <= TYPED_LENGTH else ""
    if not text or len(text) > IDENTIFIER_LENGTH or any(unicodedata.category(char) == "Cc" for char in text):
        return None
    address = email_form(text) if "@" in text else None
    if "@" in text and address is None and set(kinds) != {"customer_id"}:
        return None
    phone = e164(text, region) if "phone" in kinds and _MAY_BE_PHONE.match(text) else None
    email = address if "email" in kinds else None
    id_key = customer_key(keyring, text) if "customer_id" in kinds else ""
    one_form = phone or email or id_key
    if not one_form:
        return None
    return Identifier(
        typed=text,
        customer_key=id_key,
        phone_key=keyring.index("phone", phone) if phone else "",
        email_key=keyring.index("email", email) if email else "",
        key=keyring.index("identifier", one_form),
    )


def identifier_fault(typed: str) -> str:
    """Return the code of what is wrong with a text that ``read_identifier`` could not read."""
    return "identifier_invalid" if visible_text(typed).strip() else "identifier_missing"


def mask_contact(contact: str) -> str:
    """Return a contact as it may be shown after a first proof: ``••• 567`` or ``t•••@example.com``."""
    if "@" in contact:
        local, _, domain = contact.rpartition("@")
        return f"{local[:1]}•••@{domain}"
    return f"••• {contact[-3:]}"


def mask_name(name: str) -> str:
    """Return a name as support may see it before it is revealed: the first letter of each part."""
    return " ".join(f"{part[:1]}•••" for part in name.split())


# --- The person

NEVER = datetime.min.replace(tzinfo=UTC)

# Statements of the hot path are made once: building one costs more than running it.
_CUSTOMERS = table_of(CustomerRow)
_USE_TOTP_STEP = Compiled(
    update(_CUSTOMERS)
    .where(_CUSTOMERS.c.id == bindparam("of"), _CUSTOMERS.c.totp_last_step < bindparam("step"))
    .values(totp_last_step=bindparam("step"))
)
_USE_SUPPORT_CODE = Compiled(
    update(_CUSTOMERS)
    .where(_CUSTOMERS.c.id == bindparam("of"), _CUSTOMERS.c.support_code_id == bindparam("code"))
    .values(support_code_id=None, support_code_key_id=None, support_code_expires_at=None)
)


class CustomerNotices(Protocol):
    """What notifies customers of a change to their contacts or credentials (R13)."""

    def to_customer(
        self, work: Work, row: str, contacts: Iterable[str], subject: str, text: str, *, link: str = ""
    ) -> int:
        """Send one text, in English, to these contacts of a customer; return to how many of them it can be sent.

        It leaves in the customer's own language. ``link`` stands in for ``%(link)s``.
        """
        ...

    def to_issuer(self, work: Work, made_by: str | None, subject: str, lines: Sequence[str]) -> None:
        """Mail the admin who created a one-time link."""
        ...

    def reach(self, contacts: Iterable[str]) -> list[str]:
        """Return those of the contacts that a channel can send to."""
        ...

    def customer_changed(self, work: Work, row: str, customer_id: str | None, change: str) -> None:
        """Report a change to programs, in the words of ``Notices.customer_changed``."""
        ...


@dataclass(frozen=True)
class Person:
    """The person who was named: a customer, or a stranger who looks the same. No caller asks which."""

    key: str  # what tries are counted by
    row: str | None = None
    customer_id: str = ""
    subject_id: str | None = None
    locale: str = ""
    is_active: bool = False
    phone_key: str | None = None
    email_key: str | None = None
    phone_sealed: bytes | None = None
    email_sealed: bytes | None = None
    name_sealed: bytes | None = None
    password_sealed: bytes | None = None
    password_is_long: bool = False
    totp_sealed: bytes | None = None
    totp_last_step: int = 0
    support_code_id: str | None = None
    support_code_key_id: int | None = None
    support_code_expires_at: datetime | None = None
    support_code_mac: str | None = None
    identity_mac: str | None = None
    active_mac: str | None = None
    customer_key: str = ""
    shared_key: str | None = None
    phone_changed_at: datetime | None = None
    email_changed_at: datetime | None = None

    def changed_lately(self, hours: int, now: datetime) -> frozenset[str]:
        """Return which kinds of message go to a contact that was changed within these hours (R45)."""
        changed = {"sms": self.phone_changed_at, "email": self.email_changed_at}
        since = now - timedelta(hours=hours)
        return frozenset(carries for carries, at in changed.items() if at is not None and at > since)

    def destination_key(self, carries: str, fallback: str) -> str:
        """Return the key under which messages to this contact are counted; for a stranger the fallback."""
        found = self.phone_key if carries == "sms" else self.email_key
        return found or fallback

    def has_contact(self, carries: str) -> bool:
        """Report whether a message of this kind could reach the person."""
        return self.is_active and (self.phone_key if carries == "sms" else self.email_key) is not None

    def password_hash(self, keyring: Keyring, *, alone: bool) -> str | None:
        """Return the stored argon2id string; None also for a short password that would be the only proof (R21)."""
        if (
            not self.is_active
            or self.row is None
            or self.password_sealed is None
            or (alone and not self.password_is_long)
        ):
            return None
        return keyring.open(self.password_sealed, CUSTOMER_PASSWORD, self.row)

    def totp_seed(self, keyring: Keyring) -> str | None:
        """Return the Base32 seed of the enrolled app; without one None, at the same cost (R24)."""
        has_app = self.is_active and self.row is not None and self.totp_sealed is not None
        sealed = self.totp_sealed if has_app else keyring.decoy(CUSTOMER_TOTP_SECRET)
        seed = keyring.open(sealed or b"", CUSTOMER_TOTP_SECRET, (self.row if has_app else None) or NO_ROW)
        return seed if has_app else None

    def support_code(self, keyring: Keyring) -> IssuedCode:
        """Return the temporary code that support issued; without one, an expired code at the same cost (R24)."""
        code_id, key_id, until = self.support_code_id, self.support_code_key_id, self.support_code_expires_at
        bound = self.row or NO_ROW, code_id or NO_ROW, key_id or keyring.code_key_id, until or NEVER
        is_ours = keyring.is_mac(self.support_code_mac, SUPPORT_CODE_MAC, *bound) or not keyring.requires_macs
        is_issued = self.is_active and is_ours and code_id is not None and key_id is not None and until is not None
        code = keyring.code(code_id or self.key, SUPPORT_CODE_DIGITS, key_id or keyring.code_key_id)
        return IssuedCode(code, until or NEVER, is_replaced=False, is_used=not is_issued)

    def name(self, keyring: Keyring) -> str:
        """Return the person's name, or an empty text."""
        return keyring.open(self.name_sealed, CUSTOMER_NAME, self.row) if self.row and self.name_sealed else ""

    def contact(self, carries: str, keyring: Keyring) -> str:
        """Return the phone number (E.164) or email address on file. Raise LookupError if there is none."""
        column, sealed = ("phone", self.phone_sealed) if carries == "sms" else ("email", self.email_sealed)
        if self.row is None or sealed is None:
            raise LookupError(f"no {column} on file")
        return keyring.open(sealed, SealedColumn("customers", column), self.row)

    def contacts(self, keyring: Keyring) -> list[str]:
        """Return every contact on file, also of a person who is switched off: where notices are sent."""
        on_file = {"sms": self.phone_sealed, "email": self.email_sealed}
        return [self.contact(carries, keyring) for carries, sealed in on_file.items() if sealed is not None]


def support_code_values(work: Work, row: str, until: datetime) -> dict[str, Any]:
    """Return the columns of a new temporary code, signed so that it is of no use to another customer (R54)."""
    code_id, key_id = work.new_id(), work.keyring.code_key_id
    return {
        "support_code_id": code_id,
        "support_code_key_id": key_id,
        "support_code_expires_at": until,
        "support_code_mac": work.keyring.mac(SUPPORT_CODE_MAC, row, code_id, key_id, until),
    }


def stranger(key: str) -> Person:
    """Return a person who is not in the directory."""
    return Person(key=key)


PERSON_COLUMNS = (
    CustomerRow.id.label("row"),
    CustomerRow.customer_id,
    CustomerRow.subject_id,
    CustomerRow.locale,
    CustomerRow.is_active,
    CustomerRow.phone_key,
    CustomerRow.email_key,
    CustomerRow.phone_sealed,
    CustomerRow.email_sealed,
    CustomerRow.name_sealed,
    CustomerRow.password_hash.label("password_sealed"),
    CustomerRow.password_is_long,
    CustomerRow.totp_sealed,
    CustomerRow.totp_last_step,
    CustomerRow.support_code_id,
    CustomerRow.support_code_key_id,
    CustomerRow.support_code_expires_at,
    CustomerRow.support_code_mac,
    CustomerRow.identity_mac,
    CustomerRow.active_mac,
    CustomerRow.customer_key,
    CustomerRow.shared_key,
    CustomerRow.phone_changed_at,
    CustomerRow.email_changed_at,
)
PERSON_FIELDS = tuple(column.key for column in PERSON_COLUMNS)


def person_from(row: Any, key: str) -> Person:
    """Return the person of a row that has PERSON_COLUMNS; a stranger if they are all null."""
    if row.row is None:
        return stranger(key)
    return Person(key=row.row, **{name: getattr(row, name) for name in PERSON_FIELDS})


_DECOY_ID = "C-100001"  # of a stranger: what it costs to read


def is_trusted(keyring: Keyring, person: Person) -> bool:
    """Report whether a person's row is as the portal wrote it (R54). A stranger costs the same and is (R24).

    A MAC binds customer ID and state to the row. What a customer ID is found by must be its one form, and what a
    contact is found by must belong to the contact, which is encrypted for its row. An ID that several customers share
    is found by nothing, so there its one form may stand in either column: their contacts still name them (R55).
    """
    row, customer_id = person.row or NO_ROW, person.customer_id or _DECOY_ID
    values = {"id": row, "customer_id": customer_id, "is_active": person.is_active}
    macs = {"identity_mac": person.identity_mac, "active_mac": person.active_mac}
    contacts = (("phone", person.phone_sealed, person.phone_key), ("email", person.email_sealed, person.email_key))
    # Each key says itself by which rule it was made, so this holds also where the keyring does not know it yet.
    form = id_form(customer_id, has_case=person.customer_key.startswith(CASED))
    keys = (person.customer_key.removeprefix(CASED), person.shared_key)
    has_key = form in keys or not keyring.requires_macs
    return (keyring.vouches("customers", values | macs, contacts) and has_key) or person.row is None


def trusted(work: Work, person: Person) -> Person:
    """Return a person whose row is as the portal wrote it; for any other a stranger, and put that on record (R54)."""
    if is_trusted(work.keyring, person):
        return person
    limits.note_broken(work, "customers", str(person.row), subject_id=person.subject_id)
    return stranger(person.key)


_FIND = Compiled(
    select(*PERSON_COLUMNS)
    .where(
        or_(
            CustomerRow.customer_key == bindparam("customer_key"),
            CustomerRow.phone_key == bindparam("phone_key"),
            CustomerRow.email_key == bindparam("email_key"),
        )
    )
    .order_by((CustomerRow.customer_key == bindparam("customer_key")).desc())
    .limit(4)  # a customer ID first, then two to see it is shared
)


def find_person(connection: Connection, identifier: Identifier) -> Person:
    """Return the person meant: by customer ID, else by a phone number or email address that only one person has.

    A customer ID that several customers have in other spellings names none of them.
    """
    keys = {
        "customer_key": identifier.customer_key,
        "phone_key": identifier.phone_key,
        "email_key": identifier.email_key,
    }
    rows, _count = _FIND.run(connection, keys)
    by_id = [row for row in rows if row.customer_key == identifier.customer_key]
    by_phone = [row for row in rows if identifier.phone_key and row.phone_key == identifier.phone_key]
    by_email = [row for row in rows if identifier.email_key and row.email_key == identifier.email_key]
    for found in (by_id, by_phone, by_email):
        if found:
            is_shared = len(found) > 1 or (found is by_id and bool(found[0].shared_key))
            return stranger(identifier.key) if is_shared else person_from(found[0], identifier.key)
    return stranger(identifier.key)


def holders_of(connection: Connection, phone_key: str) -> list[Person]:
    """Return the customers with this number, at most two: enough to see that it is shared."""
    rows = connection.execute(select(*PERSON_COLUMNS).where(CustomerRow.phone_key == phone_key).limit(2)).all()
    return [person_from(row, row.row) for row in rows]


def person_of_row(connection: Connection, row: str | None, key: str) -> Person:
    """Return the person of a row as it is now; a stranger if it no longer exists."""
    if row is None:
        return stranger(key)
    found = connection.execute(select(*PERSON_COLUMNS).where(CustomerRow.id == row)).one_or_none()
    return person_from(found, key) if found is not None else stranger(key)


def get_person(connection: Connection, row: str) -> Person:
    """Return the customer of a row. Raise NotFound if there is none."""
    person = person_of_row(connection, row, "")
    if person.row is None:
        raise NotFound("customer_unknown")
    return person


def named_by(typed: str, region: str, keyring: Keyring, *, contact: str = "") -> list[ColumnElement[bool]]:
    """Return what holds for the customers that a text names: by ID, name, phone number or email address.

    With a ``contact``, ``phone`` or ``email``, only by that. A phone number may also be written as a chat network does.
    Each is looked up by an index of its own.
    """
    text = typed[:TYPED_LENGTH]
    numbers = numbers_of(text, region) if contact != "email" else ()
    address = email_form(text) if "@" in text and contact != "phone" else None
    by_name = [
        has_id(customer_key(keyring, text)),
        CustomerRow.name_key == keyring.index("name", name_form(text)),
    ]
    return [
        *([] if contact else by_name),
        *(CustomerRow.phone_key == keyring.index("phone", number) for number in sorted(numbers)),
        *([CustomerRow.email_key == keyring.index("email", address)] if address is not None else []),
    ]


def row_of(connection: Connection, keyring: Keyring, customer_id: str) -> str:
    """Return the row of a customer ID; of one that several customers have, the row with this very spelling.

    Raise NotFound if no customer has it, and Conflict if several have it in other spellings.
    """
    learn_id_rule(connection, keyring)
    found = select(CustomerRow.id, CustomerRow.customer_id).where(has_id(customer_key(keyring, customer_id)))
    rows = connection.execute(found).all()
    if not rows:
        raise NotFound("customer_unknown")
    same = rows if len(rows) == 1 else [row for row in rows if row.customer_id == customer_id]
    if not same:
        raise Conflict("customer_id_shared")
    return str(same[0].id)


IS_SHARED = CustomerRow.shared_key != literal_column("''")  # a parameter would not use the index of the few


def has_id(key: str) -> ColumnElement[bool]:
    """Return the condition for every customer with this ID (its one form), those who share it included."""
    return or_(CustomerRow.customer_key == key, and_(CustomerRow.shared_key == key, IS_SHARED))


_SETTINGS = select(Portal.settings).where(Portal.id == PORTAL_ROW)


def learn_id_rule(connection: Connection, keyring: Keyring) -> None:
    """Read whether customer IDs are case-sensitive now, where nothing else may have done that for a while."""
    keyring.read_id_rule(connection.execute(_SETTINGS).scalar_one())


def hold_id_rule(connection: Connection, keyring: Keyring) -> bool:
    """Keep the rule for customer IDs as it is until this transaction, which writes their keys, ends.

    Return False if the keyring did not know the rule yet, so that keys made before are of the other one.
    """
    had_case = keyring.has_case
    keyring.read_id_rule(connection.execute(_SETTINGS.with_for_update(read=True, key_share=True)).scalar_one())
    return had_case == keyring.has_case


def shared_keys(connection: Connection, keys: Iterable[str]) -> set[str]:
    """Return those of these customer IDs, in their one form, that several customers share in other spellings."""
    found = select(CustomerRow.shared_key).where(CustomerRow.shared_key.in_(list(keys)), IS_SHARED)
    return {str(key) for key in connection.execute(found).scalars()}


def use_totp_step(work: Work, row: str | None, step: int) -> bool:
    """Use up a time step of a person's app. Report whether it was unused, which no stranger's is."""
    return work.change(_USE_TOTP_STEP, {"of": row, "step": step}) == 1


def use_support_code(work: Work, row: str | None, code_id: str | None) -> bool:
    """Use up a person's temporary code. Report whether it was still the one that support issued last."""
    return work.change(_USE_SUPPORT_CODE, {"of": row, "code": code_id}) == 1


def store_password_facts(work: Work, person: Person, *, rehashed: str | None, is_long: bool) -> None:
    """Store what a right password has shown: its hash by today's parameters, and that it is long.

    ``rehashed`` is None if the stored hash is good enough. A password that was changed meanwhile stays as it is.
    """
    values: dict[str, object] = {}
    if rehashed is not None and person.row is not None:
        values["password_hash"] = work.seal(rehashed, CUSTOMER_PASSWORD, person.row)
    if is_long and not person.password_is_long:
        values["password_is_long"] = True
    if values:
        same = (_CUSTOMERS.c.id == person.row) & (_CUSTOMERS.c.password_hash == person.password_sealed)
        work.execute(update(_CUSTOMERS).where(same).values(**values))


def end_links(work: Work, customers: Sequence[str] | Select[Any], kind: str = "") -> None:
    """Delete the unused links of these customers (their rows), of one kind or of all kinds.

    A link may lie where its customer can no longer be reached.
    """
    ended = delete(CredentialLink).where(CredentialLink.customer_row.in_(customers), CredentialLink.used_at.is_(None))
    work.execute(ended.where(CredentialLink.kind == kind) if kind else ended)


def as_changed(now: datetime) -> dict[str, Any]:
    """Return the columns that every change of a customer sets: its time, and that it has no number yet."""
    return {"changed_at": now, "change_number": None}


def remember_removed(work: Work, rows: Select[Any]) -> None:
    """Remember that the customers of a query of ids are about to be deleted, for programs that ask what changed."""
    removed = [program_id(work.keyring, row) for row in work.execute(rows).scalars()]
    if removed:
        work.execute(insert(CustomerRemoval), [{"id": one, "removed_at": work.now} for one in removed])


def program_id(keyring: Keyring, row: str) -> str:
    """Return what programs know a customer by, for good. It says nothing of the row, which an erasure removes."""
    return keyring.index("program", row)


def erase_person(work: Work, row: str) -> None:
    """Delete a customer and their one-time links, used ones too."""
    work.execute(delete(CredentialLink).where(CredentialLink.customer_row == row))
    remember_removed(work, select(_CUSTOMERS.c.id).where(_CUSTOMERS.c.id == row))
    work.execute(delete(_CUSTOMERS).where(_CUSTOMERS.c.id == row))


# --- One-time links


@dataclass(frozen=True)
class ShownSeed:
    """The seed of an authenticator app (Base32, 160 bits: R15) that one view of a link shows."""

    seed: str = field(default="", repr=False)
    sealed: str = field(default="", repr=False)  # for a hidden field of the form


@dataclass(frozen=True)
class LinkView:
    """A one-time link as one browser sees it (R47)."""

    link_id: str
    browser: str = field(default="", repr=False)  # a keyed hash
    is_open: bool = False  # the button on the first page was pressed in this browser
    is_open_elsewhere: bool = False  # and in another one

    def fresh_seed(self, keyring: Keyring) -> ShownSeed:
        """Return a seed that no other view has."""
        seed = new_seed()
        sealed = keyring.seal(seed, LINK_SEED, f"{self.link_id} {self.browser}")
        return ShownSeed(seed, base64.urlsafe_b64encode(sealed).decode())

    def shown_seed(self, keyring: Keyring, sealed: str) -> ShownSeed | None:
        """Return the seed of a form that this link showed in this browser; None for anything else."""
        try:
            content = base64.urlsafe_b64decode(sealed)
            return ShownSeed(keyring.open(content, LINK_SEED, f"{self.link_id} {self.browser}"), sealed)
        except (KeyFault, binascii.Error, ValueError):
            return None


def view_link(work: Work, link_id: str, browser: str) -> LinkView:
    """Return a link as a browser sees it, named by its cookie; changes nothing."""
    key = work.keyring.index("link browser", browser)
    here, all_browsers = _openings(link_id, key)
    found = select(Counter.key, Counter.events).where(
        Counter.key.in_([here.key, all_browsers.key]), Counter.ends_at > work.now
    )
    counts = {row.key: row.events for row in work.execute(found)}
    is_open = here.key in counts
    return LinkView(link_id, key, is_open, counts.get(all_browsers.key, 0) > is_open)


def open_link(work: Work, view: LinkView) -> int:
    """Note that a link is opened in this browser; return how many have opened it, or 0 if this one did before."""
    here, all_browsers = _openings(view.link_id, view.browser)
    (taken,) = limits.take(work, [here])
    if taken.count > 1:
        return 0
    (taken,) = limits.take(work, [all_browsers])
    return taken.count


def _openings(link_id: str, browser: str) -> tuple[Limit, Limit]:
    """Return what counts the openings of a link in one browser, and the browsers that have opened it."""
    here = Limit(f"link:{link_id}:{browser}", 1, LONGEST_LINK_SECONDS)
    return here, Limit(f"link:{link_id}", 1, LONGEST_LINK_SECONDS)
