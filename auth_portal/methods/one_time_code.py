"""A code that was sent to a contact on file, by SMS or e-mail."""

from __future__ import annotations

from auth_portal.crypto import same_text
from auth_portal.methods.contract import Evidence, IssuedCode, Method, OnFile, Reading, Verdict, Words
from auth_portal.methods.digits import read_digits


class OneTimeCode(Method):
    """Proves that whoever types it can read what is sent to the contact on file."""

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


class SmsCode(OneTimeCode):
    """By SMS."""

    name = "sms_code"
    on_file = OnFile.PHONE
    hardness = 1
    words = Words(
        choice="A code by SMS",
        inline="a code by SMS",
        hint="To the phone number that %(business)s has on file",
        name="SMS code",
        on_file="Phone, for codes by SMS",
        icon="message-circle",
    )


class EmailCode(OneTimeCode):
    """By e-mail."""

    name = "email_code"
    on_file = OnFile.EMAIL
    hardness = 0
    words = Words(
        choice="A code by e-mail",
        inline="a code by e-mail",
        hint="To the e-mail address that %(business)s has on file",
        name="e-mail code",
        on_file="E-mail, for codes by e-mail",
        icon="mail",
    )
