"""The roles of admins: what each may do on the configuration page, and how it is described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from auth_portal.errors import Problem
from auth_portal.services.delivery.notices import OWNER as OWNER_NAME


@dataclass(frozen=True)
class Role:
    """What an admin may do. ``name`` is what the database stores and the page shows; pages translate the texts."""

    name: str
    summary: str  # a sentence, for the person who is invited
    choice: str  # for the owner who chooses it
    is_owner: bool = False  # everything is allowed
    may_write: bool = False  # change customers, and send deliveries again
    # See API keys, the configuration file and which secrets are set; export the audit, answers and acceptances.
    may_inspect: bool = False

    def __str__(self) -> str:
        return self.name


OWNER = Role(
    OWNER_NAME,
    summary="An owner can change everything.",
    choice="Owner: can change everything",
    is_owner=True,
    may_write=True,
    may_inspect=True,
)
SUPPORT = Role(
    "support",
    summary="Support can see and unlock customers and retry deliveries, but can't change where answers go.",
    choice="Support: helps customers, can't change journeys, channels or admins",
    may_write=True,
)
AUDITOR = Role(
    "auditor",
    summary="An auditor can read everything and change nothing.",
    choice="Auditor: can read everything, can't change anything",
    may_inspect=True,
)
ROLES: Mapping[str, Role] = {role.name: role for role in (SUPPORT, AUDITOR, OWNER)}  # as they are offered


def role_of(name: str) -> Role:
    """Return the role with a name. Raise Problem if there is none."""
    if name not in ROLES:
        raise Problem("role_unknown")
    return ROLES[name]
