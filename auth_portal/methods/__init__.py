"""The methods by which a customer proves their identity. A new one is one file and one line here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from auth_portal.crypto import Passwords
from auth_portal.i18n import plain as _
from auth_portal.methods.contract import (
    CARRIED_TO,
    Evidence,
    IssuedCode,
    Method,
    OnFile,
    ProofResult,
    Verdict,
    Words,
)
from auth_portal.methods.one_time_code import EmailCode, SmsCode
from auth_portal.methods.password import Password
from auth_portal.methods.support_code import DIGITS as SUPPORT_CODE_DIGITS
from auth_portal.methods.support_code import SupportCode
from auth_portal.methods.totp import Totp

__all__ = [
    "CARRIES",
    "METHODS",
    "METHOD_NAMES",
    "ON_FILE",
    "SUPPORT_CODE_DIGITS",
    "Evidence",
    "IssuedCode",
    "Method",
    "OnFile",
    "ProofResult",
    "Verdict",
    "Words",
    "all_methods",
    "any_method",
    "method_name",
    "name_methods",
    "words_of",
]

METHODS: Mapping[str, type[Method]] = {
    method.name: method for method in (Password, SmsCode, EmailCode, Totp, SupportCode)
}
METHOD_NAMES = tuple(METHODS)
ON_FILE: Mapping[str, OnFile] = {name: method.on_file for name, method in METHODS.items()}
CARRIES: Mapping[str, str] = {name: CARRIED_TO[held] for name, held in ON_FILE.items() if held in CARRIED_TO}


def all_methods(passwords: Passwords) -> Mapping[str, Method]:
    """Return every method by its name, for one process."""
    return {name: method.build(passwords) for name, method in METHODS.items()}


def words_of(method: str) -> Words:
    """Return what a method is called. One that no longer exists, in an old record, stands for itself."""
    if method in METHODS:
        return METHODS[method].words
    return Words(choice=method, hint="", begin=method, name=method, on_file=method, proof="proof")


def method_name(method: str) -> str:
    """Return what admins call a method, within a sentence. A method that no longer exists stands for itself."""
    return _(words_of(method).name)


def any_method(methods: Sequence[str]) -> str:
    """Return a choice of methods: ``SMS code, email code or password``."""
    *others, last = map(method_name, methods)
    return _("%(others)s or %(last)s", others=", ".join(others), last=last) if others else last


def name_methods(text: str) -> str:
    """Return a text that has methods as the config file writes them, with the names that admins use."""
    return re.sub(r"\w+", lambda word: method_name(word[0]) if word[0] in METHOD_NAMES else word[0], text)
