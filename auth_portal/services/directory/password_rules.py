"""What a new password must be: long enough, and not one of those that are tried first (63B 3.1.1.2).

No composition rules. The blocklist is zxcvbn's, which also knows names, dates and keyboard patterns; it is loaded by
the first password that is set, because it costs memory that most workers never need.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from auth_portal.crypto import PASSWORD_CODE_POINTS, normal_password
from auth_portal.i18n import gettext as _

JUDGED_LENGTH = 72  # characters: zxcvbn takes quadratic time
EASY_GUESSES = 10**6  # a password found within so many guesses is on everybody's list


def password_fault(password: str, *, at_least: int, about: Sequence[str] = ()) -> str:
    """Why this password is refused, as a sentence, or nothing. ``about`` is what others know of its owner."""
    text = normal_password(password)
    if not text:
        return _("Please type a password.")
    if len(text) < at_least:
        return _("This has %(n)s characters; it needs %(least)s at least.", n=len(text), least=at_least)
    if max(len(password), len(text)) > PASSWORD_CODE_POINTS:
        return _("This is longer than %(most)s characters.", most=PASSWORD_CODE_POINTS)
    if _judge()(text[:JUDGED_LENGTH], user_inputs=[word for word in about if word])["guesses"] < EASY_GUESSES:
        return _("Others would try this among the first. Three or four words that do not belong together are better.")
    return ""


@cache
def _judge() -> Any:
    return importlib.import_module("zxcvbn").zxcvbn
