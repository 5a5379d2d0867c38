"""What a story is made of, and how it says times and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from auth_portal.i18n import plain as _

MINUTE, HOUR, TENTHS_UNTIL = 60, 3600, 10
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Moment:
    """Something that happened. ``clause`` is its part of the headline, empty where it has none.

    ``advice`` is what helps now; a story tells each once.
    """

    at: datetime
    text: str
    clause: str = ""
    kind: str = "plain"  # good | bad | warn | plain
    advice: str = ""


def span(seconds: float) -> str:
    """A length of time as it is said."""
    seconds = max(0.0, seconds)
    if seconds < TENTHS_UNTIL:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s" if whole % MINUTE else f"{whole // MINUTE} min"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"


def counted(number: int, one: str, many: str) -> str:
    """A number of things, in words up to ten."""
    word = NUMBERS[number] if number < len(NUMBERS) else str(number)
    return f"{word} {_(one if number == 1 else many)}"
