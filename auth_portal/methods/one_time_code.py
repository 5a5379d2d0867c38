"""A code that was sent to a contact on file, by SMS or e-mail."""

from __future__ import annotations

from dataclasses import dataclass

from auth_portal.crypto import same_text
from auth_portal.methods.contract import Evidence, IssuedCode, Reading, Verdict
from auth_portal.methods.digits import read_digits


@dataclass(frozen=True)
class OneTimeCode:
    """Proves that whoever types it can read what is sent to the contact on file."""

    name: str
    carries: str | None
    field: str = "code"
    is_costly: bool = False

    def length(self, digits: int) -> int:
        """As many as the journey says."""
        return digits

    def parse(self, typed: str, digits: int) -> str | None:
        """The digits, as many as the journey's codes have."""
        return read_digits(typed, digits)

    def check(self, proof: str, evidence: Evidence) -> Verdict:
        """Right for the code in force. An older one says so; where none is in force nothing is judged (R5)."""
        in_force = [issued for issued in evidence.codes if self._is_in_force(issued, evidence)]
        if any([same_text(issued.code, proof) for issued in in_force]):
            return Verdict(Reading.RIGHT)
        if any([same_text(issued.code, proof) for issued in evidence.codes if issued.is_replaced]):
            return Verdict(Reading.REPLACED)
        return Verdict(Reading.WRONG if in_force else Reading.STALE)

    @staticmethod
    def _is_in_force(issued: IssuedCode, evidence: Evidence) -> bool:
        return not issued.is_replaced and not issued.is_used and evidence.now < issued.expires_at
