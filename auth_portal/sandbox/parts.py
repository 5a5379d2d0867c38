"""One sandbox, wired: what its pages and endpoints work with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from auth_portal.clock import Clock
from auth_portal.sandbox.callbacks import Callbacks
from auth_portal.sandbox.contract import DemoPerson, JourneyCard
from auth_portal.sandbox.conversations import Conversations
from auth_portal.sandbox.inbox import Inbox
from auth_portal.sandbox.tickets import ApiCall, AskPortal, ticket_body


@dataclass(frozen=True)
class Parts:
    """All that a sandbox consists of. ``is_public``: strangers share it, so it lists nobody's chats."""

    public_url: str
    journeys: Callable[[], Sequence[JourneyCard]]
    demo_people: Callable[[], Sequence[DemoPerson]]
    ask_portal: AskPortal
    clock: Clock
    chats: Conversations
    callbacks: Callbacks
    inbox: Inbox
    is_public: bool

    def cards(self) -> list[JourneyCard]:
        """The journeys that answer the sandbox, the default one first."""
        return sorted(self.journeys(), key=lambda card: not card.is_default)

    def ticket_for(self, card: JourneyCard, phone: str, reference: str) -> ApiCall | None:
        """What the flow's API node did before the link; None for a flow that has no such node."""
        return self.ask_portal(ticket_body(card, phone, reference)) if card.needs_ticket else None
