"""The ways to prove oneself. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from auth_portal.crypto import Passwords
from auth_portal.methods.contract import CARRIED_TO, Method, OnFile, Words
from auth_portal.methods.one_time_code import EmailCode, SmsCode
from auth_portal.methods.password import Password
from auth_portal.methods.support_code import SupportCode
from auth_portal.methods.totp import Totp

METHODS: Mapping[str, type[Method]] = {
    method.name: method for method in (Password, SmsCode, EmailCode, Totp, SupportCode)
}
METHOD_NAMES = tuple(METHODS)
ON_FILE: Mapping[str, OnFile] = {name: method.on_file for name, method in METHODS.items()}
CARRIES: Mapping[str, str] = {name: CARRIED_TO[held] for name, held in ON_FILE.items() if held in CARRIED_TO}


def all_methods(passwords: Passwords) -> Mapping[str, Method]:
    """Every method by its name, for one process."""
    return {name: method.made(passwords) for name, method in METHODS.items()}


def words_of(method: str) -> Words:
    """What a method is called; a name that is no method's any more, in an old record, stands for itself."""
    if method in METHODS:
        return METHODS[method].words
    return Words(choice=method, inline=method, hint="", name=method, on_file=method, proof="proof")
