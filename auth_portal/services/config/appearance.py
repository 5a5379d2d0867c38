"""How a journey looks to its customers: the words of the business, its colour and its logo.

A colour is refused if text in it would be hard to read: WCAG 2.2 requires a contrast of 4.5 to 1 (1.4.3). Pages allow
no inline style, so a colour is served as a small stylesheet. A logo is a PNG, JPEG or WebP by its first bytes, whatever
the browser calls it, and never SVG, which may contain script; it is named by the SHA-256 of its bytes.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field
from sqlalchemy import select

from auth_portal.errors import NotFound
from auth_portal.services.config.portal import Frozen
from auth_portal.store.db import Transactions, Work, dialect_insert
from auth_portal.store.models import Logo, table_of

CONTRAST = 4.5
LIGHTEST_GROUND = "#f3f5f8"  # of the page in light mode, as in static/app.css; white only adds to the contrast
DARK_GROUND = "#1a212b"  # the lighter of the two in dark mode, which has the least contrast
DARK_TEXT = "#0b1a2c"
SRGB_LINEAR = 0.04045  # up to here a part of a colour is linear (IEC 61966-2-1)
TEXT_LENGTH = 300  # characters
LOGO_BYTES = 48 * 1024  # at most: a customer on a slow network waits for it, and a form may have 64 KiB in all
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_HOVER = 0.2  # how much darker a button gets under the pointer, or lighter in dark mode


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours such as ``#0b4a8f``, from 1 to 21 (WCAG 2.2)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= SRGB_LINEAR else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def checked_colour(colour: str) -> str:
    """Return the colour in lower case, or an empty text for none. Raise ValueError with a reason for the admin."""
    colour = colour.lower()
    if not colour:
        return ""
    if not _COLOUR.fullmatch(colour):
        raise ValueError("must be # and six digits or letters from a to f, such as #0b4a8f")
    if (found := contrast(colour, LIGHTEST_GROUND)) < CONTRAST:
        raise ValueError(
            f"is too light to read on the page: its contrast is {found:.1f} and must be at least {CONTRAST}; choose a "
            "darker colour"
        )
    return colour


def theme_css(colour: str) -> str:
    """Return the stylesheet of a checked colour; in dark mode it is as much lighter as reading it requires."""
    steps = (_mixed(colour, "#ffffff", step / 20) for step in range(21))
    dark = next(found for found in steps if min(contrast(found, DARK_GROUND), contrast(found, DARK_TEXT)) >= CONTRAST)
    return (
        f":root {{ --accent: {colour}; --accent-hover: {_mixed(colour, '#000000', _HOVER)}; --accent-text: #fff; }}\n"
        "@media (prefers-color-scheme: dark) {\n"
        f"  :root {{ --accent: {dark}; --accent-hover: {_mixed(dark, '#ffffff', _HOVER)}; "
        f"--accent-text: {DARK_TEXT}; }}\n}}\n"
    )


def _mixed(one: str, other: str, share: float) -> str:
    pairs = ((int(one[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(first + (second - first) * share):02x}" for first, second in pairs)


def _plain(text: str) -> str:
    if any(not char.isprintable() for char in text):
        raise ValueError("must be one paragraph of plain text")
    return text


Colour = Annotated[str, Field(max_length=7), AfterValidator(checked_colour)]
Text = Annotated[str, Field(max_length=TEXT_LENGTH), AfterValidator(_plain)]


class JourneyTexts(Frozen):
    """What the business adds to the pages in its own words. It replaces nothing: our warnings stay."""

    landing: Text = ""  # why the customer is here, below the first sentence
    done: Text = ""  # after success
    closed: Text = ""  # while the journey is off


class Picture(NamedTuple):
    """A stored logo, as it is served."""

    media_type: str
    content: bytes


class Logos:
    """Find stored logos."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._cached = lru_cache(maxsize=32)(self._load)

    def get(self, digest: str) -> Picture:
        """Return a logo by its digest. Raise NotFound, which is not cached: the logo may be stored later."""
        return self._cached(digest)

    def _load(self, digest: str) -> Picture:
        with self._transactions.read() as work:
            row = work.execute(select(Logo.media_type, Logo.content).where(Logo.digest == digest)).one_or_none()
        if row is None:
            raise NotFound("not_found")
        return Picture(row.media_type, row.content)


def store_logo(work: Work, content: bytes) -> str:
    """Store a logo and return its digest. Raise ValueError with a reason for the admin."""
    digest = hashlib.sha256(content).hexdigest()
    values = {"digest": digest, "media_type": media_type_of(content), "content": content, "created_at": work.now}
    work.execute(dialect_insert(work.connection.dialect.name, table_of(Logo)).values(values).on_conflict_do_nothing())
    return digest


def media_type_of(content: bytes) -> str:
    """Return the media type of a picture. Raise ValueError for any other content, and for one that is too large."""
    if len(content) > LOGO_BYTES:
        raise ValueError(f"must be at most {LOGO_BYTES // 1024} kB; this one has {-(-len(content) // 1024)} kB")
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError("must be a PNG, JPEG or WebP picture")


def logo_digests(work: Work) -> frozenset[str]:
    """Return the digests of all stored logos."""
    return frozenset(work.execute(select(Logo.digest)).scalars())
