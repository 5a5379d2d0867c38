"""Chats that wait at an External Link node: who said what, where each stands, and what the flow does next.

::

    waiting --answer: success text--------------------------> thanked
    waiting --answer: success text, flow compares a code----> code --right--> thanked
    waiting --answer: any other text------------------------> refused       `--wrong, 3 times--> refused
    waiting, code --no message for the length of the clock--> ended
    any but ended --the flow loops back to the node---------> waiting, same reference, next round
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

from auth_portal.clock import Clock
from auth_portal.sandbox.contract import Fault, JourneyCard, ReferenceStyle
from auth_portal.sandbox.database import Database, prune
from auth_portal.sandbox.documents import read_json
from auth_portal.sandbox.references import link_for, new_reference

STATES = {"waiting": "waiting", "code": "answered", "thanked": "answered", "refused": "answered", "ended": "ended"}
CODE_TRIES = 3
TEXT_LENGTH = 500
PERSON, BUSINESS, LINK = "person", "business", "link"

OPENING = "Hi, I want to see my balance"
ASK = "Of course. To continue I need to know it's you. Please tap the link; it opens our page in your browser."
WISH = "Please ask me again"
ASK_AGAIN = "Let me check once more that it's you. Here is the link again."
ASK_CODE = "Almost there. Please type the code that our page shows you now."
REFUSED = "We could not verify you, so I cannot show your balance."


@dataclass(frozen=True)
class Line:
    """One bubble; ``link`` is the External Link's card."""

    speaker: str
    text: str
    at: datetime


@dataclass(frozen=True)
class Callback:
    """One request that reached Flow, what Flow answered (None: nothing), and why."""

    round: int
    path: str
    header: str | None
    body: str
    status: int | None
    is_accepted: bool
    why: str
    at: datetime

    @property
    def content(self) -> object:
        """The body as JSON, or as plain text where it is none."""
        found = read_json(self.body)
        return self.body if found is None else found

    @property
    def body_reference(self) -> str | None:
        """The reference that the body names."""
        content = self.content
        found = content.get("reference") if isinstance(content, dict) else None
        return found if isinstance(found, str) else None


@dataclass(frozen=True)
class Conversation:
    """A chat at one moment. ``stage`` is where the flow stands, ``state`` the same in the words of the contract."""

    id: str
    card: JourneyCard
    reference: str
    link: str
    style: ReferenceStyle
    fault: Fault
    round: int
    stage: str
    wrong_codes: int
    result: str | None
    data: Mapping[str, str] | None
    heard_at: datetime
    seen_at: datetime
    lines: tuple[Line, ...] = ()
    callbacks: tuple[Callback, ...] = ()

    @property
    def state(self) -> str:
        """``waiting``, ``answered`` or ``ended``."""
        return STATES[self.stage]

    @property
    def seconds_left(self) -> int:
        """What is left of the session if nobody writes."""
        ends_at = self.heard_at + timedelta(seconds=self.card.chat_seconds)
        return max(0, int((ends_at - self.seen_at).total_seconds()))

    @property
    def answer(self) -> Callback | None:
        """The callback that this round accepted."""
        return next((found for found in reversed(self.this_round) if found.is_accepted), None)

    @property
    def this_round(self) -> tuple[Callback, ...]:
        """The callbacks since the node last issued its link."""
        return tuple(found for found in self.callbacks if found.round == self.round)


class Conversations:
    """Reads and writes chats. Each method is one transaction."""

    def __init__(self, database: Database, clock: Clock, public_url: str) -> None:
        self._database = database
        self._clock = clock
        self._public_url = public_url

    def start(self, card: JourneyCard, style: ReferenceStyle, fault: Fault) -> Conversation:
        """A customer writes, and the flow reaches its node."""
        conversation_id, reference = secrets.token_urlsafe(9), new_reference(style)
        link = link_for(self._public_url, card, reference, style)
        now = self._clock()
        with self._database.writing() as connection:
            connection.execute(
                "INSERT INTO conversations (id, reference, card, link, style, fault, heard_at) VALUES (?,?,?,?,?,?,?)",
                (conversation_id, reference, json.dumps(asdict(card)), link, style, fault, now.timestamp()),
            )
            _write(connection, conversation_id, now, (PERSON, OPENING), (BUSINESS, ASK), (LINK, link))
            prune(connection, "conversations")
            return _get(connection, conversation_id, now)

    def find(self, conversation_id: str) -> Conversation | None:
        """A chat with all that was said and received."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT * FROM conversations WHERE id = ?", (conversation_id,)).fetchone()
            return _whole(connection, row, self._clock()) if row else None

    def recent(self, count: int) -> list[Conversation]:
        """The newest chats, without their lines."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM conversations ORDER BY number DESC LIMIT ?", (count,)).fetchall()
            return [_bare(row, self._clock()) for row in rows]

    def set_fault(self, conversation_id: str, fault: Fault) -> None:
        """What goes wrong with callbacks from now on."""
        with self._database.writing() as connection:
            connection.execute("UPDATE conversations SET fault = ? WHERE id = ?", (fault, conversation_id))

    def say(self, conversation_id: str, text: str) -> bool:
        """The customer types. False where the session has ended and nobody listens."""
        now = self._clock()
        with self._database.writing() as connection:
            found = _get(connection, conversation_id, now)
            if found.stage == "ended":
                return False
            stage, reply = _reply(found, text)
            connection.execute(
                "UPDATE conversations SET stage = ?, heard_at = ?, wrong_codes = wrong_codes + ? WHERE id = ?",
                (stage, now.timestamp(), found.stage == "code" and stage != "thanked", conversation_id),
            )
            _write(connection, conversation_id, now, (PERSON, text), (BUSINESS, reply))
            return True

    def ask_again(self, conversation_id: str) -> bool:
        """The flow loops: the node issues the same reference and waits anew. False where the session has ended."""
        now = self._clock()
        with self._database.writing() as connection:
            found = _get(connection, conversation_id, now)
            if found.stage == "ended":
                return False
            connection.execute(
                "UPDATE conversations SET stage = 'waiting', round = round + 1, wrong_codes = 0, result = NULL,"
                " data = NULL, heard_at = ? WHERE id = ?",
                (now.timestamp(), conversation_id),
            )
            _write(connection, conversation_id, now, (PERSON, WISH), (BUSINESS, ASK_AGAIN), (LINK, found.link))
            return True


