"""Something the customer knows. The only method whose check takes milliseconds.

The rules for a new password are here too: long enough, and not one that attackers try first (NIST SP 800-63B
3.1.1.2). There are no composition rules. The blocklist is zxcvbn's, which also knows names, dates and keyboard
patterns. It is loaded when the first password is set, because most workers never need its memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Self

from auth_portal.crypto import LONGEST_PASTE, PASSWORD_CODE_POINTS, Passwords, normal_password
from auth_portal.i18n import gettext as _
from auth_portal.methods.contract import Evidence, Method, OnFile, ProofResult, Verdict, Words

LONG_PASSWORD = 15  # characters; 63B 3.1.1.2: the minimum where it is the only proof
SHORT_PASSWORD = 8  # characters; 63B 3.1.1.2: the minimum next to a second method
JUDGED_LENGTH = 72  # characters: zxcvbn takes quadratic time
EASY_GUESSES = 10**6  # a password found within so many guesses is on every attacker's list


class Password(Method):
    """Prove that the person knows the password."""

    name = "password"
    on_file = OnFile.PASSWORD
    hardness = 1
    field = "password"
    is_costly = True
    words = Words(
        choice="Password",
        hint="The one for %(business)s",
        begin="Enter my password",
        name="password",
        on_file="Password",
        proof="password",
        icon="rectangle-ellipsis",
    )

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords

    @classmethod
    def build(cls, passwords: Passwords) -> Self:
        """Return the method with the process's one set of slots for hashing."""
        return cls(passwords)

    def length(self, digits: int) -> int:
        """Return 0: a password has no digits to count."""
        return 0

    def parse(self, typed: str, digits: int) -> str | None:
        """Return anything up to 256 code points, and room for blanks; longer is refused before it is hashed (R23)."""
        is_short_enough = len(typed) <= LONGEST_PASTE and len(typed.strip()) <= PASSWORD_CODE_POINTS
        return typed if typed and is_short_enough else None

    def check(self, proof: str, evidence: Evidence) -> Verdict:
        """Hash what was typed, for a stranger too, and if that is wrong what is left without the blanks at its ends.

        Return a new hash of a right one that was stored by old parameters.
        """
        found = self._passwords.matching(evidence.secret, proof)
        if found is None:
            return Verdict(ProofResult.WRONG)
        outdated = evidence.secret is not None and self._passwords.is_outdated(evidence.secret)
        new_secret = self._passwords.hash(found) if outdated else None
        return Verdict(ProofResult.RIGHT, new_secret=new_secret, is_long=is_long(found))


def is_long(password: str) -> bool:
    """Report whether a password is long enough to be the only proof."""
    return len(normal_password(password)) >= LONG_PASSWORD


def password_fault(password: str, *, at_least: int, about: Sequence[str] = ()) -> str:
    """Return why a password is refused, as a sentence, or an empty text. ``about`` is what others know of its owner."""
    text = normal_password(password)
    if not text:
        return _("Enter a password.")
    if len(text) < at_least:
        return _("This has %(n)s characters. It needs at least %(least)s.", n=len(text), least=at_least)
    if max(len(password), len(text)) > PASSWORD_CODE_POINTS:
        return _("This is longer than %(most)s characters.", most=PASSWORD_CODE_POINTS)
    judge = importlib.import_module("zxcvbn").zxcvbn
    if judge(text[:JUDGED_LENGTH], user_inputs=[word for word in about if word])["guesses"] < EASY_GUESSES:
        return _("This is too easy to guess. Three or four unrelated words are better.")
    return ""
