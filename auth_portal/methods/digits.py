"""How typed digits are read: one rule for every method with a code (R18)."""

from __future__ import annotations

_FORGIVEN = str.maketrans("", "", " -\u00a0\u2009\u202f\u2010\u2011\u2012\u2013\t")


def read_digits(typed: str, digits: int) -> str | None:
    """Exactly ``digits`` ASCII digits after blanks and dashes are dropped, or None. Full-width ones are no digits."""
    text = typed.translate(_FORGIVEN)
    return text if len(text) == digits and text.isascii() and text.isdigit() else None
