"""Relay defences: what stops a link that was sent on from answering the sender's chat with someone else's proof.

Each defence is an object that knows its rules; a journey names one in ``relay_defence``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from auth_portal.methods import CARRIES

DefenceName = Literal["none", "chat_code", "phone_match"]

# Placeholders of ``data`` that only a defence fills. Two of them share their name with it.
CHAT_CODE = "chat_code"
PHONE_MATCH = "phone_match"
PURPOSE = "purpose"


@dataclass(frozen=True)
class RelayDefence:
    """One defence: what it demands of a link, what it adds to the result, and how strong it is."""

    name: DefenceName
    strength: int  # to compare journeys by; 0 stops nothing
    demands_ticket: bool = False  # only a ticket with the chat's own number opens the journey
    makes_chat_code: bool = False  # after success the page shows a code that the customer types into the chat
    variables: tuple[str, ...] = ()  # data keys that it adds to every result, each filled by its own placeholder
    success: str = "verified"  # the default text for ``verified``

    @property
    def stops_relay(self) -> bool:
        """Report whether a link that was sent on is stopped at all."""
        return self.strength > 0

    def allowed(self, methods: Iterable[str]) -> tuple[str, ...]:
        """Return the methods that a journey with this defence can use."""
        return phone_only(methods) if self.demands_ticket else tuple(methods)


NO_DEFENCE = RelayDefence("none", strength=0)
# With a chat code the default text is not "verified": a flow that does not compare the code must not pass anyone.
TYPED_BACK = RelayDefence("chat_code", strength=1, makes_chat_code=True, variables=(CHAT_CODE,), success="check_code")
PHONE_MATCHED = RelayDefence("phone_match", strength=2, demands_ticket=True, variables=(PHONE_MATCH, PURPOSE))
DEFENCES: Mapping[str, RelayDefence] = {found.name: found for found in (NO_DEFENCE, TYPED_BACK, PHONE_MATCHED)}
VARIABLES = tuple(name for found in DEFENCES.values() for name in found.variables)


def find_defence(name: object) -> RelayDefence:
    """Return the defence of that name; for any other value, which validation refuses elsewhere, no defence."""
    return next((found for found in DEFENCES.values() if found.name == name), NO_DEFENCE)


def phone_only(methods: Iterable[str]) -> tuple[str, ...]:
    """Return the methods that send nothing by email: codes go to the chat's own number, where it is known."""
    return tuple(method for method in methods if CARRIES.get(method) != "email")
