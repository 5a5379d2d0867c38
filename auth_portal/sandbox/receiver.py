"""Flow's side of ``/callback`` and ``/chat/callback``: what is matched, what is refused, and faults on demand.

Strict on purpose, with the reason of each 400 on the page of the chat: the real Flow only answers 400.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Response, request

from auth_portal.clock import Clock
from auth_portal.sandbox.conversations import (
    Conversation,
    ReceivedCallback,
    end_session,
    find_by_reference,
    read_callback,
    take_answer,
)
from auth_portal.sandbox.database import SandboxFile, prune
from auth_portal.sandbox.facts import Contract, FlowFault, read_json

BODY_BYTES = 20_000
PATHS: Mapping[Contract, str] = {"external_link": "/callback", "wait_for_callback": "/chat/callback"}
SUCCESS: Mapping[Contract, int] = {"external_link": 200, "wait_for_callback": 202}
DATA_KEY = re.compile(r"[a-z0-9_]+")
SLOW_SECONDS = 6.0
SILENT_SECONDS = 10.0  # longer than the 8 s that the portal waits


@dataclass(frozen=True)
class Arrival:
    """A request to one of the two paths, as it came."""

    contract: Contract
    header: str | None
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Content:
    """The content of a body that follows the contract, or the first reason why it does not."""

    result: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class FlowReply:
    """What Flow does with an arrival. With ``is_silent`` the connection closes without a reply."""

    status: int
    why: str
    is_accepted: bool = False
    is_silent: bool = False
    ends_session: bool = False


class Callbacks:
    """Receive callbacks and record every one, matched or not."""

    def __init__(self, file: SandboxFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock

    def fault_for(self, reference: str | None) -> FlowFault:
        """Return the fault that is set for a reference, needed before the answer is decided: slowness comes first."""
        with self._file.reading() as connection:
            chat = find_by_reference(connection, reference or "", self._clock())
            return chat.fault if chat else FlowFault.NONE

    def receive(self, arrival: Arrival) -> FlowReply:
        """Match, record and answer in one transaction: of two at once only one is accepted."""
        now = self._clock()
        content = read_content(arrival)
        with self._file.writing() as connection:
            chat = find_by_reference(connection, arrival.header or "", now)
            earlier = 0
            if chat:
                counted = "SELECT count(*) FROM callbacks WHERE conversation = ? AND round = ?"
                earlier = connection.execute(counted, (chat.id, chat.round)).fetchone()[0]
            answer = _decide(arrival, content, chat, earlier)
            connection.execute(
                "INSERT INTO callbacks (conversation, round, path, header, body, status, is_accepted, why, at)"
                " VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    chat.id if chat else None,
                    chat.round if chat else 0,
                    PATHS[arrival.contract],
                    arrival.header[:1000] if arrival.header is not None else None,
                    arrival.body[:BODY_BYTES].decode("utf-8", "replace"),
                    None if answer.is_silent else answer.status,
                    answer.is_accepted,
                    answer.why,
                    now.timestamp(),
                ),
            )
            prune(connection, "callbacks")
            if chat and answer.is_accepted:
                take_answer(connection, chat, content.result, content.data)
            if chat and answer.ends_session:
                end_session(connection, chat)
            return answer

    def unmatched(self, count: int) -> list[ReceivedCallback]:
        """Return the newest callbacks for which no chat was found."""
        query = "SELECT * FROM callbacks WHERE conversation IS NULL ORDER BY number DESC LIMIT ?"
        with self._file.reading() as connection:
            return [read_callback(row) for row in connection.execute(query, (count,))]


def read_content(arrival: Arrival) -> Content:
    """Read a callback by the letter of the contract."""
    if not arrival.header:
        return Content(reason="The header “reference” is missing.")
    if arrival.content_type != "application/json":
        return Content(reason="The content type is not application/json.")
    if len(arrival.body) > BODY_BYTES:
        return Content(reason=f"The body has more than {BODY_BYTES} bytes.")
    body = read_json(arrival.body)
    if body is None:
        return Content(reason="The body is not JSON in UTF-8.")
    if not isinstance(body, dict):
        return Content(reason="The body is not a JSON object.")
    return _read_fields(arrival.header, body)


def _read_fields(header: str, body: dict[str, object]) -> Content:
    result, data = body.get("result"), body.get("data", {})
    if not isinstance(result, str):
        return Content(reason="“result” is missing or is not a string.")
    if body.get("reference") != header:
        return Content(reason="“reference” in the body does not equal the header.")
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        return Content(reason="“data” may only hold strings.")
    if bad := [key for key in data if not DATA_KEY.fullmatch(key)]:
        return Content(reason=f"A key in “data” may only have a-z, 0-9 and _: {bad[0][:60]!r} is not one.")
    return Content(result, data)


def _decide(arrival: Arrival, content: Content, chat: Conversation | None, earlier: int) -> FlowReply:
    if content.reason:
        return FlowReply(400, content.reason)
    if chat is None:
        return FlowReply(400, "No chat here has this reference.")
    if chat.card.contract != arrival.contract:
        return FlowReply(400, f"This node listens at {PATHS[chat.card.contract]}, not at {PATHS[arrival.contract]}.")
    if chat.stage == "ended":
        return FlowReply(400, "The chat session had ended.")
    if chat.stage != "waiting":
        return FlowReply(400, "This chat already has its result and waits for none.")
    accepted = FlowReply(
        SUCCESS[arrival.contract], "Matched: the chat was waiting for this reference.", is_accepted=True
    )
    if chat.fault in ONLY_FIRST and earlier:
        return accepted
    return SIMULATED.get(chat.fault, accepted)


ONLY_FIRST = frozenset({FlowFault.ERROR_ONCE, FlowFault.NO_REPLY})
SIMULATED: Mapping[FlowFault, FlowReply] = {
    FlowFault.REFUSED: FlowReply(400, "Refused, as you asked."),
    FlowFault.ERROR_ONCE: FlowReply(500, "Broken once, as you asked."),
    FlowFault.ERROR: FlowReply(500, "Broken, as you asked."),
    FlowFault.LOST_REPLY: FlowReply(
        200, "Matched, but the reply was lost, as you asked.", is_accepted=True, is_silent=True
    ),
    FlowFault.NO_REPLY: FlowReply(500, "The connection dropped, as you asked.", is_silent=True),
    FlowFault.SESSION_ENDED: FlowReply(400, "The chat session had ended, as you asked.", ends_session=True),
}


# --- The endpoints


class Patience:
    """Delay a request for a simulated fault, in a public sandbox only so many at once."""

    def __init__(self, sleep: Callable[[float], None], at_once: int | None) -> None:
        self._sleep = sleep
        self._places = threading.BoundedSemaphore(at_once) if at_once else None

    def hold(self, seconds: float) -> None:
        """Wait, or return immediately if all places are taken."""
        if self._places is None:
            self._sleep(seconds)
        elif self._places.acquire(blocking=False):
            try:
                self._sleep(seconds)
            finally:
                self._places.release()


class FlowEndpoints:
    """The two endpoints that the portal posts results to."""

    def __init__(self, callbacks: Callbacks, patience: Patience) -> None:
        self._callbacks = callbacks
        self._patience = patience

    def add_rules(self, found: Blueprint) -> None:
        """Register the endpoints."""
        found.add_url_rule(PATHS["external_link"], "external_link", self.external_link, methods=["POST"])
        found.add_url_rule(PATHS["wait_for_callback"], "wait_for_callback", self.wait_for_callback, methods=["POST"])

    def external_link(self) -> Response:
        """Receive a callback for the External Link node."""
        return self._receive("external_link")

    def wait_for_callback(self) -> Response:
        """Receive a callback for the Wait for Callback node."""
        return self._receive("wait_for_callback")

    def _receive(self, contract: Contract) -> Response:
        body = request.stream.read(BODY_BYTES + 1)
        arrival = Arrival(contract, request.headers.get("reference"), request.mimetype, body)
        if self._callbacks.fault_for(arrival.header) is FlowFault.SLOW:
            self._patience.hold(SLOW_SECONDS)
        answer = self._callbacks.receive(arrival)
        if answer.is_silent and not hang_up(request.environ):
            self._patience.hold(SILENT_SECONDS)
        return Response(status=answer.status)


def hang_up(environ: Mapping[str, Any]) -> bool:
    """Close the connection without an answer. Return False where that is impossible or a proxy stands between.

    A proxy would turn it into a 502, which is an answer; there, silence loses the reply more faithfully.
    """
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if connection is None or "HTTP_X_FORWARDED_FOR" in environ:
        return False
    connection.shutdown(socket.SHUT_RDWR)
    return True
