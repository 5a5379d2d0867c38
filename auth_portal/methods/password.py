"""Something the customer knows. The only method whose check takes milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

from auth_portal.crypto import PASSWORD_CODE_POINTS, Passwords, normal_password
from auth_portal.methods.contract import Evidence, Reading, Verdict

LONG_PASSWORD = 15  # characters; 63B 3.1.1.2: the minimum where it is the only proof
SHORT_PASSWORD = 8  # characters; 63B 3.1.1.2: the minimum beside a second method


@dataclass(frozen=True)
class Password:
    """Proves that whoever types it knows the password."""

    passwords: Passwords
    name: str = "password"
    carries: str | None = None
    field: str = "password"
    is_costly: bool = True

    def length(self, digits: int) -> int:
        """A password has no digits to count."""
        return 0

    def parse(self, typed: str, digits: int) -> str | None:
        """Anything up to 256 code points; longer is refused before it is hashed (R23)."""
        return typed if 0 < len(typed) <= PASSWORD_CODE_POINTS else None

    def check(self, proof: str, evidence: Evidence) -> Verdict:
        """Hashes once, whoever it is; a right one under old parameters comes back hashed anew."""
        if not self.passwords.matches(evidence.secret, proof):
            return Verdict(Reading.WRONG)
        outdated = evidence.secret is not None and self.passwords.is_outdated(evidence.secret)
        return Verdict(Reading.RIGHT, new_secret=self.passwords.hash(proof) if outdated else None)


def is_long(password: str) -> bool:
    """Whether a password may stand alone."""
    return len(normal_password(password)) >= LONG_PASSWORD
