"""Who asks, and what they sent: a browser is led from page to page, a script gets JSON.

A caller whose ``Accept`` names ``text/html`` is a browser; only browsers do that unasked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from flask import jsonify, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from auth_portal.sandbox.contract import Fault, ReferenceStyle
from auth_portal.sandbox.conversations import Conversation, Conversations
from auth_portal.sandbox.documents import read_json

Word = TypeVar("Word", ReferenceStyle, Fault)


class Refusal(Exception):
    """The sandbox cannot do what was asked; the text says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def refused(error: Refusal) -> Response:
    """A page for a browser, JSON for a script."""
    body = render_template("sandbox/refused.html", text=error.text) if is_browser() else jsonify(error=error.text)
    return make_response(body, error.status)


def is_browser() -> bool:
    """Whether a person is looking."""
    return not request.is_json and "text/html" in request.headers.get("Accept", "")


def given(name: str) -> str:
    """A field of the form or of the JSON object that was posted, empty where it is missing."""
    content = read_json(request.get_data()) if request.is_json else request.form
    value = content.get(name) if isinstance(content, Mapping) else None
    return value if isinstance(value, str) else ""


def chosen(words: type[Word], name: str, default: Word) -> Word:
    """One of the words that a field may hold."""
    try:
        return words(given(name) or default)
    except ValueError:
        raise Refusal(400, f"“{name}” must be one of: {', '.join(words)}.") from None


def get_chat(chats: Conversations, conversation_id: str) -> Conversation:
    """The chat of an address. Raises Refusal."""
    found = chats.find(conversation_id)
    if found is None:
        raise Refusal(404, "There is no such chat. Old ones are cleared away; start a new one.")
    return found


def to_chat(conversation_id: str) -> Response:
    """Leads a browser to the chat's page, to the script's way of it where it came from there."""
    return redirect(url_for("sandbox.chat", conversation_id=conversation_id, live=request.form.get("live")), 303)
