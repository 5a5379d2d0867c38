"""What a method is: a way for a customer to prove their identity. It checks values, reads no table and sends nothing.

A new method is one file (what it does and what it is called), its template ``templates/methods/<name>.html``, its test
and one line in the registry. If it compares with something that the directory does not store yet, ``OnFile`` names
that, and ``services/directory`` learns to store it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Self

from auth_portal.crypto import Passwords


class ProofResult(StrEnum):
    """What a proof came to."""

    RIGHT = "right"
    WRONG = "wrong"
    REPLACED = "replaced"  # an older code of this verification: costs no try
    STALE = "stale"  # there is no valid code, so nothing was judged: costs no try


@dataclass(frozen=True)
class IssuedCode:
    """A code that was issued in this verification for the person named now."""

    code: str
    expires_at: datetime
    is_replaced: bool
    is_used: bool = False


@dataclass(frozen=True)
class Evidence:
    """What a proof is compared with. For a stranger it has the same shape, and nothing in it."""

    now: datetime
    codes: tuple[IssuedCode, ...] = ()
    secret: str | None = None  # argon2id string, or Base32 seed
    last_step: int = 0  # the last TOTP time step that was accepted


@dataclass(frozen=True)
class Verdict:
    """The result of a proof, and what has to be stored with it."""

    result: ProofResult
    used_step: int | None = None  # TOTP: this step and all before it are spent
    new_secret: str | None = None  # password: its hash by today's parameters
    is_long: bool = False  # a password that may be the only proof


class OnFile(StrEnum):
    """What the directory stores of a customer that a method compares with."""

    PHONE = "phone"
    EMAIL = "email"
    PASSWORD = "password"  # noqa: S105 -- a name
    TOTP = "totp"
    SUPPORT_CODE = "support_code"


CARRIED_TO = {OnFile.PHONE: "sms", OnFile.EMAIL: "email"}  # the kind of message that reaches a contact


@dataclass(frozen=True)
class Words:
    """What a method is called, in English: a page that shows it looks it up in the reader's language."""

    choice: str  # to customers, on a button
    hint: str  # to customers, below the choice; may name the %(business)s
    begin: str  # to customers, on the button that starts a journey with it
    name: str  # to admins, within a sentence; the one name on all of their pages
    on_file: str  # to admins, next to a customer's name: what of them it compares with
    proof: str = "code"  # to admins: what was right or wrong
    icon: str = "lock"
    approve: str = ""  # to customers, on that button where a payment is approved with it, if other than ``begin``


class Method(ABC):
    """A method. What is the same in every process stands on the class, and the registry lists classes."""

    name: str  # in configs, URLs and ``data``
    on_file: OnFile
    words: ClassVar[Words]
    hardness: ClassVar[int]
    """How hard it is for an impostor, to compare journeys by: 0 if a password opens it (a mailbox), 1 if it can be
    redirected, guessed or talked out of someone, 2 if it takes the device."""
    field: str = "code"  # the form field that its proof arrives in
    is_costly: bool = False  # checking takes milliseconds: then it happens outside any transaction

    @classmethod
    def build(cls, passwords: Passwords) -> Self:  # noqa: ARG003 -- most hash nothing
        """Return the method of one process, whose ``passwords`` hash for those that need it."""
        return cls()

    @property
    def carries(self) -> str | None:
        """Return the kind of message it sends, "sms" or "email", or None."""
        return CARRIED_TO.get(self.on_file)

    @abstractmethod
    def length(self, digits: int) -> int:
        """Return how many digits its code has in a journey whose sent codes have ``digits``; 0 if it has no code."""

    @abstractmethod
    def parse(self, typed: str, digits: int) -> str | None:
        """Return the proof in its one form, or None for what cannot be one (which costs no try)."""

    @abstractmethod
    def check(self, proof: str, evidence: Evidence) -> Verdict:
        """Judge a parsed proof. Take as long for a stranger as for anyone."""
