"""The API Integration node of a flow: before the link is sent, it tells the portal whose number the chat has."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from auth_portal.sandbox.contract import JourneyCard
from auth_portal.sandbox.documents import read_json
from auth_portal.sandbox.words import PURPOSE

PATH = "/api/v1/tickets"
CREATED = 201


@dataclass(frozen=True)
class ApiCall:
    """What the node asked, and what it was answered."""

    body: Mapping[str, str]
    status: int
    answer: str

    @property
    def link(self) -> str:
        """The link of the answer, good for this chat alone; nothing where none was made."""
        content = read_json(self.answer)
        link = content.get("link") if self.status == CREATED and isinstance(content, dict) else None
        return link if isinstance(link, str) else ""

    @property
    def pretty_answer(self) -> str:
        """The answer laid out for reading; as it came where it is no JSON."""
        content = read_json(self.answer)
        return self.answer if content is None else json.dumps(content, indent=2, ensure_ascii=False)


AskPortal = Callable[[Mapping[str, str]], ApiCall]  # a ticket's fields, sent to the portal's API


def ticket_body(card: JourneyCard, phone: str, reference: str) -> dict[str, str]:
    """The body of the node, its variables filled in; Flow knows a number without its plus."""
    body = {"journey": card.slug, "msisdn": phone.removeprefix("+"), "purpose": PURPOSE}
    return {**body, "reference": reference} if card.waits else body
