"""Keys per purpose, sealing bound to a row, keyed look-ups, signatures, passwords and one-time codes.

Master keys (outside the database) only wrap data keys; data keys (in the table ``keys``, random, one or more per
purpose) do the work. Nothing here touches the database or the network.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib
import json
import os
import re
import secrets
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from operator import itemgetter
from typing import Any, Protocol, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pyotp import HOTP

from auth_portal.errors import Busy

PURPOSES = ("seal", "index", "code", "sign", "audit")
KEY_BYTES = 32
NONCE_BYTES = 12  # NIST SP 800-38D 5.2.1.1
MASTER_ID_BYTES = 4
SEED_BYTES = 20  # 160 bits (RFC 4226 R6, R15)
TOKEN_BYTES = 24  # 192 bits; ASVS 5.0 7.2.3 asks for 128
PASSWORD_CODE_POINTS = 256  # longer ones are refused before they are hashed (R21, R23)
LONGEST_PASTE = 2 * PASSWORD_CODE_POINTS  # of a password with the blanks around it
_BLANK = r"[\s\u200b\u200e\u200f\u2060\ufeff]"  # and what no one sees
_OUTER_BLANKS = re.compile(f"^{_BLANK}+|(?<!{_BLANK}){_BLANK}+$")
# The hash of random bytes that were thrown away: a stranger's password is compared with it, at the same cost.
STRANGER_HASH = "$argon2id$v=19$m=19456,t=2,p=1$+MMj0S6/Yj3yM5N6bhWapQ$+vTzqkhYUO2AlNUoXHmEm53tmmnmebC8rpAi/qGkwZk"
# The states of the MACs of rows (R54), as they are signed in the portal's row.
OPEN_MACS, SEALED_MACS = "macs are open", "macs are sealed"
OLD_MACS = "old"  # written by migration 0007, which has no keys, where rows have none; `auth-portal db upgrade` signs
CASE_SENSITIVE_IDS = "case_sensitive_ids"  # of the portal's settings: letters of customer IDs count as written
SUPPORT_CODE_MAC = "customers.support_code"  # of row, code, key and end; a customer without such a code has none
# The rows that say who a person is, and what opens the door in their name: by table and MAC the columns it is made of.
SIGNED: Mapping[str, Mapping[str, Sequence[str]]] = {
    "customers": {"identity_mac": ("id", "customer_id"), "active_mac": ("id", "is_active")},
    "admins": {"mac": ("id", "role", "is_active")},
    "journeys": {"mac": ("id", "slug", "version_id", "is_active", "is_default")},
    "journey_versions": {"mac": ("id", "journey_id", "number", "document")},
    "channels": {"mac": ("id", "name", "config", "is_active")},
    "admin_sessions": {"mac": ("id", "token_hash", "admin_id", "ends_at", "confirmed_at")},
    "passkeys": {"mac": ("id", "admin_id", "credential_id", "public_key")},
    "admin_links": {"mac": ("id", "token_hash", "role", "admin_id", "expires_at", "used_at")},
    "api_keys": {"mac": ("id", "token_hash", "scopes", "expires_at", "revoked_at")},
    "credential_links": {"mac": ("id", "token_hash", "kind", "customer_row", "expires_at", "used_at")},
    # Of a chat under way: whose it is, what was proved and until when. Counts are not among them.
    "verifications": {
        "mac": ("id", "ticket_id", "outcome", "visit_id", "customer_row", "methods"),
        # Where its result goes, what that says and until when: this never changes.
        "route_mac": ("id", "reference_hash", "server", "version_id", "proofs_until", "chat_ends_at"),
    },
    "visits": {
        "mac": (
            *("id", "token_hash", "verification_id", "step", "method"),
            *("identifier_key", "person_key", "customer_row", "proved"),
        )
    },
    "acceptances": {
        "mac": (
            *("id", "verification_id", "customer_row", "slug", "version", "language", "digest", "boxes"),
            "accepted_at",
        )
    },
    "challenges": {
        "mac": (
            *("id", "verification_id", "identifier_key", "customer_row", "destination_key", "step", "method"),
            *("key_id", "digits", "issued_at", "expires_at"),
        )
    },
    "tickets": {
        "mac": (
            *("id", "token_hash", "slug", "reference_hash", "customer_row", "phone_key"),
            *("purpose_sealed", "locale", "created_at", "proofs_until", "ends_at", "payment_sealed"),
        )
    },
}
# How many columns came later, at the end of a MAC. While they are empty the MAC is as it was, so that this release and
# the one before read each other's rows; one that has a value is a changed row to the release before.
LATER_SIGNED = {("tickets", "mac"): 1}


def signed_names(table: str) -> list[str]:
    """Return the names of a table's MACs and of the columns that they are made of."""
    return list(dict.fromkeys(name for mac, names in SIGNED[table].items() for name in (mac, *names)))


