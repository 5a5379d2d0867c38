"""Something the customer knows. The only method whose check takes milliseconds."""

from __future__ import annotations

from typing import Self

from auth_portal.crypto import PASSWORD_CODE_POINTS, Passwords, normal_password
from auth_portal.methods.contract import Evidence, Method, OnFile, Reading, Verdict, Words

LONG_PASSWORD = 15  # characters; 63B 3.1.1.2: the minimum where it is the only proof
SHORT_PASSWORD = 8  # characters; 63B 3.1.1.2: the minimum beside a second method


class Password(Method):
    """Proves that whoever types it knows the password."""

    name = "password"
    on_file = OnFile.PASSWORD
    hardness = 1
    field = "password"
    is_costly = True
    words = Words(
        choice="Your password",
        inline="your password",
        hint="The one that you use with %(business)s",
        name="password",
        on_file="Password",
        proof="password",
        icon="key-round",
    )

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords

    @classmethod
    def made(cls, passwords: Passwords) -> Self:
        """With the process's one set of slots for hashing."""
        return cls(passwords)

    def length(self, digits: int) -> int:
        """A password has no digits to count."""
        return 0

    def parse(self, typed: str, digits: int) -> str | None:
        """Anything up to 256 code points; longer is refused before it is hashed (R23)."""
        return typed if 0 < len(typed) <= PASSWORD_CODE_POINTS else None

    def check(self, proof: str, evidence: Evidence) -> Verdict:
        """Hashes once, whoever it is; a right one under old parameters comes back hashed anew."""
        if not self._passwords.matches(evidence.secret, proof):
            return Verdict(Reading.WRONG)
        outdated = evidence.secret is not None and self._passwords.is_outdated(evidence.secret)
        return Verdict(Reading.RIGHT, new_secret=self._passwords.hash(proof) if outdated else None)


def is_long(password: str) -> bool:
    """Whether a password may stand alone."""
    return len(normal_password(password)) >= LONG_PASSWORD
