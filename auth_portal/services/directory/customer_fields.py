"""What may be said of a customer: the one rule for every field, whoever says it (a file, a form, a program).

A field's text is brought to its one form or refused, in words that never repeat the value.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from argon2 import extract_parameters

from auth_portal.crypto import PASSWORD_CODE_POINTS, normal_password
from auth_portal.methods.password import SHORT_PASSWORD
from auth_portal.services.directory import customers

FIELDS = ("customer_id", "name", "phone", "email", "locale", "password", "totp_secret")
CLEAR = "-"
NAME_LENGTH = 200
SEED_BITS = 128  # RFC 4226 R6 demands these; the 160 that it recommends are for the seeds we make ourselves (R15)
SEED_LENGTH = 128  # Base32 digits: no app makes longer ones
PHC_PREFIX = "$argon2id$"
PHC_MEMORY_KIB = 128 * 1024  # more, or more rounds, would let one sign-in stop the server
PHC_ROUNDS = 10
PHC_LANES = 16

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # and what turns text around
_SHORTENED = re.compile(r"[+-]?\d+(?:[.,]\d+)?[eE]\+\d+")  # how a spreadsheet shows a long number: 1.23E+10
_LOST_DIGITS = "the spreadsheet shortened it; make the column Text and fill it again"
_DECIMAL = re.compile(r"[+-]?\d+[.,]0+")  # and how a program writes what it took for one: 821234567.0
_LOCALE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})?")
_PHC = re.compile(
    r"\$argon2id\$(v=(16|19)\$)?m=\d{1,7},t=\d{1,4},p=\d{1,3}\$(?P<salt>[A-Za-z0-9+/]{11,86})\$(?P<hash>[A-Za-z0-9+/]{22,86})"
)
_FOREIGN_HASH = re.compile(
    r"(argon2)?\$(argon2\w*|2[abxy]?|[156]|7|y|scrypt|pbkdf2[\w-]*)\$|(pbkdf2|scrypt|bcrypt)[:_$]|\{[A-Z0-9]+\}"
)
_FORGIVEN_IN_SEEDS = str.maketrans("", "", " -\u00a0\t")

Check = Callable[[str], str]


class CellFault(ValueError):
    """Why a text cannot be used, without its value."""


@dataclass(frozen=True)
class Checked:
    """What was said of one customer, in its one form, and what cannot be used, by field."""

    fields: Mapping[str, str | None] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)


def check(said: Mapping[str, str | None], region: str) -> Checked:
    """Checks what is said of one customer; None clears a field, and a customer ID cannot be cleared.

    Raises KeyError for a field that is not one of FIELDS.
    """
    rules = checks(region)
    fields: dict[str, str | None] = {}
    faults: dict[str, str] = {}
    for name, text in said.items():
        try:
            fields[name] = None if text is None and name != "customer_id" else rules[name](text or "")
        except CellFault as fault:
            faults[name] = str(fault)
    return Checked(fields, faults)


def checks(region: str) -> dict[str, Check]:
    """Of each field, what brings a typed text to its one form or raises CellFault. ``region`` reads national phones."""
    return {
        "customer_id": _customer_id,
        "name": _name,
        "phone": lambda cell: _phone(cell, region),
        "email": _email,
        "locale": _locale,
        "password": _password,
        "totp_secret": _seed,
    }


def _customer_id(cell: str) -> str:
    if _SHORTENED.fullmatch(cell.strip()):
        raise CellFault(f"is no customer ID: {_LOST_DIGITS}")
    text = _one_line(cell)
    key = customers.customer_key(text)
    if max(len(text), len(key)) > customers.CUSTOMER_ID_LENGTH:
        raise CellFault(f"is longer than {customers.CUSTOMER_ID_LENGTH} characters")
    if not key or text == CLEAR:
        raise CellFault("is missing")
    return text


def _name(cell: str) -> str:
    text = _one_line(cell)
    if len(text) > NAME_LENGTH:
        raise CellFault(f"is longer than {NAME_LENGTH} characters")
    return text


def _phone(cell: str, region: str) -> str:
    if _SHORTENED.fullmatch(cell.strip()):
        raise CellFault(f"is no phone number: {_LOST_DIGITS}")
    if _DECIMAL.fullmatch(cell.strip()):  # read as digits it might be somebody else's number
        raise CellFault("is no phone number but a calculated one (123.0); make the column Text and fill it again")
    number = customers.e164(cell, region)
    if number is None:
        raise CellFault(f"is no phone number (numbers without + are read as of {region})")
    return number


def _email(cell: str) -> str:
    address = customers.email_form(cell)
    if address is None or len(address) > customers.IDENTIFIER_LENGTH:
        raise CellFault("is no e-mail address that codes can be sent to")
    return address


def _locale(cell: str) -> str:
    text = cell.strip()
    if not _LOCALE.fullmatch(text):
        raise CellFault("must be a language such as en, af or zu, perhaps with a region as in en-ZA")
    return text


def _one_line(cell: str) -> str:
    text = cell.strip()
    if _CONTROLS.search(text):
        raise CellFault("has a line break or another control character in it")
    return text


def _password(cell: str) -> str:
    if _CONTROLS.search(cell):
        raise CellFault("has a line break or another control character in it")
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
    """A hash from elsewhere, if it is whole and one sign-in with it would not stop the server."""
    match = _PHC.fullmatch(text)
    if match is None or not (_is_base64(match["salt"]) and _is_base64(match["hash"])):
        raise CellFault("begins like an argon2id string and is none")
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
        raise CellFault("begins like an argon2id string and is none")
    return text


def _is_base64(text: str) -> bool:
    """Whether argon2 can read it: unpadded, and without bits left over at its end."""
    try:
        return base64.b64encode(base64.b64decode(text + "=" * (-len(text) % 4))).decode().rstrip("=") == text
    except binascii.Error:
        return False


def is_hash(password: str) -> bool:
    """Whether a checked password cell is an argon2id string rather than the password itself."""
    return password.startswith(PHC_PREFIX)


def _seed(cell: str) -> str:
    text = cell.strip().translate(_FORGIVEN_IN_SEEDS).rstrip("=").upper()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise CellFault("is no Base32 (letters A to Z and digits 2 to 7)") from None
    if len(raw) * 8 < SEED_BITS:
        raise CellFault(f"is shorter than {SEED_BITS} bits (26 characters)")
    if len(text) > SEED_LENGTH:
        raise CellFault(f"is longer than {SEED_LENGTH} characters")
    return text