@cache
def _signed_getter(table: str, column: str, prefix: str) -> Callable[[Mapping[Any, Any]], tuple[object, ...]]:
    first, second, *others = (f"{prefix}{name}" for name in SIGNED[table][column])
    return itemgetter(first, second, *others)


def _signed_values(table: str, column: str, row: Mapping[Any, Any], prefix: str = "") -> list[object]:
    """Return the values that a MAC of a row is made of."""
    values = list(_signed_getter(table, column, prefix)(row))
    later = LATER_SIGNED.get((table, column), 0)
    while later and values[-1] is None:
        values.pop()
        later -= 1
    return values


class _Wider(Protocol):
    @property
    def _mapping(self) -> Mapping[Any, Any]: ...


Row = TypeVar("Row", bound=_Wider)


def _plain(value: bytes | datetime) -> str:
    return value.hex() if isinstance(value, bytes) else value.astimezone(UTC).isoformat(timespec="microseconds")


def json_parts(**options: Any) -> Callable[[object, int], Iterable[str]]:
    """Return what gives the parts of a value's text, for level 0, as ``json.dumps`` with these options has it.

    ``JSONEncoder.encode`` makes the half of it that is written in C again for each value: 7 of the 13 µs of a row. None
    of the options is ``indent``.
    """
    encoder = json.JSONEncoder(check_circular=False, **options)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # another interpreter than CPython
        return lambda value, _level: encoder.iterencode(value)
    as_text = json.encoder.encode_basestring_ascii if encoder.ensure_ascii else json.encoder.encode_basestring
    separators = encoder.key_separator, encoder.item_separator
    parts: Callable[[object, int], Iterable[str]] = make(
        None, encoder.default, as_text, None, *separators, encoder.sort_keys, encoder.skipkeys, encoder.allow_nan
    )
    return parts


_parts = json_parts(sort_keys=True, default=_plain)
LABEL_BYTES = 6  # enough to tell the visits of one browser apart
NO_ROW = "0" * 32  # the row of no one
VALUE_DIGITS = 6  # of one HOTP value: it has 31 bits, so that many more digits would not be uniform


class KeyFault(Exception):
    """A key is missing or wrong, or a sealed value was moved, cut or altered."""


def new_token() -> str:
    """Return a fresh unguessable token, URL-safe."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def new_seed() -> str:
    """Return a fresh seed of an authenticator app, as Base32."""
    return base64.b32encode(os.urandom(SEED_BYTES)).decode()


def token_hash(token: str) -> bytes:
    """Return what is stored of a token and finds it again (SHA-256: the token itself is random enough)."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def label_of(hashed: bytes) -> str:
    """Return a short public name of what has this token hash. It opens nothing, and nothing can be found from it."""
    return base64.urlsafe_b64encode(hashlib.sha256(b"label:" + hashed).digest()[:LABEL_BYTES]).decode()


class MasterKeys:
    """The keys outside the database. The first one wraps; any of them unwraps."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._keys = {_master_id(text): AESGCM(_derive(text, b"auth-portal wrap")) for text in texts}
        self.current = _master_id(texts[0])

    @property
    def ids(self) -> set[str]:
        """Return the ids of these keys, which reveal nothing about them."""
        return {key.hex() for key in self._keys}

    def wrap(self, key: bytes, name: str) -> bytes:
        """Wrap a data key for the table ``keys``; ``name`` binds it to its row."""
        nonce = os.urandom(NONCE_BYTES)
        return self.current + nonce + self._keys[self.current].encrypt(nonce, key, name.encode())

    def unwrap(self, wrapped: bytes, name: str) -> bytes:
        """Return the data key. Raise KeyFault if none of our keys opens it."""
        master = wrapped[:MASTER_ID_BYTES]
        nonce, body = wrapped[MASTER_ID_BYTES:][:NONCE_BYTES], wrapped[MASTER_ID_BYTES + NONCE_BYTES :]
        if master not in self._keys:
            raise KeyFault("these keys do not belong to this database")
        try:
            return self._keys[master].decrypt(nonce, body, name.encode())
        except (InvalidTag, ValueError):  # the second for one that was cut
            raise KeyFault("a data key was altered in the database") from None


def _derive(text: str, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(text.encode())


def _master_id(text: str) -> bytes:
    return _derive(text, b"auth-portal id")[:MASTER_ID_BYTES]


def master_id(wrapped: bytes) -> str:
    """Return the id of the master key that a data key is wrapped under."""
    return wrapped[:MASTER_ID_BYTES].hex()


@dataclass(frozen=True)
class DataKey:
    """One unwrapped row of the table ``keys``."""

    id: int
    purpose: str
    key: bytes


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column whose values are encrypted and bound to their table, row and column (E1).

    Both names are part of what is stored, so they outlive a renamed table or column.
    """

    table: str
    name: str

    def place(self, row: str) -> bytes:
        """Return the associated data of a value in this row."""
        return f"{self.table}\0{row}\0{self.name}".encode()


