"""What is said in a chat, by what it is about: a balance to see, or a payment that the person must confirm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from auth_portal.sandbox.contract import JourneyCard

PURPOSE = "Confirm transfer of R 500 to N. Dlamini"  # what a ticket of the sandbox asks for
WISH = "Please ask me again"
ASK_AGAIN = "Let me check once more that it's you. Here is the link again."
ASK_CODE = "Almost there. Please type the code that our page shows you now."
WRONG_CODE = "That is not the code on the page. Please look again and type it here."
STILL_WAITING = "I am still waiting for you. Please tap the link above."
NOTHING_MORE = "That is all I can do here. To see the link once more, use “Ask again”."


@dataclass(frozen=True)
class Talk:
    """One subject: how the person opens, what the business says before the link, and after it."""

    opening: str
    ask: str
    done: str
    goal: str  # what the success branch does, as the flow's author would say it
    refused: str
    no_ticket: str


BALANCE = Talk(
    opening="Hi, I want to see my balance",
    ask="Of course. To continue I need to know it's you. Please tap the link; it opens our page in your browser.",
    done="Your balance is R 1,234.50.",
    goal="shows the balance",
    refused="We could not verify you, so I cannot show your balance.",
    no_ticket="We cannot verify you in this chat.",
)
PAYMENT = Talk(
    opening="Hi, please send R 500 to N. Dlamini",
    ask="Of course. First I need to know it's you. Please tap the link and confirm the payment; it opens our page.",
    done="R 500 is on its way to N. Dlamini.",
    goal="sends the money",
    refused="We could not verify you, so nothing was paid.",
    no_ticket="We cannot verify you in this chat. Nothing was paid.",
)


def talk_of(card: JourneyCard) -> Talk:
    """What a chat of this journey is about."""
    return PAYMENT if card.needs_ticket else BALANCE


def thanks(card: JourneyCard, data: Mapping[str, str]) -> str:
    """What a verified person hears: whom the flow takes them for, and what they wanted."""
    customer = f"customer {data['customer_id']}" if data.get("customer_id") else ""
    who = " / ".join(part for part in (data.get("name"), customer) if part)
    return f"Thank you{', ' if who else ''}{who}. {talk_of(card).done}"
