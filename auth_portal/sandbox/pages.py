"""What people see and do in the sandbox: the start, a chat on a phone, the inbox; and the same for scripts.

A caller whose ``Accept`` names ``text/html`` is a browser, which is led from page to page; any other is a script and
gets JSON. Pages move without script: a waiting chat sends a ``Refresh`` header, which ``?live=1`` turns off for the
script that fetches the page itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import Blueprint, jsonify, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from auth_portal.clock import Clock, iso
from auth_portal.sandbox import facts
from auth_portal.sandbox.conversations import TEXT_LENGTH, Beginning, Conversation, Conversations
from auth_portal.sandbox.facts import (
    ApiCall,
    AskPortal,
    Cast,
    DemoPerson,
    FlowFault,
    JourneyCard,
    ReferenceStyle,
    read_json,
)
from auth_portal.sandbox.inbox import Inbox
from auth_portal.sandbox.receiver import Callbacks
from auth_portal.sandbox.story import STEPS, attack_story, nodes_of, players, plays_of, story_of, totp_seconds_left

REFRESH_SECONDS = 2
RECENT = 6
INBOX_PAGE = 50

Word = TypeVar("Word", ReferenceStyle, FlowFault)


class Refusal(Exception):
    """The sandbox cannot do what was asked; the text says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Sandbox:
    """What a sandbox consists of. With ``is_public`` strangers share it, so it lists no chats."""

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
        """Return the journeys that answer the sandbox, the default one first."""
        return sorted(self.journeys(), key=lambda card: not card.is_default)

    def ticket_for(self, card: JourneyCard, phone: str, reference: str) -> ApiCall | None:
        """Register a ticket as the flow's API node does before the link; None for a flow without such a node."""
        return self.ask_portal(facts.ticket_body(card, phone, reference)) if card.needs_ticket else None

    def get_chat(self, conversation_id: str) -> Conversation:
        """Return the chat of an address. Raise Refusal if there is none."""
        found = self.chats.find(conversation_id)
        if found is None:
            raise Refusal(404, "There is no such chat. Old ones are deleted; start a new one.")
        return found


