"""What a customer is told when something of theirs is changed, and where (R13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TOLD = {  # fields whose change is told to the person, and how
    "phone": "phone number",
    "email": "e-mail address",
    "password": "password",
    "totp_secret": "authenticator app",
}
CONTACTS = ("phone", "email")


def told_at(name: str, before: Mapping[str, str], changes: Mapping[str, str | None]) -> Sequence[str]:
    """Where a change is told: of a contact at the old and the new one, of a credential at every contact before it."""
    found = [before.get(name), changes[name]] if name in CONTACTS else [before.get(contact) for contact in CONTACTS]
    return [contact for contact in found if contact]


def notice(name: str, changes: Mapping[str, str | None]) -> tuple[str, str]:
    """Subject and text of a notice; they say what changed, and never to what."""
    verb = "removed" if changes[name] is None else "changed"
    return f"Your {TOLD[name]} was {verb}", "If you did not ask for this, please contact us at once."
