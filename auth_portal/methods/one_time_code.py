"""A code that was sent to a contact on file, by SMS or email."""

from __future__ import annotations

import re
from hmac import compare_digest

from auth_portal.methods.contract import Evidence, Method, OnFile, ProofResult, Verdict, Words
from auth_portal.typed import plain_text

_FORGIVEN = str.maketrans("", "", " -\r\n")
_WORD = re.compile(r"[^\W\d_]{2}")  # a message has one, a number has none
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
MESSAGE_LENGTH = 1000  # characters of a whole message that is pasted instead of its code; ours have at most 160


def read_digits(typed: str, digits: int) -> str | None:
    """Return exactly ``digits`` ASCII digits, or None: one rule for every method with a code (R18).

    Digits of any script count, spaces and dashes do not. Of a whole message that was pasted, the run of ``digits``
    digits is read, if there is one only; the same run may come twice, as it does in our SMS.
    """
    if len(typed) == digits and typed.isascii() and typed.isdigit():
        return typed
    text = plain_text(typed)
    code = text.translate(_FORGIVEN)
    if len(code) == digits and code.isdigit():
        return code
    if len(text) > MESSAGE_LENGTH or not _WORD.search(text) or _CONTROL.search(text):
        return None
    runs = set(re.findall(rf"(?<![\w+.,])[0-9]{{{digits}}}(?![\w]|[.,][0-9])", text))
    return runs.pop() if len(runs) == 1 else None


class OneTimeCode(Method):
    """Prove that the person can read what is sent to the contact on file."""

    def length(self, digits: int) -> int:
        """Return as many as the journey says."""
        return digits

    def parse(self, typed: str, digits: int) -> str | None:
        """Return the digits, as many as the journey's codes have, or None."""
        return read_digits(typed, digits)

    def check(self, proof: str, evidence: Evidence) -> Verdict:
        """Return RIGHT for a valid code and REPLACED for an older one. Without a valid code nothing is judged (R5)."""
        codes, now = evidence.codes, evidence.now
        replaced = [code for code in codes if code.is_replaced]
        valid = [code for code in codes if not code.is_replaced and not code.is_used and now < code.expires_at]
        matching = {code for code in codes if compare_digest(code.code, proof)}  # all are compared, whichever matches
        if not matching.isdisjoint(valid):
            return Verdict(ProofResult.RIGHT)
        if not matching.isdisjoint(replaced):
            return Verdict(ProofResult.REPLACED)
        return Verdict(ProofResult.WRONG if valid else ProofResult.STALE)


class SmsCode(OneTimeCode):
    """By SMS."""

    name = "sms_code"
    on_file = OnFile.PHONE
    hardness = 1
    words = Words(
        choice="Code by SMS",
        hint="To the number on file",
        begin="Send me a code by SMS",
        approve="Approve with a code",
        name="SMS code",
        on_file="Phone, for codes by SMS",
        icon="message-square-more",
    )


class EmailCode(OneTimeCode):
    """By email."""

    name = "email_code"
    on_file = OnFile.EMAIL
    hardness = 0
    words = Words(
        choice="Code by email",
        hint="To the address on file",
        begin="Send me a code by email",
        approve="Approve with a code",
        name="email code",
        on_file="Email, for codes by email",
        icon="mail",
    )
