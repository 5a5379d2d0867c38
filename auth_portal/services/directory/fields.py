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
from urllib.parse import parse_qs, urlsplit

from argon2 import extract_parameters

from auth_portal.crypto import PASSWORD_CODE_POINTS, Keyring, SealedColumn, normal_password
from auth_portal.i18n import country_name
from auth_portal.methods.password import SHORT_PASSWORD
from auth_portal.services.directory.person import (
    CUSTOMER_ID_LENGTH,
    OWN,
    country_of,
    customer_key,
    id_form,
    name_form,
)
from auth_portal.store.db import new_id
from auth_portal.typed import JOINERS, e164, email_form, language_tag, plain_text, visible_text

FIELDS = ("customer_id", "name", "phone", "email", "locale", "password", "totp_secret")
CLEAR = "-"
ON_FILE = "one on file"  # in place of what an audit event must not name
NAME_LENGTH = 200
SEED_BITS = 128  # RFC 4226 R6 demands these; the 160 that it recommends are for the seeds we make ourselves (R15)
SEED_LENGTH = 128  # Base32 digits: no app makes longer ones
OTP_ALGORITHMS = ("SHA1", "SHA256", "SHA512")  # the first are an app's usual ones
OTP_PERIODS = ("30", "60")  # seconds
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
NO_COUNTRY = "no default country is set, so a number needs its country code"
# How spreadsheets and programs wrap a value so that its zeros stay: ="0012", =T("0012"), =+27821234567.
_WRAPPED = re.compile(
    r'=\s*(?:[A-Z]*\s*\(\s*)?(?:"(?P<only>(?:[^"]|"")*)"|(?P<number>\+?\d+))\s*\)?|'
    r'=\s*HYPERLINK\s*\(\s*"(?:[^"]|"")*"\s*[,;]\s*"(?P<shown>(?:[^"]|"")*)"\s*\)|'
    r'"(?P<quoted>(?:[^"]|"")*)"',
    re.IGNORECASE,
)
WRAPPINGS = 3  # one within another: "=""0012"""
FORMULA = "is a formula, not a value; in the spreadsheet, copy the column and paste it as values"
NOT_A_VALUE = "is an error of the spreadsheet, not a value; fix its formula there"
NO_TEXT = "is what a program writes for a value that it cannot write; export the column again as text"
NO_VALUE = "is what a program writes for a missing value, not a customer ID; fill it in, or remove the row"
_ERROR = re.compile(r"#\W?[A-ZÀ-Þ/0_]+[!?]|#(N/A|N/D|NV|I/T|E/T|NAME|GETTING_DATA)|#{3,}|Err:\d{3}", re.IGNORECASE)
_OBJECT = re.compile(r"\[object \w+\]|System\.\w[\w.`\[\]]*", re.IGNORECASE)
_NULLS = {"null", "(null)", "<null>", "[null]", "\\n", "nan", "none", "nil", "undefined", "n/a", "not available"}
_NAME_NULLS = {
    "NULL",
    "(null)",
    "(NULL)",
    "<null>",
    "<NULL>",
    "[NULL]",
    "\\N",
    "undefined",
    "n/a",
    "N/A",
}  # Null is a name
# How a spreadsheet shows a long number: 1.23E+10
_SHORTENED = re.compile(r"[+-]?(\d+(?:[.,]\d+)?[eE]\+\d+|\d+[.,]\d+[eE]\d+)")
_LOST_DIGITS = "the spreadsheet shortened it; make the column Text and fill it again"
_DECIMAL = re.compile(r"[+-]?\d+[.,]0+")  # how a program writes a number that it took for a decimal: 821234567.0
_CALCULATED = "is a calculated number (123.0), not a {}; set the column to Text and fill it again"
_ROUNDED = re.compile(r"\d{15}0+")
_PHC = re.compile(
    r"\$argon2id\$(v=(16|19)\$)?m=\d{1,7},t=\d{1,4},p=\d{1,3}\$(?P<salt>[A-Za-z0-9+/]{11,86})\$(?P<hash>[A-Za-z0-9+/]{22,86})"
)
_FOREIGN_HASH = re.compile(
    r"(argon2)?\$(argon2\w*|2[abxy]?|[156]|7|y|scrypt|pbkdf2[\w-]*)\$|(pbkdf2|scrypt|bcrypt)[:_$]|\{[A-Z0-9]+\}"
)
_LIKE_A_SEED = re.compile(r"(?=.*[A-Za-z])[A-Za-z2-7][A-Za-z2-7 -]{24,}=*")
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


