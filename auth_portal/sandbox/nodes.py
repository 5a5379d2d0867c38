"""The flow node by node: what each one did in a chat, or will do, in the words of whoever builds it in Chat Flow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from auth_portal.sandbox.conversations import CODE_TRIES, MATCHED, Conversation
from auth_portal.sandbox.words import talk_of

DONE, NOW, AHEAD, STOPPED = "done", "now", "ahead", "stopped"


@dataclass(frozen=True)
class Branch:
    """One way out of a node: the value that it compares with (empty: anything else), and where it leads."""

    value: str
    leads_to: str
    is_taken: bool


@dataclass(frozen=True)
class Node:
    """One node. ``state``: done, now (the flow waits here), ahead (not reached) or stopped (it took the other way)."""

    name: str
    state: str
    text: str
    branches: tuple[Branch, ...] = ()


def nodes_of(chat: Conversation) -> list[Node]:
    """The nodes in the order in which the flow meets them."""
    return [*_before(chat), _link(chat), _logic(chat), *_compare(chat)]


def _before(chat: Conversation) -> Iterator[Node]:
    if chat.card.waits:
        yield Node("Set Variable", DONE, "Made a UUID, the reference that the answer will name.")
    if chat.call is None:
        return
    asked = f"Before the link, told the portal that this chat has the number {chat.phone}, and what is to be confirmed."
    if chat.call.link:
        yield Node("API Integration", DONE, f"{asked} The portal answered with a ticket: a link for this chat alone.")
    else:
        text = f"{asked} The portal answered {chat.call.status}: no ticket. So no link is sent."
        yield Node("API Integration", STOPPED, text)


def _link(chat: Conversation) -> Node:
    name = "Message, then Wait for Callback" if chat.card.waits else "External Link"
    what = "the link of the ticket" if chat.call is not None else "the link"
    if chat.stage == "no_ticket":
        return Node(name, AHEAD, f"Would send {what} and wait for the answer.")
    if chat.stage == "waiting":
        return Node(name, NOW, f"Sent {what} and waits for the answer to its reference.")
    if chat.result is None:
        return Node(name, STOPPED, "The session ended before an answer came.")
    return Node(name, DONE, f"Sent {what} and got the answer “{chat.result}” for its reference.")


def _logic(chat: Conversation) -> Node:
    is_success, card = chat.result is not None and chat.result == chat.card.success, chat.card
    success = "goes on to the compare node" if card.compares else talk_of(card).goal
    branches = (
        Branch(card.success, success, is_success),
        Branch("", "“We could not verify you”", chat.result is not None and not is_success),
    )
    state = AHEAD if chat.result is None else DONE if is_success else STOPPED
    return Node("Logic section", state, "Compares the result.", branches)


def _compare(chat: Conversation) -> Iterator[Node]:
    card = chat.card
    if not card.compares:
        return
    if chat.result is None or chat.result != card.success:
        yield Node("Compare", AHEAD, _rule(chat))
    elif card.uses_chat_code:
        yield Node("Compare", _state_of_code(chat), f"{_rule(chat)} {_codes_typed(chat)}")
    else:
        value = (chat.data or {}).get(card.compares, "")
        is_equal = value == MATCHED
        found = f"It is “{value}”: {talk_of(card).goal}." if is_equal else f"It is “{value}”: the flow stops."
        yield Node("Compare", DONE if is_equal else STOPPED, f"{_rule(chat)} {found}")


def _rule(chat: Conversation) -> str:
    if chat.card.uses_chat_code:
        return f"Asks for the code on the page and compares it with {chat.card.compares}, {CODE_TRIES} times at most."
    return f"Lets through only where {chat.card.compares} is “{MATCHED}”."


def _state_of_code(chat: Conversation) -> str:
    return {"code": NOW, "thanked": DONE}.get(chat.stage, STOPPED)


def _codes_typed(chat: Conversation) -> str:
    if chat.stage == "thanked":
        return f"They are equal: {talk_of(chat.card).goal}."
    if chat.stage == "refused":
        return "None of them was equal: the flow stops."
    return f"Waits for it; wrong so far: {chat.wrong_codes}." if chat.stage == "code" else "The session ended first."
