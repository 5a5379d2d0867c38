"""The fields of a customer: what each may hold, how it is stored, and what a change of it is announced as.

The rules are the same for a file, a form and a program. A text is brought to its one form or refused, in words that
never repeat the value.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from argon2 import extract_parameters

from auth_portal.crypto import PASSWORD_CODE_POINTS, Keyring, SealedColumn, normal_password
from auth_portal.methods.password import SHORT_PASSWORD
from auth_portal.services.directory.person import (
    CUSTOMER_ID_LENGTH,
    OWN,
    country_of,
    customer_key,
    name_form,
)
from auth_portal.store.db import new_id
from auth_portal.typed import JOINERS, e164, email_form, plain_text, visible_text

FIELDS = ("customer_id", "name", "phone", "email", "locale", "password", "totp_secret")
CLEAR = "-"
NAME_LENGTH = 200
SEED_BITS = 128  # RFC 4226 R6 demands these; the 160 that it recommends are for the seeds we make ourselves (R15)
SEED_LENGTH = 128  # Base32 digits: no app makes longer ones
PHC_PREFIX = "$argon2id$"
PHC_MEMORY_KIB = 128 * 1024  # more, or more rounds, would let one sign-in stop the server
PHC_ROUNDS = 10
PHC_LANES = 16

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # and what reverses text
_AROUND_NAMES = " \t\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # what apps put around a name
NO_REGION = (
    "has no country code, and no default country is set: set one under Settings (default_region in [portal] of the "
    "config file), or write the number with its country code, such as +27"
)
_SHORTENED = re.compile(r"[+-]?\d+(?:[.,]\d+)?[eE]\+\d+")  # how a spreadsheet shows a long number: 1.23E+10
_LOST_DIGITS = "the spreadsheet shortened it; make the column Text and fill it again"
_DECIMAL = re.compile(r"[+-]?\d+[.,]0+")  # how a program writes a number that it took for a decimal: 821234567.0
_LOCALE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})?")
_PHC = re.compile(
    r"\$argon2id\$(v=(16|19)\$)?m=\d{1,7},t=\d{1,4},p=\d{1,3}\$(?P<salt>[A-Za-z0-9+/]{11,86})\$(?P<hash>[A-Za-z0-9+/]{22,86})"
)
_FOREIGN_HASH = re.compile(
    r"(argon2)?\$(argon2\w*|2[abxy]?|[156]|7|y|scrypt|pbkdf2[\w-]*)\$|(pbkdf2|scrypt|bcrypt)[:_$]|\{[A-Z0-9]+\}"
)
_FORGIVEN_IN_SEEDS = str.maketrans("", "", " -")

SEALED = {  # by the name under which a value is sealed, the column that holds it
    "name": "name_sealed",
    "phone": "phone_sealed",
    "email": "email_sealed",
    "password": "password_hash",
    "totp_secret": "totp_sealed",
}
INDEXED = {"name": "name_key", "phone": "phone_key", "email": "email_key"}
CONTACTS = ("phone", "email")
NOTIFIED = {  # the fields whose change is sent to the customer, and what it is called there
    "phone": "phone number",
    "email": "email address",
    "password": "password",
    "totp_secret": "authenticator app",
}

Check = Callable[[str], str]


class CellFault(ValueError):
    """The reason why a text cannot be used, without its value."""


class RegionUnset(CellFault):
    """The reason why no national phone number can be used."""


@dataclass(frozen=True)
class CheckedFields:
    """The fields of one customer in their one form, and by field why the others cannot be used."""

    fields: Mapping[str, str | None] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ChangeNotice:
    """A message to a customer about a change of theirs."""

    contacts: Sequence[str]
    subject: str
    text: str


def check(given: Mapping[str, str | None], region: str) -> CheckedFields:
    """Check the fields given for one customer; None clears a field, and a customer ID cannot be cleared.

    Raise KeyError for a field that is not one of FIELDS.
    """
    rules = checks(region)
    fields: dict[str, str | None] = {}
    faults: dict[str, str] = {}
    for name, text in given.items():
        try:
            fields[name] = None if text is None and name != "customer_id" else rules[name](text or "")
        except CellFault as fault:
            faults[name] = str(fault)
    return CheckedFields(fields, faults)


def checks(region: str) -> dict[str, Check]:
    """Return the check of each field: it brings a text to its one form or raises CellFault.

    ``region`` is the country of national phone numbers.
    """
    return {
        "customer_id": _customer_id,
        "name": _name,
        "phone": lambda cell: _phone(cell, region),
        "email": _email,
        "locale": _locale,
        "password": _password,
        "totp_secret": _seed,
    }


def is_blank(cell: str) -> bool:
    """Report whether a text shows nothing."""
    return not visible_text(cell).strip()


def clears(cell: str) -> bool:
    """Report whether a text is the dash that clears a field, as a file writes it."""
    return plain_text(cell).strip() == CLEAR


def _customer_id(cell: str) -> str:
    """Return the ID as it is written, without what no one sees: Flow gets it as it was imported."""
    text = _one_line(visible_text(cell))
    if _SHORTENED.fullmatch(text):
        raise CellFault(f"is not a customer ID: {_LOST_DIGITS}")
    key = customer_key(text)
    if max(len(text), len(key)) > CUSTOMER_ID_LENGTH:
        raise CellFault(f"is longer than {CUSTOMER_ID_LENGTH} characters")
    if not key or clears(text):
        raise CellFault("is missing")
    return text


def _name(cell: str) -> str:
    text = visible_text(_one_line(cell.strip(_AROUND_NAMES)), JOINERS).strip()
    if len(text) > NAME_LENGTH:
        raise CellFault(f"is longer than {NAME_LENGTH} characters")
    return text


def _phone(cell: str, region: str) -> str:
    text = plain_text(cell).strip()
    if _SHORTENED.fullmatch(text):
        raise CellFault(f"is not a phone number: {_LOST_DIGITS}")
    if _DECIMAL.fullmatch(text):  # taken as digits it might be another person's number
        raise CellFault("is a calculated number (123.0), not a phone number; set the column to Text and fill it again")
    number = e164(cell, region)
    if number is None and not region and not text.startswith(("+", "00")):
        raise RegionUnset(NO_REGION)
    if number is None:
        raise CellFault(f"is not a phone number (numbers without + are read as numbers in {region})")
    return number


def _email(cell: str) -> str:
    address = email_form(cell)
    if address is None:
        raise CellFault("is not an email address that codes can be sent to")
    return address


def _locale(cell: str) -> str:
    text = plain_text(cell).strip()
    if not _LOCALE.fullmatch(text):
        raise CellFault("must be a language such as en, af or zu, perhaps with a region as in en-ZA")
    return text


def _one_line(cell: str) -> str:
    text = cell.strip()
    if _CONTROLS.search(text):
        raise CellFault("contains a line break or another control character")
    return text


def _password(cell: str) -> str:
    if _CONTROLS.search(cell):
        raise CellFault("contains a line break or another control character")
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
    """Return a hash from elsewhere. Raise CellFault if it is malformed or too expensive to verify."""
    match = _PHC.fullmatch(text)
    if match is None or not (_is_base64(match["salt"]) and _is_base64(match["hash"])):
        raise CellFault("begins like an argon2id string but is not one")
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
        raise CellFault("begins like an argon2id string but is not one")
    return text


def _is_base64(text: str) -> bool:
    """Report whether argon2 can read it: unpadded, and without bits left over at its end."""
    try:
        return base64.b64encode(base64.b64decode(text + "=" * (-len(text) % 4))).decode().rstrip("=") == text
    except binascii.Error:
        return False


def is_hash(password: str) -> bool:
    """Report whether a password cell is an argon2id string rather than the password itself."""
    return password.startswith(PHC_PREFIX)


def _seed(cell: str) -> str:
    text = plain_text(unicodedata.normalize("NFKC", cell)).translate(_FORGIVEN_IN_SEEDS).rstrip("=").upper()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise CellFault("is not Base32 (letters A to Z and digits 2 to 7)") from None
    if len(raw) * 8 < SEED_BITS:
        raise CellFault(f"is shorter than {SEED_BITS} bits (26 characters)")
    if len(text) > SEED_LENGTH:
        raise CellFault(f"is longer than {SEED_LENGTH} characters")
    return text


def opened(keyring: Keyring, row: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Return these values of a row in the clear; one that is not stored is left out."""
    texts = {"customer_id": row["customer_id"], "locale": row["locale"]}
    for name in SEALED.keys() & set(names):
        if (sealed := row[SEALED[name]]) is not None:
            texts[name] = keyring.open(sealed, SealedColumn("customers", name), row["id"])
    return texts