class LanguageUnknown(CellFault):
    """The reason why a text names no language. A file's row is imported without it."""


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


def differ_in_case(one: str, other: str) -> bool:
    """Report whether two customer IDs with the same key differ in large and small letters.

    Some systems give such IDs to different people, as Salesforce does with its IDs of 15 characters.
    """
    return one != other and id_form(one, has_case=True) != id_form(other, has_case=True)


def is_blank(cell: str) -> bool:
    """Report whether a text shows nothing."""
    return not visible_text(cell).strip()


def clears(cell: str) -> bool:
    """Report whether a text is the dash that clears a field, as a file writes it."""
    return plain_text(cell).strip() == CLEAR


def names_nothing(name: str, cell: str) -> bool:
    """Report whether a cell is what programs write for a missing value of this field, such as ``NULL``.

    A password may be any word, and a name may be Null.
    """
    text = visible_text(cell).strip()
    if name == "password":
        return False
    return text in _NAME_NULLS if name == "name" else text.casefold() in _NULLS


def is_rounded(customer_id: str) -> bool:
    """Report whether a spreadsheet may have rounded an ID: it stores 15 digits of a number, and zeros for the rest."""
    return _ROUNDED.fullmatch(customer_id) is not None


def unwrapped(cell: str, *, apostrophe: bool = True) -> str:
    """Return a text without what keeps a spreadsheet from changing it: ``="0012"``, ``'0012``, ``"0012"``.

    With ``apostrophe`` one at the beginning goes too, as it must not from a name. Raise CellFault for a formula, and
    for what spreadsheets and programs write where they have no value.
    """
    text = visible_text(cell, JOINERS).strip()
    for _layer in range(WRAPPINGS):
        if match := _WRAPPED.fullmatch(text):
            text = next(found for found in match.groupdict().values() if found is not None).replace('""', '"').strip()
        if apostrophe:
            text = text.removeprefix("'").strip()
    if _ERROR.fullmatch(text):
        raise CellFault(NOT_A_VALUE)
    if _OBJECT.fullmatch(text):
        raise CellFault(NO_TEXT)
    if text.startswith("=") and len(text) > 1:
        raise CellFault(FORMULA)
    return text


def _customer_id(cell: str) -> str:
    """Return the ID as it is written, without what no one sees: Flow gets it as it was imported."""
    text = visible_text(unwrapped(_one_line(cell))).strip()
    if _SHORTENED.fullmatch(text):
        raise CellFault(f"is not a customer ID: {_LOST_DIGITS}")
    if _DECIMAL.fullmatch(text):
        raise CellFault(_CALCULATED.format("customer ID"))
    if names_nothing("customer_id", text):
        raise CellFault(NO_VALUE)
    key = id_form(text)
    if max(len(text), len(key)) > CUSTOMER_ID_LENGTH:
        raise CellFault(f"is longer than {CUSTOMER_ID_LENGTH} characters")
    if not key or clears(text):
        raise CellFault("is missing")
    return text


def _name(cell: str) -> str:
    text = unwrapped(_one_line(cell.strip(_AROUND_NAMES)), apostrophe=False)
    if len(text) > NAME_LENGTH:
        raise CellFault(f"is longer than {NAME_LENGTH} characters")
    return text


def _phone(cell: str, region: str) -> str:
    text = plain_text(unwrapped(cell)).strip()
    if _SHORTENED.fullmatch(text):
        raise CellFault(f"is not a phone number: {_LOST_DIGITS}")
    if _DECIMAL.fullmatch(text):  # taken as digits it might be another person's number
        raise CellFault(_CALCULATED.format("phone number"))
    number = e164(text, region)
    if number is None and not region and not text.startswith(("+", "00")):
        raise RegionUnset(NO_REGION)
    if number is None:
        country = f"numbers without + are read as numbers of {country_name(region)}" if region else NO_COUNTRY
        raise CellFault(f"is not a phone number ({country})")
    return number


def _email(cell: str) -> str:
    address = email_form(unwrapped(cell))
    if address is None:
        raise CellFault("is not an email address that codes can be sent to")
    return address


