"""Flow's side of ``/callback`` and ``/chat/callback``: what is matched, what is refused, and faults on demand.

Strict on purpose, with the reason kept for whoever wonders about a 400: the real Flow only says 400.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from auth_portal.clock import Clock
from auth_portal.sandbox.contract import Contract, Fault
from auth_portal.sandbox.conversations import (
    Callback,
    Conversation,
    end_session,
    find_by_reference,
    read_callback,
    take_answer,
)
from auth_portal.sandbox.database import Database, prune
from auth_portal.sandbox.documents import read_json

BODY_BYTES = 20_000
PATHS: Mapping[Contract, str] = {"external_link": "/callback", "wait_for_callback": "/chat/callback"}
SUCCESS: Mapping[Contract, int] = {"external_link": 200, "wait_for_callback": 202}
DATA_KEY = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Arrival:
    """A request to one of the two paths, as it came."""

    contract: Contract
    header: str | None
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Parsed:
    """A body that keeps the contract, or the first reason why it does not."""

    result: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """What Flow does with an arrival. ``is_silent``: the connection closes without a reply."""

    status: int
    why: str
    is_accepted: bool = False
    is_silent: bool = False
    ends_session: bool = False


class Callbacks:
    """Receives callbacks and remembers every one, matched or not."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def fault_for(self, reference: str | None) -> Fault:
        """The fault that is set for a reference, needed before the answer is made: slowness comes first."""
        with self._database.reading() as connection:
            chat = find_by_reference(connection, reference or "", self._clock())
            return chat.fault if chat else Fault.NONE

    def receive(self, arrival: Arrival) -> Answer:
        """Matches, records and answers in one transaction: of two at once only one is accepted."""
        now = self._clock()
        parsed = parse(arrival)
        with self._database.writing() as connection:
            chat = find_by_reference(connection, arrival.header or "", now)
            earlier = 0
            if chat:
                counted = "SELECT count(*) FROM callbacks WHERE conversation = ? AND round = ?"
                earlier = connection.execute(counted, (chat.id, chat.round)).fetchone()[0]
            answer = _decide(arrival, parsed, chat, earlier)
            connection.execute(
                "INSERT INTO callbacks (conversation, round, path, header, body, status, is_accepted, why, at)"
                " VALUES (?,?,?,?,?,?,?,?,?)",
                _row(arrival, chat, answer, now),
            )
            prune(connection, "callbacks")
            if chat and answer.is_accepted:
                take_answer(connection, chat, parsed.result, parsed.data)
            if chat and answer.ends_session:
                end_session(connection, chat)
            return answer

    def unmatched(self, count: int) -> list[Callback]:
        """The newest callbacks for which no chat was found."""
        query = "SELECT * FROM callbacks WHERE conversation IS NULL ORDER BY number DESC LIMIT ?"
        with self._database.reading() as connection:
            return [read_callback(row) for row in connection.execute(query, (count,))]


def parse(arrival: Arrival) -> Parsed:
    """Reads a callback by the letter of the contract."""
    if not arrival.header:
        return Parsed(reason="The header “reference” is missing.")
    if arrival.content_type != "application/json":
        return Parsed(reason="The content type is not application/json.")
    if len(arrival.body) > BODY_BYTES:
        return Parsed(reason=f"The body has more than {BODY_BYTES} bytes.")
    content = read_json(arrival.body)
    if content is None:
        return Parsed(reason="The body is not JSON in UTF-8.")
    if not isinstance(content, dict):
        return Parsed(reason="The body is not a JSON object.")
    return _parse_fields(arrival.header, content)


def _parse_fields(header: str, content: dict[str, object]) -> Parsed:
    result, data = content.get("result"), content.get("data", {})
    if not isinstance(result, str):
        return Parsed(reason="“result” is missing or is not a string.")
    if content.get("reference") != header:
        return Parsed(reason="“reference” in the body does not equal the header.")
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        return Parsed(reason="“data” may only hold strings.")
    if bad := [key for key in data if not DATA_KEY.fullmatch(key)]:
        return Parsed(reason=f"A key in “data” may only have a-z, 0-9 and _: {bad[0][:60]!r} is not one.")
    return Parsed(result, data)


def _decide(arrival: Arrival, parsed: Parsed, chat: Conversation | None, earlier: int) -> Answer:
    if parsed.reason:
        return Answer(400, parsed.reason)
    if chat is None:
        return Answer(400, "No chat here has this reference.")
    if chat.card.contract != arrival.contract:
        return Answer(400, f"This node listens at {PATHS[chat.card.contract]}, not at {PATHS[arrival.contract]}.")
    if chat.stage == "ended":
        return Answer(400, "The chat session had ended.")
    if chat.stage != "waiting":
        return Answer(400, "This chat has its answer already and waits for none.")
    accepted = Answer(SUCCESS[arrival.contract], "Matched: the chat was waiting for this reference.", is_accepted=True)
    if chat.fault in ONLY_FIRST and earlier:
        return accepted
    return SIMULATED.get(chat.fault, accepted)


ONLY_FIRST = frozenset({Fault.ERROR_ONCE, Fault.NO_REPLY})
SIMULATED: Mapping[Fault, Answer] = {
    Fault.REFUSED: Answer(400, "Refused, as you asked."),
    Fault.ERROR_ONCE: Answer(500, "Broken once, as you asked."),
    Fault.ERROR: Answer(500, "Broken, as you asked."),
    Fault.LOST_REPLY: Answer(200, "Matched, but the reply was lost, as you asked.", is_accepted=True, is_silent=True),
    Fault.NO_REPLY: Answer(500, "The connection dropped, as you asked.", is_silent=True),
    Fault.SESSION_ENDED: Answer(400, "The chat session had ended, as you asked.", ends_session=True),
}


def _row(arrival: Arrival, chat: Conversation | None, answer: Answer, now: datetime) -> tuple[object, ...]:
    body = arrival.body[:BODY_BYTES].decode("utf-8", "replace")
    header = arrival.header[:1000] if arrival.header is not None else None
    status = None if answer.is_silent else answer.status
    return (
        chat.id if chat else None, chat.round if chat else 0, PATHS[arrival.contract], header, body, status,
        answer.is_accepted, answer.why, now.timestamp(),
    )  # fmt: skip
