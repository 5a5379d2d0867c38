"""The directory: who is in it, found by what a person typed. Whoever is not in it is a stranger with the same face.

Identifiers are brought to one form before any look-up or limit (R25): customer IDs without regard to case and blanks,
phones as E.164, e-mail addresses in lower case and ASCII.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from sqlalchemy import Connection, or_, select

from auth_portal.crypto import Keyring
from auth_portal.errors import NotFound
from auth_portal.methods.contract import IssuedCode
from auth_portal.methods.support_code import DIGITS as SUPPORT_CODE_DIGITS
from auth_portal.store.models import CustomerRow

IDENTIFIER_LENGTH = 254  # characters: an e-mail address is no longer (RFC 5321 4.5.3.1.3)
CUSTOMER_ID_LENGTH = 128
PHONE_LENGTH = 40  # characters as people type them
NEVER = datetime.min.replace(tzinfo=UTC)
_BLANKS = re.compile(r"\s+")


def customer_key(customer_id: str) -> str:
    """The one form of a customer ID: compatibility forms folded, case and blanks gone."""
    return _BLANKS.sub("", unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", customer_id).casefold()))


def name_form(name: str) -> str:
    """The one form of a name: compatibility forms folded, without regard to case, one blank between its parts."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())


def e164(typed: str, region: str) -> str | None:
    """A phone number as ``+27821234567``, or None where it cannot be one. ``region`` reads national forms."""
    text = typed.strip()
    if not text.isascii() or len(text) > PHONE_LENGTH:
        return None
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def country_of(phone: str) -> str:
    """The country of a number as ``e164`` gives it, such as ``ZA``; nothing where it belongs to none."""
    for length in (1, 2, 3):  # no calling code begins another; most belong to one country, which needs no parsing
        regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(int(phone[1 : 1 + length]), ())
        if len(regions) == 1:
            return str(regions[0])
    return phonenumbers.region_code_for_number(phonenumbers.parse(phone)) or ""


def msisdn_form(text: str, region: str) -> str | None:
    """A chat's own number as ``+27821234567``: networks write it international and without the plus.

    Only a leading 0 says that it is a national one. Bare digits are never read as that where they are no international
    number: they may be somebody's ID on another network, which must not pass for a customer's number.
    """
    number = text.strip()
    return e164(number if number.startswith(("+", "0")) else f"+{number}", region)


def email_form(typed: str) -> str | None:
    """An e-mail address in its one form, or None. No Unicode before the @: ``mıke@`` is not ``mike@``."""
    try:
        valid = validate_email(typed.strip(), allow_smtputf8=False, check_deliverability=False)
    except EmailNotValidError:
        return None
    return (valid.ascii_email or valid.normalized).lower()


@dataclass(frozen=True)
class Identifier:
    """What a person typed to name themselves, in every form it may have here."""

    typed: str
    customer_key: str
    phone_key: str
    email_key: str
    key: str  # the keyed hash of its one form: what visible limits are counted by


def read_identifier(typed: str, kinds: Sequence[str], region: str, keyring: Keyring) -> Identifier | None:
    """Reads a typed identifier for a journey that accepts ``kinds``; None for nothing or what can be none of them."""
    text = typed.strip()
    if not text or len(text) > IDENTIFIER_LENGTH or any(unicodedata.category(char) == "Cc" for char in text):
        return None
    phone = e164(text, region) if "phone" in kinds else None
    email = email_form(text) if "email" in kinds and "@" in text else None
    folded = customer_key(text)[:CUSTOMER_ID_LENGTH] if "customer_id" in kinds else ""
    one_form = phone or email or folded
    if not one_form:
        return None
    return Identifier(
        typed=text,
        customer_key=folded,
        phone_key=keyring.index("phone", phone) if phone else "",
        email_key=keyring.index("email", email) if email else "",
        key=keyring.index("identifier", one_form),
    )


