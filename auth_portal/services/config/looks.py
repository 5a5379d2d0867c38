"""How a journey looks to its customers: its own words, its colour, its logo. Plain text and checked values alone.

A colour is refused where text in it could not be read: WCAG 2.2 asks for a contrast of 4.5 to 1 (1.4.3). Inline
styles are not allowed on our pages, so a colour travels as a small stylesheet of its own.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from auth_portal.services.config.portal import Frozen

CONTRAST = 4.5
LIGHTEST_GROUND = "#f3f5f8"  # the page in the light, as in static/app.css; white only adds to the contrast
DARK_GROUND = "#1a212b"  # and in the dark, where the lighter of the two grounds has the least
DARK_TEXT = "#0b1a2c"
SRGB_LINEAR = 0.04045  # up to here a part of a colour is linear (IEC 61966-2-1)
TEXT_LENGTH = 300  # characters
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_HOVER = 0.2  # how much of the way to black, or in the dark to white, a button goes under the pointer


def contrast(one: str, other: str) -> float:
    """The contrast of two colours such as ``#0b4a8f``, from 1 to 21 (WCAG 2.2)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(part: float) -> float:
    return part / 12.92 if part <= SRGB_LINEAR else ((part + 0.055) / 1.055) ** 2.4


def checked_colour(colour: str) -> str:
    """The colour in small letters, or nothing for none. Raises ValueError in the admin's words."""
    colour = colour.lower()
    if not colour:
        return ""
    if not _COLOUR.fullmatch(colour):
        raise ValueError("must be written as # and six digits or letters from a to f, such as #0b4a8f")
    if (found := contrast(colour, LIGHTEST_GROUND)) < CONTRAST:
        raise ValueError(
            f"is too light: links in it could not be read on the page (contrast {found:.1f}, at least {CONTRAST} is "
            "needed); choose a darker one"
        )
    return colour


def theme_css(colour: str) -> str:
    """The stylesheet of a checked colour: as it is in the light, and lighter in the dark until it can be read."""
    dark = _lightened(colour)
    return (
        f":root {{ --accent: {colour}; --accent-hover: {_mixed(colour, '#000000', _HOVER)}; --accent-text: #fff; }}\n"
        "@media (prefers-color-scheme: dark) {\n"
        f"  :root {{ --accent: {dark}; --accent-hover: {_mixed(dark, '#ffffff', _HOVER)}; "
        f"--accent-text: {DARK_TEXT}; }}\n}}\n"
    )


def _lightened(colour: str) -> str:
    steps = (_mixed(colour, "#ffffff", step / 20) for step in range(21))
    return next(found for found in steps if min(contrast(found, DARK_GROUND), contrast(found, DARK_TEXT)) >= CONTRAST)


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
    """What the business adds in its own words. Nothing of ours is replaced: the warnings stay as they are."""

    landing: Text = ""  # why the person is here, below our own first sentence
    done: Text = ""  # after success
    closed: Text = ""  # while the journey is off
