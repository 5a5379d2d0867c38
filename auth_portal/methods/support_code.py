"""A temporary code that support reads out to one customer, after making sure who calls (R19)."""

from __future__ import annotations

from auth_portal.crypto import same_text
from auth_portal.methods.contract import Evidence, Method, OnFile, Reading, Verdict, Words
from auth_portal.methods.digits import read_digits

DIGITS = 8  # R19; whatever the journey's own codes have
LIFE_SECONDS = 600  # R19: ten minutes


class SupportCode(Method):
    """Proves that support spoke with whoever types it. It sends nothing: issuing is an act of support's."""

    name = "support_code"
    on_file = OnFile.SUPPORT_CODE
    hardness = 1
    words = Words(
        choice="A code from our support",
        inline="a code from our support",
        hint="That %(business)s read to you on the phone",
        name="code from support",
        on_file="Temporary code from support",
    )

    def length(self, digits: int) -> int:
        """Eight, whatever the journey's own codes have."""
        return DIGITS

    def parse(self, typed: str, digits: int) -> str | None:
        """Eight digits."""
        return read_digits(typed, DIGITS)

    def check(self, proof: str, evidence: Evidence) -> Verdict:
        """Right for the code in force, else wrong: that none was issued must not show, so it costs a try (R24)."""
        matching = [issued for issued in evidence.codes if same_text(issued.code, proof)]
        in_force = any(not issued.is_used and evidence.now < issued.expires_at for issued in matching)
        return Verdict(Reading.RIGHT if in_force else Reading.WRONG)
