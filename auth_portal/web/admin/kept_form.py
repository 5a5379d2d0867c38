"""A form that was sent after its session had run out, kept for the admin who typed it.

It travels sealed in the sign-in page itself: nothing is stored, and whoever never had a session is given nothing. It
opens for the same admin alone, for half an hour, and only to be shown again: nothing is saved by it. Passwords, codes,
secrets of channels, files and CSRF tokens are never in it.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from werkzeug.datastructures import ImmutableMultiDict, MultiDict

from auth_portal.crypto import KeyFault, Keyring

FIELD = "kept"  # of the sign-in form
LIFE = timedelta(minutes=30)  # enough to find the phone, and to wait out the 15 minutes after five wrong tries (R40)
MOST_BYTES = 36_000  # sealed and in Base64 it fits into a request (64 KiB) beside the rest of the sign-in form
# What nobody gets back, by the name of the field. ``headers`` are those of a channel, which hold its keys.
SECRET = frozenset(
    {"csrf_token", "password", "repeated", "present", "code", "second_factor", "api_key", "headers", FIELD}
)


@dataclass(frozen=True)
class KeptForm:
    """What was typed, and the path that it was sent to."""

    path: str
    fields: ImmutableMultiDict[str, str]


def seal(keyring: Keyring, now: datetime, admin_id: str, path: str, form: MultiDict[str, str]) -> str:
    """The form as a text for a hidden field; nothing where it is too large."""
    fields = [pair for pair in form.items(multi=True) if pair[0] not in SECRET]
    text = json.dumps({"path": path, "until": (now + LIFE).timestamp(), "fields": fields})
    if len(text) > MOST_BYTES:
        return ""
    return base64.urlsafe_b64encode(keyring.seal(text, *_place(admin_id))).decode()


def opened(keyring: Keyring, now: datetime, admin_id: str, sealed: str) -> KeptForm | None:
    """What ``seal`` was given for this admin; None where it was another one's, is too old, or was altered."""
    try:
        kept = json.loads(keyring.open(base64.urlsafe_b64decode(sealed), *_place(admin_id)))
    except (KeyFault, binascii.Error, ValueError):
        return None
    if kept["until"] <= now.timestamp():
        return None
    return KeptForm(kept["path"], ImmutableMultiDict([(name, value) for name, value in kept["fields"]]))


def _place(admin_id: str) -> tuple[str, str, str]:
    """What it is bound to, as if it were a column of the admin's."""
    return "admins", admin_id, "kept_form"