def new_row(keyring: Keyring, now: datetime, changes: Mapping[str, str | None], *, is_long: bool) -> dict[str, Any]:
    """Return a whole new row. Each names every column, so that many rows share one statement."""
    row_id = new_id(now)
    empty = dict.fromkeys((*SEALED.values(), *INDEXED.values(), "phone_country", *contact_times(CONTACTS, now)))
    return {
        **empty,
        "id": row_id,
        "customer_key": customer_key(str(changes["customer_id"])),
        "shared_key": OWN,
        "locale": "",
        "password_is_long": False,
        "totp_last_step": 0,
        "subject_id": new_id(now),
        "created_at": now,
        "changed_at": now,
        **activity(keyring, row_id, is_active=True),
        **column_values(keyring, row_id, changes, is_long=is_long),
    }


def column_values(keyring: Keyring, row_id: str, changes: Mapping[str, str | None], *, is_long: bool) -> dict[str, Any]:
    """Return the columns for these changes; None clears. A password comes hashed; ``is_long`` is of the plain one."""
    values: dict[str, Any] = {}
    for name, text in sorted(changes.items()):
        if name in SEALED:
            values[SEALED[name]] = None if text is None else keyring.seal(text, SealedColumn("customers", name), row_id)
        else:
            values[name] = text or ""
        if name in INDEXED:
            values[INDEXED[name]] = None if text is None else index_of(keyring, name, text)
    if "phone" in changes:
        values["phone_country"] = None if changes["phone"] is None else country_of(changes["phone"])
    if "customer_id" in changes:
        values |= {"customer_key": customer_key(values["customer_id"]), "shared_key": OWN}
        macs = keyring.signed("customers", {"id": row_id, "customer_id": values["customer_id"]})
        values["identity_mac"] = macs["identity_mac"]
    if "password" in changes:
        values["password_is_long"] = is_long
    if "totp_secret" in changes:
        values["totp_last_step"] = 0  # the steps of another seed say nothing about this one
    return values


