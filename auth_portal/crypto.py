"""Keys per purpose, sealing bound to a row, keyed look-ups, signatures, passwords and one-time codes.

Master keys (outside the database) only wrap data keys; data keys (in the table ``keys``, random, one or more per
purpose) do the work. Nothing here touches the database or the network.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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
SEED_BYTES = 20  # 160 bits (RFC 4226 R6, R15)
TOKEN_BYTES = 24  # 192 bits; ASVS 5.0 7.2.3 asks for 128
PASSWORD_CODE_POINTS = 256  # longer is refused before it is hashed (R21, R23)
# The hash of random bytes that nobody kept: what a stranger's password is held against, at the same cost.
NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$+MMj0S6/Yj3yM5N6bhWapQ$+vTzqkhYUO2AlNUoXHmEm53tmmnmebC8rpAi/qGkwZk"
VALUE_DIGITS = 6  # of one HOTP value: it has 31 bits, so that many more digits would not be uniform


class KeyFault(Exception):
    """A key is missing or wrong, or a sealed value was moved, cut or altered."""


def new_token() -> str:
    """A fresh unguessable token, URL-safe."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> bytes:
    """What is stored of a token, and how one is found again (SHA-256: the token itself is random enough)."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class MasterKeys:
    """The keys outside the database. The first one wraps; any of them unwraps."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._keys = {_master_id(text): AESGCM(_derive(text, b"auth-portal wrap")) for text in texts}
        self.current = _master_id(texts[0])

    def wrap(self, key: bytes, name: str) -> bytes:
        """Wraps a data key for the table ``keys``; ``name`` binds it to its row."""
        nonce = os.urandom(NONCE_BYTES)
        return self.current + nonce + self._keys[self.current].encrypt(nonce, key, name.encode())

    def unwrap(self, wrapped: bytes, name: str) -> bytes:
        """The data key again. Raises KeyFault with what to do where none of our keys opens it."""
        master, nonce, body = wrapped[:4], wrapped[4 : 4 + NONCE_BYTES], wrapped[4 + NONCE_BYTES :]
        if master not in self._keys:
            raise KeyFault("these keys do not belong to this database")
        try:
            return self._keys[master].decrypt(nonce, body, name.encode())
        except InvalidTag:
            raise KeyFault("a data key was altered in the database") from None


