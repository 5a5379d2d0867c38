"""What people look at: the start, a chat on a phone, the inbox.

Pages move without script: a waiting chat sends a ``Refresh`` header, which ``?live=1`` turns off for the script
that fetches the page itself.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, make_response, render_template, request
from werkzeug.wrappers import Response

from auth_portal.sandbox.asking import get_chat
from auth_portal.sandbox.attack import attack_story, plays_of
from auth_portal.sandbox.contract import Fault, ReferenceStyle
from auth_portal.sandbox.conversations import TEXT_LENGTH, Conversation
from auth_portal.sandbox.nodes import nodes_of
from auth_portal.sandbox.parts import Parts
from auth_portal.sandbox.phones import Cast, cast_of, phone_of, phones_of, plain
from auth_portal.sandbox.story import STEPS, players, story_of, totp_seconds_left
from auth_portal.sandbox.tickets import PATH

REFRESH_SECONDS = 2
RECENT = 6
INBOX_PAGE = 50


class Pages:
    """What people look at."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def add_rules(self, found: Blueprint) -> None:
        """The pages' addresses."""
        found.add_url_rule("/", "home", self.home)
        found.add_url_rule("/chat/<conversation_id>", "chat", self.chat)
        found.add_url_rule("/inbox", "inbox", self.inbox)
        found.add_url_rule("/attack", "attack", self.attack)

    def home(self) -> str:
        """What this is, a chat to start, and people to be."""
        parts = self._parts
        return render_template(
            "sandbox/home.html",
            journeys=parts.cards(),
            phones=phones_of(parts.demo_people()),
            styles=list(ReferenceStyle),
            faults=list(Fault),
            recent=[] if parts.is_public else parts.chats.recent(RECENT),
            unmatched=[] if parts.is_public else parts.callbacks.unmatched(RECENT),
            is_public=parts.is_public,
            public_url=parts.public_url,
            **self._people(),
        )

    def chat(self, conversation_id: str) -> Response:
        """One chat on a phone, and beside it what Flow saw."""
        chat = get_chat(self._parts.chats, conversation_id)
        people = self._parts.demo_people()
        cast = cast_of(people) if chat.is_attack else None
        sent = self._sent(chat, cast)
        is_live = "live" in request.args
        is_refreshing = chat.state == "waiting" and not is_live
        page = render_template(
            "sandbox/chat.html",
            chat=chat,
            story=attack_story(chat, cast, sent) if cast else story_of(chat),
            nodes=nodes_of(chat),
            phone=phone_of(people, chat.phone),
            api_url=f"{self._parts.public_url}{PATH}",
            cast=cast,
            sent=sent,
            steps=STEPS,
            faults=list(Fault),
            host=urlsplit(self._parts.public_url).netloc,
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
        """Every SMS and e-mail, as it would look on a phone."""
        to = request.args.get("to", "")
        return render_template("sandbox/inbox.html", messages=self._parts.inbox.newest(INBOX_PAGE, to), to=to)

    def attack(self) -> str:
        """The attack by a link that is sent on, to be played against each defence."""
        parts = self._parts
        return render_template(
            "sandbox/attack.html",
            cast=cast_of(parts.demo_people()),
            plays=plays_of(parts.cards()),
            is_public=parts.is_public,
        )

    def _sent(self, chat: Conversation, cast: Cast | None) -> dict[str, int]:
        """How many messages each of the two phones of an attack got since the chat began, by number."""
        if cast is None:
            return {}
        began_at = chat.lines[0].at
        numbers = [plain(person.phone) for person in (cast.victim, cast.attacker)]
        return {
            number: sum(message.at >= began_at for message in self._parts.inbox.newest(INBOX_PAGE, number))
            for number in numbers
        }

    def _people(self) -> dict[str, Any]:
        now = self._parts.clock()
        return {"players": players(self._parts.demo_people(), now), "totp_seconds": totp_seconds_left(now)}
