"""The ways to prove oneself. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from auth_portal.crypto import Passwords
from auth_portal.methods.contract import Method
from auth_portal.methods.one_time_code import OneTimeCode
from auth_portal.methods.password import Password
from auth_portal.methods.support_code import SupportCode
from auth_portal.methods.totp import Totp

METHOD_NAMES = ("password", "sms_code", "email_code", "totp", "support_code")
CARRIES = {"sms_code": "sms", "email_code": "email"}


def all_methods(passwords: Passwords) -> Mapping[str, Method]:
    """Every method by its name."""
    methods: tuple[Method, ...] = (
        Password(passwords),
        OneTimeCode("sms_code", CARRIES["sms_code"]),
        OneTimeCode("email_code", CARRIES["email_code"]),
        Totp(),
        SupportCode(),
    )
    return {method.name: method for method in methods}
