"""What a way to prove oneself is. A method judges values and returns values: it reads no table and sends nothing.

A new method is one file, its template ``templates/methods/<name>.html``, its test and one line in the registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


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


class Method(Protocol):
    """A way to prove oneself."""

    @property
    def name(self) -> str:
        """Its name in configs, URLs and ``data``."""
        ...

    @property
    def carries(self) -> str | None:
        """The kind of message it sends, "sms" or "email", or None."""
        ...

    @property
    def field(self) -> str:
        """The form field that its proof arrives in."""
        ...

    @property
    def is_costly(self) -> bool:
        """Whether checking takes milliseconds: then it happens outside any transaction."""
        ...

    def length(self, digits: int) -> int:
        """How many digits its code has in a journey whose sent codes have ``digits``; 0 where it has no code."""
        ...

    def parse(self, typed: str, digits: int) -> str | None:
        """The proof in its one form, or None for what cannot be one (which costs no try)."""
        ...

    def check(self, proof: str, evidence: Evidence) -> Verdict:
        """Judges a parsed proof. Takes as long for a stranger as for anyone."""
        ...
