"""What a newcomer reads: where in the round trip a chat stands, what just happened, and the flow node by node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyotp

from auth_portal.sandbox.conversations import CODE_TRIES, MATCHED, Conversation, talk_of
from auth_portal.sandbox.facts import DEFENCES, PAYMENT_AMOUNT, Cast, DefenceName, DemoPerson, JourneyCard

STEPS = ("Chat asks", "Browser proves", "Portal informs Flow", "Chat continues")
TOTP_SECONDS = 30
NO_CUSTOMER = 422  # the portal's status if no customer can be verified with a number
GOOD, BAD = "good", "bad"


@dataclass(frozen=True)
class ChatStory:
    """The step of the round trip (1 to 4), a headline and the sentence below it; ``mood`` colours the headline."""

    step: int
    headline: str
    text: str
    mood: str = ""


@dataclass(frozen=True)
class Player:
    """A demo person with what their authenticator app shows now."""

    person: DemoPerson
    totp_code: str


def story_of(chat: Conversation) -> ChatStory:
    """Return what just happened, and what to do next."""
    failed = next((found for found in reversed(chat.this_round) if not found.is_accepted), None)
    if chat.stage == "waiting" and failed is not None:
        answered = f"answered with {failed.status}" if failed.status else "did not answer"
        return ChatStory(3, f"The portal informed Flow, and Flow {answered}", failed.why)
    if chat.stage == "waiting" and chat.round > 1 and chat.call is not None:
        return ChatStory(
            2,
            "Flow asks again, with a new ticket",
            "The reference is the same, the link is new: it holds the new ticket. The portal offers “Start again”.",
        )
    if chat.stage == "waiting" and chat.round > 1:
        return ChatStory(
            2,
            "Flow asks again with the same reference",
            "The portal knows this reference and offers “Start again”; the new result is matched again.",
        )
    if chat.stage == "waiting":
        return ChatStory(
            2, "Flow sent the link and waits", "Tap the link in the chat. Prove who you are there, then come back here."
        )
    if chat.stage == "no_ticket":
        return no_ticket(chat)
    if chat.stage == "ended":
        return ChatStory(
            3 if failed else 1,
            "The chat session has ended",
            "Flow no longer waits, so it refuses a result with 400. Start a new chat to continue.",
        )
    return _answered(chat)


def no_ticket(chat: Conversation) -> ChatStory:
    """Return the story of a flow that stopped before its link, because the portal created no ticket."""
    status = chat.call.status if chat.call else 0
    if status == NO_CUSTOMER:
        why = (
            f"The portal created no ticket: no customer can be verified with {chat.phone}. The chat says the same for "
            "every reason, so that it shows no one who is a customer."
        )
        return ChatStory(1, "The flow stopped before it sent a link", why)
    why = f"The portal answered its API node with {status}. “What the API node asked” shows the reason."
    return ChatStory(1, "The flow stopped before it sent a link", why)


def _answered(chat: Conversation) -> ChatStory:
    if chat.stage == "code":
        return ChatStory(
            4,
            "Flow wants to see the chat code",
            "The browser page shows a short code. Typing it here proves that one person has both.",
        )
    if chat.stage == "thanked" and not chat.card.asks_who:
        return _without_proof(chat)
    if chat.stage == "thanked":
        return ChatStory(
            4,
            "The chat knows who you are",
            f"The portal posted “{chat.result}” with the same reference, Flow matched it, and the flow continued.",
        )
    if chat.result in chat.card.successes and (chat.data or {}).get(chat.card.compares) == MATCHED:
        return ChatStory(
            4,
            "This was not the payment that the chat asked for",
            f"The result was right, but {PAYMENT_AMOUNT} was not “{chat.asked_amount}”.",
        )
    if chat.result in chat.card.successes and chat.card.needs_ticket:
        return ChatStory(
            4, "This was not the chat's own number", "The result was right, but phone_match was not “yes”."
        )
    if chat.result in chat.card.successes:
        return ChatStory(
            4, "The chat code was wrong", "The result was right, but the code was not, so the flow stopped."
        )
    if not chat.card.asks_who:
        return _without_proof(chat)
    return ChatStory(
        4,
        "The chat does not know who you are",
        f"The portal posted “{chat.result}”. Only “{chat.card.success}” lets this flow continue.",
    )


def _without_proof(chat: Conversation) -> ChatStory:
    """Return the story of an answer from a journey in which no one proves who they are."""
    if chat.result in chat.card.successes:
        text = f"The portal posted “{chat.result}” with the same reference. Its variables say what was answered."
        return ChatStory(4, "The chat has the answer", text)
    text = f"The portal posted “{chat.result}”, so the flow took its other branch."
    return ChatStory(4, "The chat goes on without the answer", text)


def players(people: Sequence[DemoPerson], now: datetime) -> list[Player]:
    """Return the demo people, each with the code of this half minute."""
    found = []
    for person in people:
        try:
            code = pyotp.TOTP(person.totp_secret).at(now) if person.totp_secret else ""
        except ValueError:  # not Base32, or too short: the portal would refuse it too
            code = ""
        found.append(Player(person, code))
    return found


def totp_seconds_left(now: datetime) -> int:
    """Return how long the codes on the page are still valid."""
    return TOTP_SECONDS - int(now.timestamp()) % TOTP_SECONDS


# --- The attack


@dataclass(frozen=True)
class Play:
    """One defence to play against, and the journey that has it."""

    defence: DefenceName
    card: JourneyCard


def plays_of(cards: Sequence[JourneyCard]) -> list[Play]:
    """Return for each defence the first journey that has it, the weakest defence first."""
    first = {card.relay_defence: card for card in reversed(cards) if card.asks_who}
    return [Play(defence, first[defence]) for defence in DEFENCES if defence in first]


def attack_story(chat: Conversation, cast: Cast, sent: Mapping[str, int]) -> ChatStory:
    """Return where the attack stands, and what to do next. ``sent``: messages since it began, by number."""
    if chat.stage == "waiting" and chat.card.needs_ticket and sent.get(chat.phone):
        return ChatStory(
            2,
            f"The attack failed: {cast.victim.name} gets no code",
            f"The code went to {chat.phone}, the phone of this chat, which is the attacker's own. With it he can be "
            f"verified as himself, {cast.attacker.customer_id}, and as no other person.",
            GOOD,
        )
    if chat.stage == "waiting":
        start = f"{cast.attacker.name} started this chat and sent its link to {cast.victim.name}. Tap it as if you "
        if chat.card.needs_ticket:
            text = (
                "were her. The page says that the link is for another number; press the main button anyway, and ask "
                f"for an SMS. Her phone gets none: it goes to the number of the chat, {chat.phone}."
            )
        else:
            text = f"were her: enter {cast.victim.customer_id} and prove it with her code, as she would."
        return ChatStory(2, f"This is the attacker's chat. Now be {cast.victim.name}", start + text)
    if chat.stage == "no_ticket":
        return no_ticket(chat)
    if chat.stage == "code":
        return ChatStory(
            4,
            "The attacker's chat stops here",
            f"{cast.victim.name} did all that the page asked. The code that the chat wants is on her page, and the "
            f"attacker cannot see it. He can guess: type one.",
            GOOD,
        )
    if chat.stage == "thanked":
        return _passed(chat, cast)
    return ChatStory(
        4, "The attack failed", "The attacker's chat does not continue: it does not know who is chatting.", GOOD
    )


def _passed(chat: Conversation, cast: Cast) -> ChatStory:
    customer = (chat.data or {}).get("customer_id", "")
    if customer == cast.attacker.customer_id:
        return ChatStory(
            4,
            "The attacker is only himself",
            f"The chat knows {cast.attacker.name}, who is chatting. He gained nothing.",
            GOOD,
        )
    how = _HOW.get(chat.card.relay_defence, "")
    return ChatStory(4, f"The attack worked: the attacker's chat is now {cast.victim.name}", how, BAD)


_HOW: Mapping[str, str] = {
    "none": "She proved who she is, in her own browser, and the result went to the chat that the link came from: his. "
    "Without a defence nothing stops this.",
    "chat_code": "The right code was typed into his chat, so she gave it to him. Her page warns against that; "
    "“phone_match” does not depend on her care.",
}


# --- The flow, node by node

DONE, NOW, AHEAD, STOPPED = "done", "now", "ahead", "stopped"


@dataclass(frozen=True)
class Branch:
    """One exit of a node: the value that it compares with (empty: anything else), and where it leads."""

    value: str
    leads_to: str
    is_taken: bool


@dataclass(frozen=True)
class Node:
    """One node. ``state``: done, now (the flow waits here), ahead (not reached) or stopped (it took the other exit)."""

    name: str
    state: str
    text: str
    branches: tuple[Branch, ...] = ()


def nodes_of(chat: Conversation) -> list[Node]:
    """Return what each node did in a chat, or will do, in the order in which the flow reaches them."""
    return [*_before(chat), _link(chat), _logic(chat), *_compare(chat)]


def _before(chat: Conversation) -> Iterator[Node]:
    if chat.card.waits:
        yield Node("Set Variable", DONE, "Made a UUID, the reference that the result will name.")
    if chat.call is None:
        return
    asked = f"Before the link, sent the portal the number of this chat, {chat.phone}, and the payment to approve."
    if chat.call.link:
        yield Node("API Integration", DONE, f"{asked} The portal answered with a ticket: a link for this chat only.")
    else:
        text = f"{asked} The portal answered {chat.call.status}: no ticket. So no link is sent."
        yield Node("API Integration", STOPPED, text)


def _link(chat: Conversation) -> Node:
    name = "Message, then Wait for Callback" if chat.card.waits else "External Link"
    what = "the link of the ticket" if chat.call is not None else "the link"
    if chat.stage == "no_ticket":
        return Node(name, AHEAD, f"Would send {what} and wait for the result.")
    if chat.stage == "waiting":
        return Node(name, NOW, f"Sent {what} and waits for the result with its reference.")
    if chat.result is None:
        return Node(name, STOPPED, "The session ended before a result arrived.")
    return Node(name, DONE, f"Sent {what} and got the result “{chat.result}” for its reference.")


def _logic(chat: Conversation) -> Node:
    is_success, card = chat.result in chat.card.successes, chat.card
    success = "continues to the compare node" if card.compares else talk_of(card).goal
    is_other = chat.result is not None and not is_success
    branches = (
        *(Branch(text, success, chat.result == text) for text in card.successes),
        Branch("", f"“{talk_of(card).refused}”" if not card.asks_who else "“We couldn't verify you”", is_other),
    )
    state = AHEAD if chat.result is None else DONE if is_success else STOPPED
    return Node("Logic section", state, "Compares the result.", branches)


def _compare(chat: Conversation) -> Iterator[Node]:
    card = chat.card
    if not card.compares:
        return
    if chat.result not in card.successes:
        yield Node("Compare", AHEAD, _rule(chat))
    elif card.uses_chat_code:
        state, typed = STOPPED, "The session ended first."
        if chat.stage == "thanked":
            state, typed = DONE, f"They are equal: {talk_of(card).goal}."
        elif chat.stage == "refused":
            typed = "None of them was equal: the flow stops."
        elif chat.stage == "code":
            state, typed = NOW, f"Waits for it; wrong so far: {chat.wrong_codes}."
        yield Node("Compare", state, f"{_rule(chat)} {typed}")
    else:
        value = (chat.data or {}).get(card.compares, "")
        amount = (chat.data or {}).get(PAYMENT_AMOUNT, "")
        is_equal = value == MATCHED and (not chat.asked_amount or amount == chat.asked_amount)
        value = f"{value}”, “{amount}" if chat.asked_amount else value
        found = f"It is “{value}”: {talk_of(card).goal}." if is_equal else f"It is “{value}”: the flow stops."
        yield Node("Compare", DONE if is_equal else STOPPED, f"{_rule(chat)} {found}")


def _rule(chat: Conversation) -> str:
    if chat.card.uses_chat_code:
        return f"Asks for the code on the page and compares it with {chat.card.compares}, {CODE_TRIES} times at most."
    amount = f" and {PAYMENT_AMOUNT} is “{chat.asked_amount}”" if chat.asked_amount else ""
    return f"Continues only if {chat.card.compares} is “{MATCHED}”{amount}."
