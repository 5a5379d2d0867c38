"""What a way to prove oneself is. A method judges values and returns values: it reads no table and sends nothing.

A new method is one file (what it does and what it is called), its template ``templates/methods/<name>.html``, its test
and one line in the registry. Where it is held against something that the directory does not hold yet, ``OnFile`` names
that, and ``services/directory`` learns to keep it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Self

from auth_portal.crypto import Passwords


class Reading(StrEnum):
    """How a proof was read."""

    RIGHT = "right"
    WRONG = "wrong"
    REPLACED = "replaced"  # an older code of this verification, out of force: costs no try
    STALE = "stale"  # no code is in force, so nothing was judged: costs no try


@dataclass(frozen=True)
class IssuedCode:
    """A code that was issued in this verification for whoever is named now."""

    code: str
    expires_at: datetime
    is_replaced: bool
    is_used: bool = False


@dataclass(frozen=True)
class Evidence:
    """What a proof is held against. For a stranger it has the same shape, and nothing in it."""

    now: datetime
    codes: tuple[IssuedCode, ...] = ()
    secret: str | None = None  # argon2id string, or Base32 seed
    last_step: int = 0  # the last TOTP time step that was accepted


@dataclass(frozen=True)
class Verdict:
    """What came of a proof, and what has to be remembered with it."""

    reading: Reading
    used_step: int | None = None  # TOTP: this step and all before it are spent
    new_secret: str | None = None  # password: hash it anew with today's parameters


class OnFile(StrEnum):
    """What the directory holds of a customer that a method is held against."""

    PHONE = "phone"
    EMAIL = "email"
    PASSWORD = "password"  # noqa: S105 -- a name
    TOTP = "totp"
    SUPPORT_CODE = "support_code"


CARRIED_TO = {OnFile.PHONE: "sms", OnFile.EMAIL: "email"}  # the kind of message that reaches a contact


@dataclass(frozen=True)
class Words:
    """What a method is called. In English: whoever shows one looks it up in the reader's language."""

    choice: str  # to customers, on a button
    inline: str  # to customers, within a sentence
    hint: str  # to customers, below the choice; may name the %(business)s
    name: str  # to admins, within a sentence; the one name on all of their pages
    on_file: str  # to admins, beside a customer's name: what of them it is held against
    proof: str = "code"  # to admins: what was right or wrong
    icon: str = "shield-check"


class Method(ABC):
    """A way to prove oneself. What is the same in every process stands on the class, and the registry lists classes."""

    name: str  # in configs, URLs and ``data``
    on_file: OnFile
    words: ClassVar[Words]
    hardness: ClassVar[int]
    """How hard it is for somebody else, to compare journeys by: 0 where a password opens it (a mailbox), 1 where it can
    be redirected, guessed or talked out of someone, 2 where it takes the device."""
    field: str = "code"  # the form field that its proof arrives in
    is_costly: bool = False  # checking takes milliseconds: then it happens outside any transaction

    @classmethod
    def made(cls, passwords: Passwords) -> Self:  # noqa: ARG003 -- most hash nothing
        """The method of one process, whose ``passwords`` hash for whoever needs it."""
        return cls()

    @property
    def carries(self) -> str | None:
        """The kind of message it sends, "sms" or "email", or None."""
        return CARRIED_TO.get(self.on_file)

    @abstractmethod
    def length(self, digits: int) -> int:
        """How many digits its code has in a journey whose sent codes have ``digits``; 0 where it has no code."""

    @abstractmethod
    def parse(self, typed: str, digits: int) -> str | None:
        """The proof in its one form, or None for what cannot be one (which costs no try)."""

    @abstractmethod
    def check(self, proof: str, evidence: Evidence) -> Verdict:
        """Judges a parsed proof. Takes as long for a stranger as for anyone."""