def _locale(cell: str) -> str:
    tag = language_tag(unwrapped(cell))
    if not tag:
        raise LanguageUnknown("must be a language such as en, af or zu, perhaps with a region as in en-ZA")
    return tag


def _one_line(cell: str) -> str:
    text = cell.strip()
    if _CONTROLS.search(text):
        raise CellFault("contains a line break or another control character")
    return text


def _password(cell: str) -> str:
    if _ERROR.fullmatch(cell.strip()):
        raise CellFault(NOT_A_VALUE)
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


def is_secret(text: str) -> bool:
    """Report whether a text looks like a hash or the secret of an authenticator app, which no page may show."""
    plain = text.strip()
    return bool(_FOREIGN_HASH.match(plain) or _LIKE_A_SEED.fullmatch(plain) or plain.lower().startswith("otpauth:"))


def is_hash(password: str) -> bool:
    """Report whether a password cell is an argon2id string rather than the password itself."""
    return password.startswith(PHC_PREFIX)


def _seed(cell: str) -> str:
    """Return a seed in Base32; with other settings than an app's usual ones as an ``otpauth:`` URL of these alone."""
    text, settings = unwrapped(unicodedata.normalize("NFKC", cell)), ""
    if text.lower().startswith("otpauth"):
        text, settings = read_otpauth(text)
    text = plain_text(text).translate(_FORGIVEN_IN_SEEDS).rstrip("=").upper()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise CellFault("is not Base32 (letters A to Z and digits 2 to 7)") from None
    if len(raw) * 8 < SEED_BITS:
        raise CellFault(f"is shorter than {SEED_BITS} bits (26 characters)")
    if len(text) > SEED_LENGTH:
        raise CellFault(f"is longer than {SEED_LENGTH} characters")
    return f"otpauth://totp/?secret={text}{settings}" if settings else text


def read_otpauth(url: str) -> tuple[str, str]:
    """Return the seed of an ``otpauth:`` URL, and its settings as parameters, "" for the usual ones. Raise CellFault.

    ``methods.totp`` reads what is stored.
    """
    parts = urlsplit(url)
    said = {name.lower(): values[-1].strip() for name, values in parse_qs(parts.query).items()}
    algorithm = re.sub(r"^HMAC|[^A-Z0-9]", "", said.get("algorithm", "SHA1").upper())
    digits, period = said.get("digits", "6"), said.get("period", "30")
    if parts.scheme.lower() == "otpauth-migration":
        raise CellFault("is an export of several accounts; export each of them as otpauth://")
    if parts.netloc.lower() != "totp":
        raise CellFault("is for codes by a counter (HOTP), which the portal does not check; set up the app by a link")
    if "secret" not in said:
        raise CellFault("is an otpauth:// link without a secret")
    if algorithm not in OTP_ALGORITHMS:
        raise CellFault("asks for an algorithm other than SHA1, SHA256 and SHA512; set up the app again by a link")
    if digits != "6":
        raise CellFault("asks for codes of other than 6 digits, which the pages do not take; set up the app by a link")
    if period not in OTP_PERIODS:
        raise CellFault("asks for codes of other than 30 or 60 seconds; set up the app again by a link")
    usual = (algorithm, period) == (OTP_ALGORITHMS[0], OTP_PERIODS[0])
    return said["secret"], "" if usual else f"&algorithm={algorithm}&digits={digits}&period={period}"


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
        "customer_key": customer_key(keyring, str(changes["customer_id"])),
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
        values |= {"customer_key": customer_key(keyring, values["customer_id"]), "shared_key": OWN}
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


def recorded_changes(
    before: Mapping[str, str], changes: Mapping[str, str | None]
) -> dict[str, dict[str, tuple[str, str]]]:
    """Return changes of a customer's fields as an audit event stores them: what was there before and after.

    An event stays when the customer is erased, so it has neither contacts nor names, whole or masked: of a phone its
    country, of the language its tag, and of anything else whether there is one.
    """

    def side(name: str, text: str | None) -> str:
        if not text:
            return ""
        if name == "phone":
            return f"{ON_FILE} ({country_of(text) or '?'})"
        return text if name == "locale" else ON_FILE

    held = {"customer_id": ON_FILE, **before}  # there always is one
    sides = {name: (side(name, held.get(name)), side(name, text)) for name, text in sorted(changes.items())}
    return {
        "customer": {name: (old, f"another {new}" if old == new and new else new) for name, (old, new) in sides.items()}
    }


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