def find_by_reference(connection: sqlite3.Connection, reference: str, now: datetime) -> Conversation | None:
    """The chat that a reference belongs to, without its lines."""
    row = connection.execute("SELECT * FROM conversations WHERE reference = ?", (reference,)).fetchone()
    return _bare(row, now) if row else None


def take_answer(connection: sqlite3.Connection, chat: Conversation, result: str, data: Mapping[str, str]) -> None:
    """The node's Logic section compares the result, and the flow goes on."""
    stage, reply = _branch(chat.card, result, data)
    connection.execute(
        "UPDATE conversations SET stage = ?, result = ?, data = ? WHERE id = ?",
        (stage, result, json.dumps(data), chat.id),
    )
    _write(connection, chat.id, chat.seen_at, (BUSINESS, reply))


def end_session(connection: sqlite3.Connection, chat: Conversation) -> None:
    """Flow forgets that it waited."""
    connection.execute("UPDATE conversations SET stage = 'ended' WHERE id = ?", (chat.id,))


def read_callback(row: sqlite3.Row) -> Callback:
    """A stored callback."""
    return Callback(
        row["round"], row["path"], row["header"], row["body"], row["status"], bool(row["is_accepted"]), row["why"],
        moment(row["at"]),
    )  # fmt: skip


def moment(timestamp: float) -> datetime:
    """A stored time."""
    return datetime.fromtimestamp(timestamp, UTC)


def _branch(card: JourneyCard, result: str, data: Mapping[str, str]) -> tuple[str, str]:
    if result != card.success:
        return "refused", REFUSED
    if card.uses_chat_code:
        return "code", ASK_CODE
    return "thanked", _thanks(data)


def _reply(chat: Conversation, text: str) -> tuple[str, str]:
    if chat.stage == "waiting":
        return "waiting", "I am still waiting for you. Please tap the link above."
    if chat.stage == "code":
        return _compare(chat, text)
    return chat.stage, "That is all I can do here. To see the link once more, use “Ask again”."


def _compare(chat: Conversation, text: str) -> tuple[str, str]:
    data = chat.data or {}
    expected = data.get("chat_code", "")
    if expected and _plain(text) == _plain(expected):
        return "thanked", _thanks(data)
    if chat.wrong_codes + 1 >= CODE_TRIES:
        return "refused", REFUSED
    return "code", "That is not the code on the page. Please look again and type it here."


def _plain(text: str) -> str:
    return re.sub(r"[\s-]", "", text).casefold()


def _thanks(data: Mapping[str, str]) -> str:
    name = data.get("name")
    customer = f"customer {data['customer_id']}" if data.get("customer_id") else ""
    who = " / ".join(part for part in (name, customer) if part)
    return f"Thank you{', ' if who else ''}{who}. Your balance is R 1,234.50."


def _write(connection: sqlite3.Connection, conversation_id: str, now: datetime, *lines: tuple[str, str]) -> None:
    connection.executemany(
        "INSERT INTO lines (conversation, speaker, text, at) VALUES (?,?,?,?)",
        [(conversation_id, speaker, text, now.timestamp()) for speaker, text in lines],
    )
    prune(connection, "lines")


def _get(connection: sqlite3.Connection, conversation_id: str, now: datetime) -> Conversation:
    row = connection.execute("SELECT * FROM conversations WHERE id = ?", (conversation_id,)).fetchone()
    return _bare(row, now)


def _whole(connection: sqlite3.Connection, row: sqlite3.Row, now: datetime) -> Conversation:
    lines = connection.execute("SELECT * FROM lines WHERE conversation = ? ORDER BY number", (row["id"],))
    callbacks = connection.execute("SELECT * FROM callbacks WHERE conversation = ? ORDER BY number", (row["id"],))
    return replace(
        _bare(row, now),
        lines=tuple(Line(line["speaker"], line["text"], moment(line["at"])) for line in lines),
        callbacks=tuple(read_callback(callback) for callback in callbacks),
    )


def _bare(row: sqlite3.Row, now: datetime) -> Conversation:
    card = json.loads(row["card"])
    found = Conversation(
        id=row["id"],
        card=JourneyCard(**{**card, "data": tuple(card["data"])}),
        reference=row["reference"],
        link=row["link"],
        style=ReferenceStyle(row["style"]),
        fault=Fault(row["fault"]),
        round=row["round"],
        stage=row["stage"],
        wrong_codes=row["wrong_codes"],
        result=row["result"],
        data=json.loads(row["data"]) if row["data"] else None,
        heard_at=moment(row["heard_at"]),
        seen_at=now,
    )
    is_over = found.stage in ("waiting", "code") and found.seconds_left == 0
    return replace(found, stage="ended") if is_over else found
