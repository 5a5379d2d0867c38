"""What a reference may be, before it is stored or sent, and what it is found by. Refuses everything else (R34)."""

from __future__ import annotations

import hashlib
import re

from auth_portal.errors import Problem

LONGEST = 512  # characters
_ALLOWED = re.compile(r"[\x21-\x7e]+")


def check(text: str) -> None:
    """Raises Problem("reference_invalid") for anything that must not be stored or sent."""
    if len(text) > LONGEST or not _ALLOWED.fullmatch(text):
        raise Problem("reference_invalid")


def reference_hash(text: str) -> bytes:
    """What a reference is found by (SHA-256)."""
    return hashlib.sha256(text.encode()).digest()