class _Hmac:
    """HMAC-SHA256 under one key. It is taken up once, which is half of what the HMAC of a short text costs."""

    def __init__(self, key: bytes) -> None:
        self._begun = hmac.new(key, digestmod="sha256")

    def digest(self, text: bytes) -> bytes:
        """Return the HMAC of a text (32 bytes)."""
        found = self._begun.copy()
        found.update(text)
        return found.digest()


class _Values(HOTP):
    """The HOTP values of a key that no one has to read: writing it in Base32 and reading that would take 38 µs."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        super().__init__("", digits=VALUE_DIGITS)

    def byte_secret(self) -> bytes:
        """Return the key."""
        return self._key


class Keyring:
    """The data keys of this database. Of each purpose the newest is in use, the older ones still read."""

    def __init__(self, keys: Sequence[DataKey]) -> None:
        self._keys = {(key.purpose, key.id): _Hmac(key.key) for key in keys}
        self._signing = [self._keys[key.purpose, key.id] for key in keys if key.purpose == "sign"]
        self._current = {key.purpose: key.id for key in sorted(keys, key=lambda key: key.id)}
        if missing := set(PURPOSES) - self._current.keys():
            raise KeyFault(f"there is no data key for {', '.join(sorted(missing))}")
        self.code_key_id = self._current["code"]  # codes are derived from it now; a challenge stores its id
        self.requires_macs = self._was_sealed = False  # until ``read_macs_state``
        self.has_case = False  # until ``read_id_rule``
        self._boxes = {key.id: AESGCM(key.key) for key in keys if key.purpose == "seal"}

    def _key(self, purpose: str) -> _Hmac:
        return self._keys[purpose, self._current[purpose]]

    def seal(self, text: str, column: SealedColumn, row: str) -> bytes:
        """Encrypt a text so that it opens only in this column of this row."""
        key_id, nonce = self._current["seal"], os.urandom(NONCE_BYTES)
        body = self._boxes[key_id].encrypt(nonce, text.encode(), column.place(row))
        return key_id.to_bytes(4, "big") + nonce + body

    def open(self, sealed: bytes, column: SealedColumn, row: str) -> str:
        """Return the text. Raise KeyFault if it was sealed for another place, or altered."""
        box = self._boxes.get(int.from_bytes(sealed[:4], "big"))
        if box is None:
            raise KeyFault("sealed with a key that no longer exists")
        try:
            return box.decrypt(sealed[4 : 4 + NONCE_BYTES], sealed[4 + NONCE_BYTES :], column.place(row)).decode()
        except (InvalidTag, ValueError):  # the second for one that was cut
            raise KeyFault(f"{column.table}.{column.name} does not belong to its row, or was altered") from None

    @cache  # noqa: B019 -- a keyring lives as long as its process
    def decoy(self, column: SealedColumn) -> bytes:
        """Return a sealed text of no one, which a stranger's row costs to open (R24)."""
        return self.seal("+27820000000", column, NO_ROW)

    def index(self, kind: str, text: str) -> str:
        """Return a keyed hash to find a phone, an email or an address without storing it (hex, 128 bits)."""
        return self._key("index").digest(f"{kind}\0{text}".encode("utf-8", "surrogatepass")).hex()[:32]

    def sign(self, kind: str, text: str) -> str:
        """Return ``text`` followed by a signature for this kind of text."""
        return f"{text}.{self._signature('sign', kind, text)}"

    def verify(self, kind: str, signed: str) -> str | None:
        """Return the text that ``sign`` was given for the same kind, or None."""
        text, _, signature = signed.rpartition(".")
        expected = self._signature("sign", kind, text)
        return text if hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode()) else None

    def _signature(self, purpose: str, kind: str, text: str) -> str:
        digest = self._key(purpose).digest(f"{kind}\0{text}".encode("utf-8", "replace"))
        return base64.urlsafe_b64encode(digest[:18]).decode()

    def audit_mac(self, text: str) -> str:
        """Return the HMAC that an audit event carries."""
        return self._key("audit").digest(text.encode()).hex()

    def is_audit_mac(self, text: str, mac: str) -> bool:
        """Report whether a text got this HMAC, under the key in use or an older one."""
        keys = (key for (purpose, _id), key in self._keys.items() if purpose == "audit")
        return any(same_text(key.digest(text.encode()).hex(), mac) for key in keys)

    def mac(self, kind: str, *values: object) -> str:
        """Return the MAC of values of a row (hex, 128 bits): texts, numbers, bytes, times, or what JSON can hold."""
        return self._mac(self._key("sign"), kind, values)

    def is_mac(self, mac: str | None, kind: str, *values: object) -> bool:
        """Report whether values got this MAC, under the key in use or an older one. Without one it costs the same."""
        found = mac if isinstance(mac, str) else NO_ROW  # SQLite stores bytes in any column
        return any([same_text(self._mac(key, kind, values), found) for key in self._signing]) and found is mac

    def signed(self, table: str, row: Mapping[Any, Any]) -> dict[str, Any]:
        """Return a row's values with those of its MACs whose columns it has (R54)."""
        macs = {
            column: self.mac(f"{table}.{column}", *_signed_values(table, column, row))
            for column, names in SIGNED[table].items()
            if all(name in row for name in names)
        }
        return {**row, **macs}

    def wrong_macs(self, table: str, row: Mapping[Any, Any], prefix: str = "") -> list[str]:
        """Return the MACs of a row that are wrong or missing, required or not."""
        return [column for column in SIGNED[table] if not self.has_mac(table, column, row, prefix)]

    def has_mac(self, table: str, column: str, row: Mapping[Any, Any], prefix: str = "") -> bool:
        """Report whether this MAC of a row is right, required or not."""
        values = _signed_values(table, column, row, prefix)
        return self.is_mac(row[f"{prefix}{column}"], f"{table}.{column}", *values)

    def holds(self, table: str, row: Mapping[Any, Any], prefix: str = "") -> bool:
        """Report whether a row may be used: its MACs are right, or are not required yet.

        With a prefix it is part of a wider row, under names that begin so.
        """
        return not self.requires_macs or not self.wrong_macs(table, row, prefix)

    def held(self, table: str, rows: Iterable[Row], prefix: str) -> list[Row]:
        """Return those of these wider rows whose part may be used."""
        return [row for row in rows if self.holds(table, row._mapping, prefix)]

    def vouches(
        self, table: str, row: Mapping[Any, Any], found_by: Iterable[tuple[str, bytes | None, str | None]]
    ) -> bool:
        """Report whether a row holds, and whether what it is found by belongs to what is sealed for it.

        ``found_by``: by column the sealed value and its keyed hash. A row without a value costs the same (R24).
        """
        is_right = self.holds(table, row)
        for name, sealed, key in found_by:
            column = SealedColumn(table, name)
            try:
                text = self.open(sealed or self.decoy(column), column, row["id"] if sealed else NO_ROW)
            except KeyFault:
                text = ""
            is_same = self.index(name, text) == key
            is_right &= is_same if sealed else key is None
        return is_right

    def _mac(self, key: _Hmac, kind: str, values: tuple[object, ...]) -> str:
        return key.digest(f"row {''.join(_parts([kind, values], 0))}".encode()).hex()[:32]

    def read_macs_state(self, state: str | None, *, was_sealed: bool = False) -> None:
        """Learn from the portal's row whether MACs are required (R54).

        A process that has read the signed state of a sealed portal never forgets it; nor does one that gets
        ``was_sealed``. While an upgrade is unfinished they are not required, because the rows have none yet.
        """
        self._was_sealed = self._was_sealed or was_sealed or state == self.mac(SEALED_MACS)
        self.requires_macs = self._was_sealed or state not in (self.mac(OPEN_MACS), OLD_MACS)

    def read_id_rule(self, settings: Mapping[str, Any]) -> None:
        """Learn from the portal's stored settings whether customer IDs are case-sensitive.

        ``directory.person`` makes what they are found by accordingly. Between a change, which needs an empty directory,
        and this, all of a process's look-ups find no customer.
        """
        self.has_case = bool(settings.get(CASE_SENSITIVE_IDS))

    def shared_key(self, *names: str) -> str:
        """Return a key that another system gets, for what these names say (hex, 256 bits)."""
        return self._key("sign").digest("\0".join(("shared key", *names)).encode()).hex()

    def session_key(self) -> bytes:
        """Return the key that signs the csrf cookie."""
        return self._key("sign").digest(b"csrf cookie")

    def code(self, challenge_id: str, digits: int, key_id: int) -> str:
        """Return the one-time code of a challenge: RFC 4226 HOTP under a key derived for this challenge alone.

        The same challenge always gives the same code, so it can be sent again and need not be stored.
        """
        values = _Values(self._keys["code", key_id].digest(challenge_id.encode()))
        count = -(-digits // VALUE_DIGITS)
        return "".join(values.at(counter) for counter in range(count))[:digits]


def same_text(left: str, right: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(left.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))


def normal_password(text: str) -> str:
    """Return a password in the one form that is hashed: NFC, nothing cut (63B 3.1.1.2)."""
    return unicodedata.normalize("NFC", text)


# 19 MiB, t=2, p=1 is OWASP's first choice for argon2id; one hash takes about 25 ms of one core.
OWASP_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class Passwords:
    """argon2id with a bounded number of hashes at once: as many as cores, and a short queue behind them."""

    def __init__(self, *, slots: int | None = None, waiting: int = 2, hasher: PasswordHasher = OWASP_HASHER) -> None:
        slots = slots or os.cpu_count() or 1
        self._hasher = hasher
        self._running = threading.Semaphore(slots)
        self._admitted = threading.BoundedSemaphore(slots + waiting)
        self._lock = threading.Lock()
        self._people = 0  # whose passwords are being checked now
        self._has_hashed = False  # since memory was last given back

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Reserve room for one hash. Raise Busy at once if the queue is full, before anything was counted."""
        if not self._admitted.acquire(blocking=False):
            raise Busy("hashing_busy", retry_after_seconds=2)
        self._count_people(1)
        try:
            yield
        finally:
            self._count_people(-1)
            self._admitted.release()

    def _count_people(self, change: int) -> None:
        with self._lock:
            self._people += change

    def let_people_go_first(self) -> None:
        """Wait while a person's password is being checked, a second at most; for a hash that can wait."""
        until = time.monotonic() + 1
        while self._people and time.monotonic() < until:
            time.sleep(0.005)

    def give_memory_back(self) -> None:
        """Give the system the memory of past hashes, if no person's password is being checked now.

        glibc keeps what a hash has used (19 MiB) for the next one of its arena, of which each thread may have one. It
        gives back only its main arena's, so the deployments set MALLOC_ARENA_MAX=1: then there is no other one.
        """
        if self._has_hashed and not self._people:
            self._has_hashed = False
            with suppress(Exception):  # there is another C library, or the system refuses what ctypes needs
                importlib.import_module("ctypes").CDLL(None).malloc_trim(0)

    def hash(self, password: str) -> str:
        """Return the argon2id string (PHC form) of a password."""
        with self._running:
            self._has_hashed = True
            return self._hasher.hash(normal_password(password))

    def matches(self, stored: str | None, password: str) -> bool:
        """Return True for the right password. Without a stored one it takes the same time and is wrong (R24)."""
        with self._running:
            self._has_hashed = True
            try:
                return self._hasher.verify(stored or STRANGER_HASH, normal_password(password)) and stored is not None
            except (VerificationError, InvalidHashError):
                return False

    def matching(self, stored: str | None, typed: str) -> str | None:
        """Return what is right, ``typed`` or ``typed`` without the blanks at its ends; None if neither is.

        People paste a password with a blank or a line break (63B 3.1.1.2 allows for it). How many hashes a wrong one
        takes, one or two, depends on what was typed alone (R24). What is too long is not hashed (R23).
        """
        for password in dict.fromkeys((typed, _OUTER_BLANKS.sub("", typed))):
            if 0 < len(password) <= PASSWORD_CODE_POINTS and self.matches(stored, password):
                return password
        return None

    def is_outdated(self, stored: str) -> bool:
        """Return True if a right password should be hashed again with today's parameters."""
        return self._hasher.check_needs_rehash(stored)
