"""A temporary code that support reads out to one customer, after making sure who calls (R19)."""

from __future__ import annotations

from auth_portal.crypto import same_text
from auth_portal.methods.contract import Evidence, Method, OnFile, ProofResult, Verdict, Words
from auth_portal.methods.one_time_code import read_digits

DIGITS = 8  # R19; whatever the journey's own codes have
LIFE_SECONDS = 600  # R19: ten minutes


class SupportCode(Method):
    """Prove that support spoke with the person who types it. It sends nothing: support issues it by hand."""

    name = "support_code"
    on_file = OnFile.SUPPORT_CODE
    hardness = 1
    words = Words(
        choice="Code from our support team",
        hint="The one %(business)s gave you by phone",
        begin="Enter my code from support",
        name="code from support",
        on_file="Temporary code from support",
        icon="headset",
    )

    def length(self, digits: int) -> int:
        """Return eight, whatever the journey's own codes have."""
        return DIGITS

    def parse(self, typed: str, digits: int) -> str | None:
        """Return eight digits, or None."""
        return read_digits(typed, DIGITS)

    def check(self, proof: str, evidence: Evidence) -> Verdict:
        """Return RIGHT for the valid code, else WRONG: that none was issued must not show, so it costs a try (R24)."""
        matching = [issued for issued in evidence.codes if same_text(issued.code, proof)]
        is_valid = any(not issued.is_used and evidence.now < issued.expires_at for issued in matching)
        return Verdict(ProofResult.RIGHT if is_valid else ProofResult.WRONG)