def _derive(text: str, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(text.encode())


def _master_id(text: str) -> bytes:
    return _derive(text, b"auth-portal id")[:4]


@dataclass(frozen=True)
class DataKey:
    """One unwrapped row of the table ``keys``."""

    id: int
    purpose: str
    key: bytes


class Keyring:
    """The data keys of this database. Of each purpose the newest is in use, the older ones still read."""

    def __init__(self, keys: Sequence[DataKey]) -> None:
        self._keys = {(key.purpose, key.id): key.key for key in keys}
        self._current = {key.purpose: key.id for key in sorted(keys, key=lambda key: key.id)}
        if missing := set(PURPOSES) - self._current.keys():
            raise KeyFault(f"there is no data key for {', '.join(sorted(missing))}")
        self._boxes = {key.id: AESGCM(key.key) for key in keys if key.purpose == "seal"}

    def _key(self, purpose: str) -> bytes:
        return self._keys[purpose, self._current[purpose]]

    def seal(self, text: str, table: str, row: str, column: str) -> bytes:
        """Encrypts a text so that it opens only in this very table, row and column."""
        key_id, nonce = self._current["seal"], os.urandom(NONCE_BYTES)
        body = self._boxes[key_id].encrypt(nonce, text.encode(), _place(table, row, column))
        return key_id.to_bytes(4, "big") + nonce + body

    def open(self, sealed: bytes, table: str, row: str, column: str) -> str:
        """The text again. Raises KeyFault where it was sealed for another place, or altered."""
        box = self._boxes.get(int.from_bytes(sealed[:4], "big"))
        if box is None:
            raise KeyFault("sealed with a key that is gone")
        try:
            opened = box.decrypt(sealed[4 : 4 + NONCE_BYTES], sealed[4 + NONCE_BYTES :], _place(table, row, column))
        except InvalidTag:
            raise KeyFault(f"{table}.{column} does not belong to its row, or was altered") from None
        return opened.decode()

    def index(self, kind: str, text: str) -> str:
        """A keyed hash to find a phone, an e-mail or an address without storing it (hex, 128 bits)."""
        return hmac.digest(self._key("index"), f"{kind}\0{text}".encode("utf-8", "surrogatepass"), "sha256").hex()[:32]

    def sign(self, kind: str, text: str) -> str:
        """``text`` with a signature behind it that says what the text is for."""
        return f"{text}.{self._signature('sign', kind, text)}"

    def verify(self, kind: str, signed: str) -> str | None:
        """The text that ``sign`` was given for the same kind, or None."""
        text, _, signature = signed.rpartition(".")
        expected = self._signature("sign", kind, text)
        return text if hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode()) else None

    def _signature(self, purpose: str, kind: str, text: str) -> str:
        digest = hmac.digest(self._key(purpose), f"{kind}\0{text}".encode("utf-8", "replace"), "sha256")
        return base64.urlsafe_b64encode(digest[:18]).decode()

    def audit_mac(self, text: str) -> str:
        """The HMAC that an audit event carries of its own."""
        return hmac.digest(self._key("audit"), text.encode(), "sha256").hex()

    def session_key(self) -> bytes:
        """The key that signs the csrf cookie."""
        return hmac.digest(self._key("sign"), b"csrf cookie", "sha256")

    def seed(self, purpose: str, row: str) -> str:
        """The authenticator seed that belongs to a one-time link, as Base32.

        The same link always shows the same one, so that opening it twice does not spoil what was scanned.
        """
        digest = hmac.digest(self._key("sign"), f"seed {purpose}\0{row}".encode(), "sha256")
        return base64.b32encode(digest[:SEED_BYTES]).decode()

    @property
    def code_key_id(self) -> int:
        """The key that codes are derived from now; a challenge remembers it."""
        return self._current["code"]

    def code(self, challenge_id: str, digits: int, key_id: int) -> str:
        """The one-time code of a challenge: RFC 4226 HOTP under a key derived for this challenge alone.

        The same challenge always gives the same code, so it can be sent again and need not be stored.
        """
        seed = hmac.digest(self._keys["code", key_id], challenge_id.encode(), "sha256")
        values = HOTP(base64.b32encode(seed).decode().rstrip("="), digits=VALUE_DIGITS)
        count = -(-digits // VALUE_DIGITS)
        return "".join(values.at(counter) for counter in range(count))[:digits]


def _place(table: str, row: str, column: str) -> bytes:
    return f"{table}\0{row}\0{column}".encode()


def same_text(left: str, right: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(left.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))


def normal_password(text: str) -> str:
    """A password in the one form that is hashed: NFC, nothing cut (63B 3.1.1.2)."""
    return unicodedata.normalize("NFC", text)


class Passwords:
    """argon2id with a bounded number of hashes at once: as many as cores, and a short queue behind them.

    19 MiB, t=2, p=1 is OWASP's first choice for argon2id; one takes about 25 ms of one core.
    """

    def __init__(self, *, slots: int | None = None, waiting: int = 2) -> None:
        slots = slots or os.cpu_count() or 1
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._running = threading.Semaphore(slots)
        self._admitted = threading.BoundedSemaphore(slots + waiting)
        self._lock = threading.Lock()
        self._people = 0  # who are being admitted now

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Room for one hash. Raises Busy at once where the queue is full, before anything was counted."""
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
        """Waits while somebody's password is being checked, for a hash that can wait; a second at most."""
        until = time.monotonic() + 1
        while self._people and time.monotonic() < until:
            time.sleep(0.005)

    def hash(self, password: str) -> str:
        """The argon2id string (PHC form) of a password."""
        with self._running:
            return self._hasher.hash(normal_password(password))

    def matches(self, stored: str | None, password: str) -> bool:
        """Whether the password is right. Without a stored one it takes the same time and is wrong (R24)."""
        with self._running:
            try:
                return self._hasher.verify(stored or NOBODY, normal_password(password)) and stored is not None
            except (VerificationError, InvalidHashError):
                return False

    def is_outdated(self, stored: str) -> bool:
        """Whether a right password should be hashed again with today's parameters."""
        return self._hasher.check_needs_rehash(stored)
