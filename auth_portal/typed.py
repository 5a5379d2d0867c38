"""What people type, paste and export, in plain characters (R18, R25, R55).

Keyboards, chat apps, address books and spreadsheets add characters that no one sees or that only look right: marks of
direction around a phone number, spaces that do not break, dashes of other widths, digits of another script. Two texts
that look the same must be the same, so every value that identifies a person passes through here before it is compared.
Passwords do not: each of their characters counts.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from urllib.parse import unquote

JOINERS = "\u200c\u200d"  # the invisible characters that some scripts cannot be written without
# Of category Cf are the marks of direction, joiners, soft hyphens and byte order marks. The others that Unicode calls
# default ignorable (DerivedCoreProperties.txt) are fillers and variation selectors; the Braille blank shows nothing.
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
_IS_INVISIBLE = re.compile(f"[{_INVISIBLE}]")
_DASHES = "\u2043\u207b\u208b\u2212"  # bullet, raised, lowered, minus; all others are of category Pd
_FULL_WIDTH = range(0xFF01, 0xFF5F)  # ASCII as East Asian keyboards write it; letters stay, as in any other script
_FULL_WIDTH_OFFSET = 0xFEE0
_NAMED = re.compile(r"[^<>]*<([^<>]+)>[^\w<>]*")  # Thandi Nkosi <thandi@example.com>
_SCHEME = re.compile(r"(mailto|tel|sms|smsto|callto):/{0,2}", re.IGNORECASE)
_QUOTES = "\"'`\u00ab\u00b4\u00bb\u2018-\u201f\u2039\u203a"
_AROUND = re.compile(f"^[ {_QUOTES}]+|[ {_QUOTES}.,;:!?…‥。、․‚·،؛؟۔।]+$")


def visible_text(text: str, stays: str = "") -> str:
    """Return text without the characters that no one sees, and with every kind of space as a space.

    The characters in ``stays`` are left as they are.
    """
    if text.isascii():
        return text.replace("\t", " ")
    return "".join(character if character in stays else _visible_character(character) for character in text)


def plain_text(text: str) -> str:
    """Return text as ``visible_text`` does, with every dash as ``-``; digits of any script and wide signs as ASCII."""
    return text.replace("\t", " ") if text.isascii() else "".join(map(_plain_character, text))


def identifier_form(text: str) -> str:
    """Return what names a person without what was pasted around it, in plain characters.

    That is the address in ``Thandi <thandi@example.com>``, what follows ``tel:`` or ``mailto:``, and what stands
    between quotation marks and before the full stop of a sentence.
    """
    text = _AROUND.sub("", plain_text(text))
    if named := _NAMED.fullmatch(text):
        text = _AROUND.sub("", named[1])
    if scheme := _SCHEME.match(text):
        # Behind a question mark or semicolon are parameters (RFC 6068, RFC 3966), such as a subject.
        text = _AROUND.sub("", plain_text(unquote(re.split("[?;]", text[scheme.end() :])[0])))
    return text


@lru_cache(maxsize=4096)
def _visible_character(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in ("Zs", "Zl", "Zp") or character == "\t":
        return " "
    return "" if kind == "Cf" or _IS_INVISIBLE.match(character) else character


@lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    if kind == "Pd" or character in _DASHES:
        return "-"
    if ord(character) in _FULL_WIDTH and kind not in ("Lu", "Ll"):
        return chr(ord(character) - _FULL_WIDTH_OFFSET)
    return _visible_character(character)
