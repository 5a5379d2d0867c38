"""What a newcomer is told: where in the round trip a chat stands, and what just happened, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pyotp

from auth_portal.sandbox.contract import DemoPerson
from auth_portal.sandbox.conversations import Callback, Conversation

STEPS = ("Chat asks", "Browser proves", "Portal tells Flow", "Chat goes on")
TOTP_SECONDS = 30
NO_CUSTOMER = 422  # what the portal answers where nobody can be verified with a number
GOOD, BAD = "good", "bad"


@dataclass(frozen=True)
class Story:
    """The step of the round trip (1 to 4), a headline and the sentence below it; ``mood`` where it is said loudly."""

    step: int
    headline: str
    text: str
    mood: str = ""


@dataclass(frozen=True)
class Player:
    """A demo person with what their authenticator app would show now."""

    person: DemoPerson
    totp_code: str


def story_of(chat: Conversation) -> Story:
    """What just happened, and what to do next."""
    failed = next((found for found in reversed(chat.this_round) if not found.is_accepted), None)
    if chat.stage == "waiting":
        return _not_matched(failed) if failed else _waiting(chat)
    if chat.stage == "no_ticket":
        return no_ticket(chat)
    if chat.stage == "ended":
        return Story(
            3 if failed else 1,
            "The chat session has ended",
            "Flow no longer waits, so an answer is refused with 400. Start a new chat to go on.",
        )
    return _answered(chat)


def no_ticket(chat: Conversation) -> Story:
    """The flow stopped before its link, because the portal made no ticket."""
    status = chat.call.status if chat.call else 0
    if status == NO_CUSTOMER:
        why = (
            f"The portal made no ticket: no customer can be verified with {chat.phone}. The chat says the same for "
            "every reason, so that nobody learns who is a customer."
        )
        return Story(1, "The flow stopped before it sent a link", why)
    why = f"The portal answered its API node with {status}. “What the API node asked” shows the reason."
    return Story(1, "The flow stopped before it sent a link", why)


def _waiting(chat: Conversation) -> Story:
    if chat.round > 1 and chat.call is not None:
        return Story(
            2,
            "Flow asks again, with a new ticket",
            "The reference is the same, the link is new: it holds the new ticket. The portal offers “Start again”.",
        )
    if chat.round > 1:
        return Story(
            2,
            "Flow asks again with the same reference",
            "The portal knows this reference and offers “Start again”; the new answer is matched once more.",
        )
    return Story(
        2, "Flow sent the link and waits", "Tap the link in the chat. Prove who you are there, then come back here."
    )


def _not_matched(failed: Callback) -> Story:
    answered = f"with {failed.status}" if failed.status else "nothing"
    return Story(3, f"The portal told Flow, and Flow answered {answered}", failed.why)


def _answered(chat: Conversation) -> Story:
    if chat.stage == "code":
        return Story(
            4,
            "Flow wants to see the chat code",
            "The browser page shows a short code. Typing it here proves that both are in the same hands.",
        )
    if chat.stage == "thanked":
        return Story(
            4,
            "The chat knows who you are",
            f"The portal posted “{chat.result}” with the same reference, Flow matched it, and the flow went on.",
        )
    if chat.result == chat.card.success and chat.card.needs_ticket:
        return Story(4, "This was not the chat's own number", "The result was right, but phone_match was not “yes”.")
    if chat.result == chat.card.success:
        return Story(4, "The chat code was wrong", "The result was right, but the code was not, so the flow stopped.")
    return Story(
        4,
        "The chat does not know who you are",
        f"The portal posted “{chat.result}”. Only “{chat.card.success}” lets this flow go on.",
    )


def players(people: Sequence[DemoPerson], now: datetime) -> list[Player]:
    """The demo people, each with the code of this half minute."""
    return [Player(person, _totp_code(person.totp_secret, now)) for person in people]


def totp_seconds_left(now: datetime) -> int:
    """How long the codes on the page are still good."""
    return TOTP_SECONDS - int(now.timestamp()) % TOTP_SECONDS


def _totp_code(secret: str, now: datetime) -> str:
    try:
        return pyotp.TOTP(secret).at(now) if secret else ""
    except ValueError:  # no Base32, or too short: the portal would refuse it too
        return ""
