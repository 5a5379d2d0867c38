"""Link relay, played: an attacker sends the link of his own chat on to a victim, and what each defence makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from auth_portal.sandbox.contract import JourneyCard, RelayDefence
from auth_portal.sandbox.conversations import Conversation
from auth_portal.sandbox.phones import Cast
from auth_portal.sandbox.story import BAD, GOOD, Story, no_ticket

DEFENCES: tuple[RelayDefence, ...] = ("none", "chat_code", "phone_match")


@dataclass(frozen=True)
class Play:
    """One defence to play against, and the journey that has it."""

    defence: RelayDefence
    card: JourneyCard


def plays_of(cards: Sequence[JourneyCard]) -> list[Play]:
    """For each defence the first journey that has it, the weakest defence first."""
    first = {card.relay_defence: card for card in reversed(cards)}
    return [Play(defence, first[defence]) for defence in DEFENCES if defence in first]


def attack_story(chat: Conversation, cast: Cast, sent: Mapping[str, int]) -> Story:
    """Where the attack stands, and what to do next. ``sent``: messages since it began, by number."""
    if chat.stage == "waiting" and chat.card.needs_ticket and sent.get(chat.phone):
        return Story(
            2,
            f"The attack failed: {cast.victim.name} gets no code",
            f"The code went to {chat.phone}, the phone of this chat, which is the attacker's own. With it he can be "
            f"verified as himself, {cast.attacker.customer_id}, and as nobody else.",
            GOOD,
        )
    if chat.stage == "waiting":
        return Story(2, f"This is the attacker's chat. Now be {cast.victim.name}", _as_victim(chat, cast))
    if chat.stage == "no_ticket":
        return no_ticket(chat)
    if chat.stage == "code":
        return Story(
            4,
            "The attacker's chat stops here",
            f"{cast.victim.name} did all that the page asked. The code that the chat wants is on her page, and the "
            f"attacker cannot see it. He can guess: type one.",
            GOOD,
        )
    if chat.stage == "thanked":
        return _passed(chat, cast)
    return Story(4, "The attack failed", "The attacker's chat does not go on: it knows nobody.", GOOD)


def _as_victim(chat: Conversation, cast: Cast) -> str:
    sent = (
        f"{cast.attacker.name} started this chat and sent its link on to {cast.victim.name}. Tap it as if you were her"
    )
    if chat.card.needs_ticket:
        return (
            f"{sent}. The page says that the link is for another number; press Continue all the same, and ask for an "
            f"SMS. Her phone gets none: it goes to the number of the chat, {chat.phone}."
        )
    return f"{sent}: name yourself as {cast.victim.customer_id} and prove it with her code, as she would."


def _passed(chat: Conversation, cast: Cast) -> Story:
    customer = (chat.data or {}).get("customer_id", "")
    if customer == cast.attacker.customer_id:
        return Story(
            4, "The attacker is only himself", f"The chat knows {cast.attacker.name}, who chats. Nothing was won.", GOOD
        )
    how = _HOW.get(chat.card.relay_defence, "")
    return Story(4, f"The attack worked: the attacker's chat is now {cast.victim.name}", how, BAD)


_HOW: Mapping[str, str] = {
    "none": "She proved who she is, in her own browser, and the answer went to the chat that the link came from: his. "
    "Without a defence nothing stops this.",
    "chat_code": "The right code was typed into his chat, so somebody gave it to him. Her page warns against that; "
    "“phone_match” needs no such care.",
}
