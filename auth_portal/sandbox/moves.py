"""What people and scripts do to a chat, and how scripts see it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import Blueprint, jsonify, make_response
from werkzeug.wrappers import Response

from auth_portal.clock import iso
from auth_portal.sandbox.asking import Refusal, chosen, get_chat, given, is_browser, to_chat
from auth_portal.sandbox.contract import Fault, JourneyCard, ReferenceStyle
from auth_portal.sandbox.conversations import TEXT_LENGTH, Beginning, Callback, Conversation
from auth_portal.sandbox.nodes import nodes_of
from auth_portal.sandbox.parts import Parts
from auth_portal.sandbox.phones import phones_of, plain
from auth_portal.sandbox.references import new_reference


class Moves:
    """What people and scripts do to a chat."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._chats = parts.chats

    def add_rules(self, found: Blueprint) -> None:
        """The moves' addresses."""
        one = "/conversations/<conversation_id>"
        found.add_url_rule("/conversations", "start", self.start, methods=["POST"])
        found.add_url_rule(one, "state", self.state)
        found.add_url_rule(f"{one}/messages", "say", self.say, methods=["POST"])
        found.add_url_rule(f"{one}/again", "again", self.again, methods=["POST"])
        found.add_url_rule(f"{one}/fault", "set_fault", self.set_fault, methods=["POST"])

    def start(self) -> Response:
        """A new chat that waits at the node of a journey, the default one unless ``journey`` names another.

        ``phone`` is the number that the chat belongs to, the first one of the demo unless another is given.
        """
        chat = self._chats.start(self._beginning(self._card(given("journey"))))
        if is_browser():
            return to_chat(chat.id)
        return make_response(jsonify(id=chat.id, link=chat.link, reference=chat.reference), 201)

    def state(self, conversation_id: str) -> Response:
        """All about one chat, for scripts."""
        return jsonify(state_of(get_chat(self._chats, conversation_id)))

    def say(self, conversation_id: str) -> Response:
        """The customer types into the chat."""
        text = given("text").strip()
        if not 0 < len(text) <= TEXT_LENGTH:
            raise Refusal(400, f"A message has 1 to {TEXT_LENGTH} characters.")
        get_chat(self._chats, conversation_id)
        return self._moved(conversation_id, is_done=self._chats.say(conversation_id, text))

    def again(self, conversation_id: str) -> Response:
        """The flow comes back to the node and issues the same reference."""
        chat, parts = get_chat(self._chats, conversation_id), self._parts
        call = parts.ticket_for(chat.card, chat.phone, chat.reference) if chat.stage != "ended" else None
        return self._moved(conversation_id, is_done=self._chats.ask_again(conversation_id, call))

    def set_fault(self, conversation_id: str) -> Response:
        """Another fault from now on."""
        get_chat(self._chats, conversation_id)
        self._chats.set_fault(conversation_id, chosen(Fault, "fault", Fault.NONE))
        return self._moved(conversation_id, is_done=True)

    def _moved(self, conversation_id: str, *, is_done: bool) -> Response:
        if not is_done:
            raise Refusal(409, "The chat session has ended. Start a new chat.")
        if is_browser():
            return to_chat(conversation_id)
        return jsonify(state_of(get_chat(self._chats, conversation_id)))

    def _beginning(self, card: JourneyCard) -> Beginning:
        style = chosen(ReferenceStyle, "reference_style", ReferenceStyle.PLAIN if card.waits else ReferenceStyle.RAW)
        fault, phone = chosen(Fault, "fault", Fault.NONE), self._phone()
        reference = new_reference(style)
        call = self._parts.ticket_for(card, phone, reference)
        return Beginning(card, reference, style, fault, phone, call, is_attack=given("attack") == "1")

    def _phone(self) -> str:
        """The chat's number. Strangers have tickets made for no other: one opens a budget of its holder (R6)."""
        demo = [phone.number for phone in phones_of(self._parts.demo_people())]
        try:
            number = plain(given("phone") or demo[0])
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        if self._parts.is_public and number not in demo:
            raise Refusal(400, f"A chat of this public sandbox is on one of its own phones: {', '.join(demo)}.")
        return number

    def _card(self, slug: str) -> JourneyCard:
        found = next((card for card in self._parts.cards() if slug in ("", card.slug)), None)
        if found is None:
            raise Refusal(404, "No journey of that name answers the sandbox. Its callback server must be “sandbox”.")
        return found


def state_of(chat: Conversation) -> dict[str, Any]:
    """A chat in the words that scripts read."""
    return {
        "id": chat.id,
        "journey": chat.card.slug,
        "phone": chat.phone,
        "reference": chat.reference,
        "link": chat.link,
        "fault": chat.fault,
        "round": chat.round,
        "state": chat.state,
        "stage": chat.stage,
        "seconds_left": chat.seconds_left,
        "result": chat.result,
        "data": chat.data,
        "api_call": asdict(chat.call) if chat.call else None,
        "nodes": [asdict(node) for node in nodes_of(chat)],
        "callbacks": [_callback_state(callback) for callback in chat.callbacks],
        "messages": [{"from": line.speaker, "text": line.text, "at": iso(line.at)} for line in chat.lines],
    }


def _callback_state(callback: Callback) -> dict[str, Any]:
    return {
        "at": iso(callback.at),
        "round": callback.round,
        "path": callback.path,
        "header_reference": callback.header,
        "body": callback.content,
        "raw": callback.body,
        "status": callback.status,
        "is_accepted": callback.is_accepted,
        "why": callback.why,
    }