class Pages:
    """What people see."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def add_rules(self, found: Blueprint) -> None:
        """Register the pages."""
        found.add_url_rule("/", "home", self.home)
        found.add_url_rule("/chat/<conversation_id>", "chat", self.chat)
        found.add_url_rule("/inbox", "inbox", self.inbox)
        found.add_url_rule("/attack", "attack", self.attack)

    def home(self) -> str:
        """Show what this is, a chat to start, and people to play."""
        sandbox = self._sandbox
        return render_template(
            "sandbox/home.html",
            journeys=sandbox.cards(),
            phones=facts.phones_of(sandbox.demo_people()),
            styles=list(ReferenceStyle),
            faults=list(FlowFault),
            recent=[] if sandbox.is_public else sandbox.chats.recent(RECENT),
            unmatched=[] if sandbox.is_public else sandbox.callbacks.unmatched(RECENT),
            is_public=sandbox.is_public,
            public_url=sandbox.public_url,
            **self._people(),
        )

    def chat(self, conversation_id: str) -> Response:
        """Show one chat on a phone, with what Flow saw."""
        chat = self._sandbox.get_chat(conversation_id)
        people = self._sandbox.demo_people()
        cast = facts.cast_of(people) if chat.is_attack else None
        sent = self._sent(chat, cast)
        is_live = "live" in request.args
        is_refreshing = chat.state == "waiting" and not is_live
        page = render_template(
            "sandbox/chat.html",
            chat=chat,
            story=attack_story(chat, cast, sent) if cast else story_of(chat),
            nodes=nodes_of(chat),
            phone=facts.phone_of(people, chat.phone),
            api_url=f"{self._sandbox.public_url}{facts.TICKETS_PATH}",
            cast=cast,
            sent=sent,
            steps=STEPS,
            faults=list(FlowFault),
            host=urlsplit(self._sandbox.public_url).netloc,
            is_live=is_live,
            is_refreshing=is_refreshing,
            text_length=TEXT_LENGTH,
            **self._people(),
        )
        response = make_response(page)
        if is_refreshing:
            response.headers["Refresh"] = str(REFRESH_SECONDS)
        return response

    def inbox(self) -> str:
        """Show every SMS and email as it looks on a phone."""
        to = request.args.get("to", "")
        return render_template("sandbox/inbox.html", messages=self._sandbox.inbox.newest(INBOX_PAGE, to), to=to)

    def attack(self) -> str:
        """Show the attack with a link that is sent on, to be played against each defence."""
        sandbox = self._sandbox
        return render_template(
            "sandbox/attack.html",
            cast=facts.cast_of(sandbox.demo_people()),
            plays=plays_of(sandbox.cards()),
            is_public=sandbox.is_public,
        )

    def _sent(self, chat: Conversation, cast: Cast | None) -> dict[str, int]:
        """Return how many messages each of the two phones of an attack got since the chat began, by number."""
        if cast is None:
            return {}
        began_at = chat.lines[0].at
        numbers = [facts.plain_number(person.phone) for person in (cast.victim, cast.attacker)]
        return {
            number: sum(message.at >= began_at for message in self._sandbox.inbox.newest(INBOX_PAGE, number))
            for number in numbers
        }

    def _people(self) -> dict[str, Any]:
        now = self._sandbox.clock()
        return {"players": players(self._sandbox.demo_people(), now), "totp_seconds": totp_seconds_left(now)}


class ChatMoves:
    """What people and scripts do to a chat."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._chats = sandbox.chats

    def add_rules(self, found: Blueprint) -> None:
        """Register the moves."""
        one = "/conversations/<conversation_id>"
        found.add_url_rule("/conversations", "start", self.start, methods=["POST"])
        found.add_url_rule(one, "state", self.state)
        found.add_url_rule(f"{one}/messages", "say", self.say, methods=["POST"])
        found.add_url_rule(f"{one}/again", "again", self.again, methods=["POST"])
        found.add_url_rule(f"{one}/fault", "set_fault", self.set_fault, methods=["POST"])

    def start(self) -> Response:
        """Start a chat that waits at the node of a journey: the default one, unless ``journey`` names another.

        ``phone`` is the number of the chat: the first one of the demo, unless another is given.
        """
        slug, sandbox = given("journey"), self._sandbox
        card = next((card for card in sandbox.cards() if slug in ("", card.slug)), None)
        if card is None:
            raise Refusal(404, "No journey with that name answers the sandbox. Its callback server must be “sandbox”.")
        style = chosen(ReferenceStyle, "reference_style", ReferenceStyle.PLAIN if card.waits else ReferenceStyle.RAW)
        fault, phone = chosen(FlowFault, "fault", FlowFault.NONE), self._phone()
        reference = facts.new_reference(style)
        call = sandbox.ticket_for(card, phone, reference)
        is_attack = given("attack") == "1"
        chat = self._chats.start(Beginning(card, reference, style, fault, phone, call, is_attack=is_attack))
        if is_browser():
            return _to_chat(chat.id)
        return make_response(jsonify(id=chat.id, link=chat.link, reference=chat.reference), 201)

    def state(self, conversation_id: str) -> Response:
        """Return all about one chat, for scripts."""
        return jsonify(state_of(self._sandbox.get_chat(conversation_id)))

    def say(self, conversation_id: str) -> Response:
        """Type into the chat as the customer."""
        text = given("text").strip()
        if not 0 < len(text) <= TEXT_LENGTH:
            raise Refusal(400, f"A message has 1 to {TEXT_LENGTH} characters.")
        self._sandbox.get_chat(conversation_id)
        return self._moved(conversation_id, is_done=self._chats.say(conversation_id, text))

    def again(self, conversation_id: str) -> Response:
        """Let the flow come back to the node and issue the same reference."""
        sandbox = self._sandbox
        chat = sandbox.get_chat(conversation_id)
        call = sandbox.ticket_for(chat.card, chat.phone, chat.reference) if chat.stage != "ended" else None
        return self._moved(conversation_id, is_done=self._chats.ask_again(conversation_id, call))

    def set_fault(self, conversation_id: str) -> Response:
        """Simulate another fault from now on."""
        self._sandbox.get_chat(conversation_id)
        self._chats.set_fault(conversation_id, chosen(FlowFault, "fault", FlowFault.NONE))
        return self._moved(conversation_id, is_done=True)

    def _moved(self, conversation_id: str, *, is_done: bool) -> Response:
        if not is_done:
            raise Refusal(409, "The chat session has ended. Start a new chat.")
        if is_browser():
            return _to_chat(conversation_id)
        return jsonify(state_of(self._sandbox.get_chat(conversation_id)))

    def _phone(self) -> str:
        """Return the chat's number: in a public sandbox one of the demo, as a ticket opens its holder's budget (R6)."""
        demo = [phone.number for phone in facts.phones_of(self._sandbox.demo_people())]
        try:
            number = facts.plain_number(given("phone") or demo[0])
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        if self._sandbox.is_public and number not in demo:
            raise Refusal(400, f"A chat of this public sandbox uses one of its own phones: {', '.join(demo)}.")
        return number


def _to_chat(conversation_id: str) -> Response:
    """Redirect a browser to the chat's page, without its header's refresh if it came from there."""
    return redirect(url_for("sandbox.chat", conversation_id=conversation_id, live=request.form.get("live")), 303)


def state_of(chat: Conversation) -> dict[str, Any]:
    """Return a chat in the words that scripts read."""
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
        "callbacks": [
            {
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
            for callback in chat.callbacks
        ],
        "messages": [{"from": line.speaker, "text": line.text, "at": iso(line.at)} for line in chat.lines],
    }


# --- Who asks, and what they sent


def refusal_page(error: Refusal) -> Response:
    """Return a page for a browser, JSON for a script."""
    body = render_template("sandbox/refused.html", text=error.text) if is_browser() else jsonify(error=error.text)
    return make_response(body, error.status)


def is_browser() -> bool:
    """Report whether a person is looking."""
    return not request.is_json and "text/html" in request.headers.get("Accept", "")


def given(name: str) -> str:
    """Return a field of the posted form or JSON object, "" where it is missing."""
    content = read_json(request.get_data()) if request.is_json else request.form
    value = content.get(name) if isinstance(content, Mapping) else None
    return value if isinstance(value, str) else ""


def chosen(words: type[Word], name: str, default: Word) -> Word:
    """Return the word in a field. Raise Refusal if it is none of ``words``."""
    try:
        return words(given(name) or default)
    except ValueError:
        raise Refusal(400, f"“{name}” must be one of: {', '.join(words)}.") from None
