"""References: read one out of a link as Flow really sends it, and refuse what must not be stored or sent (R34).

Flow does not percent-encode: ``?reference=f7_4hn5=8f&%#nK=``. So the raw query is read, not ``request.args``. What the
browser keeps behind ``#`` arrives through a few lines of script, or is missing.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from auth_portal.errors import Problem

LONGEST = 512  # characters
_ALLOWED = re.compile(r"[\x21-\x7e]+")
_START = re.compile(r"(?:^|&)reference=")
# What apps add to links that they pass on. The names of dropped ones are recorded with the verification.
_ADDED = re.compile(r"fbclid|gclid|igshid|mibextid|msclkid|utm_[a-z_]{1,30}")


@dataclass(frozen=True)
class LinkReference:
    """A reference as far as the server saw it, and the names of parameters that an app had added behind it."""

    text: str
    dropped: str = ""


def read_query(query: str) -> LinkReference:
    """Return the reference of a raw query string; it may still lack its tail, and so be empty.

    Raise Problem("reference_missing") without one, Problem("reference_invalid") for what cannot be one.
    """
    found = _START.search(query)
    if found is None:
        raise Problem("reference_missing")
    raw, dropped = query[found.end() :], []
    while name := _added_name(raw):
        raw = raw.rpartition("&")[0]
        dropped.append(name)
    text = decode(raw)
    if text:
        check(text)
    return LinkReference(text, ",".join(reversed(dropped))[:200])


def _added_name(raw: str) -> str:
    """Return the name of the last parameter if an app added it. From the end: searching all would be quadratic."""
    _, mark, last = raw.rpartition("&")
    name, equals, _ = last.partition("=")
    return name if mark and equals and _ADDED.fullmatch(name) else ""


def completed(reference: str, tail: str) -> str:
    """Return the whole reference: what the form carried, and the decoded tail that script took from behind ``#``.

    Raise Problem unless it is 1 to 512 characters of 0x21-0x7E.
    """
    whole = reference + (decode(tail) if tail.startswith("#") and len(tail) <= 3 * LONGEST else "")
    if not whole:
        raise Problem("reference_missing")
    check(whole)
    return whole


def decode(raw: str) -> str:
    """Percent-decode once; ``+`` is a plus, and an invalid ``%`` stays as it is."""
    return unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode("latin-1")


def check(text: str) -> None:
    """Raise Problem("reference_invalid") for anything that must not be stored or sent."""
    if len(text) > LONGEST or not _ALLOWED.fullmatch(text):
        raise Problem("reference_invalid")


def dropped_names(text: str) -> str:
    """Return the names of dropped parameters that a form sends back; anything else in there was not ours."""
    return ",".join(name for name in text.split(",") if _ADDED.fullmatch(name))[:200]


def pasted(text: str) -> tuple[str, ...]:
    """Return what an admin may have pasted, a whole link or a reference alone: as it stands, decoded, from the link.

    What cannot be a reference is left out, so the result may be empty.
    """
    text = text.strip()
    query, mark, tail = (text.partition("?")[2] or text).partition("#")
    found = []
    with suppress(Problem):
        found.append(completed(read_query(query).text, mark + tail))
    for whole in (text, decode(text)):
        with suppress(Problem):
            found.append(completed(whole, ""))
    return tuple(dict.fromkeys(found))