@dataclass(frozen=True)
class Person:
    """Whoever was named: a customer, or a stranger with the same face. No caller asks which."""

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

    def destination_key(self, carries: str, fallback: str) -> str:
        """What sends to this person's contact are counted by; for a stranger something of the same shape."""
        found = self.phone_key if carries == "sms" else self.email_key
        return found or fallback

    def has_contact(self, carries: str) -> bool:
        """Whether a message of this kind could reach the person."""
        return self.is_active and (self.phone_key if carries == "sms" else self.email_key) is not None

    def password_hash(self, keyring: Keyring, *, alone: bool) -> str | None:
        """The stored argon2id string; a short password does not count where it would be the only proof (R21)."""
        if (
            not self.is_active
            or self.row is None
            or self.password_sealed is None
            or (alone and not self.password_is_long)
        ):
            return None
        return keyring.open(self.password_sealed, "customers", self.row, "password")

    def totp_seed(self, keyring: Keyring) -> str | None:
        """The Base32 seed of the enrolled app."""
        if not self.is_active or self.row is None or self.totp_sealed is None:
            return None
        return keyring.open(self.totp_sealed, "customers", self.row, "totp_secret")

    def support_code(self, keyring: Keyring) -> IssuedCode:
        """The temporary code that support issued; without one, something out of force at the same price (R24)."""
        code_id, key_id, until = self.support_code_id, self.support_code_key_id, self.support_code_expires_at
        is_issued = self.is_active and code_id is not None and key_id is not None and until is not None
        code = keyring.code(code_id or self.key, SUPPORT_CODE_DIGITS, key_id or keyring.code_key_id)
        return IssuedCode(code, until or NEVER, is_replaced=False, is_used=not is_issued)

    def name(self, keyring: Keyring) -> str:
        """The person's name as imported, or nothing."""
        return keyring.open(self.name_sealed, "customers", self.row, "name") if self.row and self.name_sealed else ""

    def contact(self, carries: str, keyring: Keyring) -> str:
        """The phone (E.164) or e-mail address on file. Raises LookupError where there is none."""
        column, sealed = ("phone", self.phone_sealed) if carries == "sms" else ("email", self.email_sealed)
        if self.row is None or sealed is None:
            raise LookupError(f"no {column} on file")
        return keyring.open(sealed, "customers", self.row, column)


def stranger(key: str) -> Person:
    """Whoever was named and is not in the directory."""
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
)
PERSON_FIELDS = tuple(column.key for column in PERSON_COLUMNS)


def person_from(row: Any, key: str) -> Person:
    """The person of a row that has PERSON_COLUMNS; a stranger where the row is all null."""
    if row.row is None:
        return stranger(key)
    return Person(key=row.row, **{name: getattr(row, name) for name in PERSON_FIELDS})


_FIND = select(*PERSON_COLUMNS, CustomerRow.customer_key).limit(4)  # a customer ID first, then two to see it is shared


def find(connection: Connection, identifier: Identifier) -> Person:
    """Whoever is meant: by customer ID, else by a phone, else by an e-mail address that one person alone holds."""
    rows = connection.execute(
        _FIND.where(
            or_(
                CustomerRow.customer_key == identifier.customer_key,
                CustomerRow.phone_key == identifier.phone_key,
                CustomerRow.email_key == identifier.email_key,
            )
        ).order_by((CustomerRow.customer_key == identifier.customer_key).desc())
    ).all()
    by_id = [row for row in rows if row.customer_key == identifier.customer_key]
    by_phone = [row for row in rows if identifier.phone_key and row.phone_key == identifier.phone_key]
    by_email = [row for row in rows if identifier.email_key and row.email_key == identifier.email_key]
    for found in (by_id, by_phone, by_email):
        if found:
            return person_from(found[0], identifier.key) if len(found) == 1 else stranger(identifier.key)
    return stranger(identifier.key)


def holders_of(connection: Connection, phone_key: str) -> list[Person]:
    """Whoever has this number on file: two at most, which is enough to see that it is shared."""
    rows = connection.execute(select(*PERSON_COLUMNS).where(CustomerRow.phone_key == phone_key).limit(2)).all()
    return [person_from(row, row.row) for row in rows]


def get_by_row(connection: Connection, row: str | None, key: str) -> Person:
    """The person of a customers row as it is now; a stranger where it is gone."""
    if row is None:
        return stranger(key)
    found = connection.execute(select(*PERSON_COLUMNS).where(CustomerRow.id == row)).one_or_none()
    return person_from(found, key) if found is not None else stranger(key)


def get_person(connection: Connection, row: str) -> Person:
    """The customer of a row. Raises NotFound where there is none."""
    person = get_by_row(connection, row, "")
    if person.row is None:
        raise NotFound("customer_unknown")
    return person


def row_of(connection: Connection, customer_id: str) -> str:
    """The row of a customer ID. Raises NotFound for nobody."""
    found = select(CustomerRow.id).where(CustomerRow.customer_key == customer_key(customer_id))
    row: str | None = connection.execute(found).scalar_one_or_none()
    if row is None:
        raise NotFound("customer_unknown")
    return row


def mask_contact(contact: str) -> str:
    """A contact as it may be shown after a first proof: ``*** 4567`` or ``t***@example.com``."""
    if "@" in contact:
        local, _, domain = contact.rpartition("@")
        return f"{local[:1]}•••@{domain}"
    return f"••• {contact[-3:]}"


def mask_name(name: str) -> str:
    """A name as support may see it before it is revealed: the first letter of each part."""
    return " ".join(f"{part[:1]}•••" for part in name.split())