def contact_times(changed: Iterable[str], now: datetime) -> dict[str, datetime]:
    """Return the columns that say when contacts of a customer changed, for those of these fields that are contacts.

    One that is removed and added again has changed too, and one that an import's undo brings back: what was on file in
    between may have been someone else's (R45).
    """
    return {f"{name}_changed_at": now for name in CONTACTS if name in changed}


def activity(keyring: Keyring, row_id: str, *, is_active: bool) -> dict[str, Any]:
    """Return the columns that switch a customer on or off."""
    values = keyring.signed("customers", {"id": row_id, "is_active": is_active})
    del values["id"]
    return values


def index_of(keyring: Keyring, name: str, text: str) -> str:
    """Return the keyed hash that a value is found by."""
    return keyring.index(name, name_form(text) if name == "name" else text)


def change_notices(before: Mapping[str, str], changes: Mapping[str, str | None]) -> list[ChangeNotice]:
    """Return what a customer is notified of after a change, and where (R13).

    A change of a contact goes to the old and to the new one, a change of a credential to every contact before it. The
    text says what was changed, and never to what.
    """
    notices = []
    for name, label in NOTIFIED.items():
        if name in changes:
            found = (
                [before.get(name), changes[name]] if name in CONTACTS else [before.get(contact) for contact in CONTACTS]
            )
            verb = "removed" if changes[name] is None else "changed"
            subject, text = f"Your {label} was {verb}", "If you didn't ask for this, contact us immediately."
            notices.append(ChangeNotice([contact for contact in found if contact], subject, text))
    return notices
