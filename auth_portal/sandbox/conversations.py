"""Chats that wait at an External Link node: who said what, where each stands, and what the flow does next.

::

    waiting --answer: success text--------------------------> thanked
    waiting --answer: success text, phone_match is not yes--> refused
    waiting --answer: success text, flow compares a code----> code --right--> thanked
    waiting --answer: any other text------------------------> refused       `--wrong, 3 times--> refused
    waiting, code --no message for the length of the clock--> ended
    any but ended --the flow loops back to the node---------> waiting, same reference, next round

A flow that registers tickets goes to ``no_ticket`` instead of ``waiting`` where it gets none, and sends no link.
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
from auth_portal.sandbox.references import address_of, link_for
from auth_portal.sandbox.tickets import ApiCall
from auth_portal.sandbox.words import (
    ASK_AGAIN,
    ASK_CODE,
    NOTHING_MORE,
    STILL_WAITING,
    WISH,
    WRONG_CODE,
    talk_of,
    thanks,
)

STATES = {
    "waiting": "waiting", "no_ticket": "stopped", "code": "answered", "thanked": "answered", "refused": "answered",
    "ended": "ended",
}  # fmt: skip
CODE_TRIES = 3
MATCHED = "yes"  # what the compare node of a flow with tickets lets through
TEXT_LENGTH = 500
PERSON, BUSINESS, LINK = "person", "business", "link"


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
class Beginning:
    """What a chat begins with. ``call`` is what the flow's API node did, where it has one."""

    card: JourneyCard
    reference: str
    style: ReferenceStyle
    fault: Fault
    phone: str
    call: ApiCall | None = None
    is_attack: bool = False


@dataclass(frozen=True)
class Conversation:
    """A chat at one moment. ``stage`` is where the flow stands, ``state`` the same in the words of the contract."""

    id: str
    card: JourneyCard
    reference: str
    link: str
    style: ReferenceStyle
    fault: Fault
    phone: str
    call: ApiCall | None
    is_attack: bool
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
        """``waiting``, ``answered``, ``ended``, or ``stopped`` before a link was sent."""
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

    def start(self, begun: Beginning) -> Conversation:
        """A customer writes, and the flow reaches its node."""
        conversation_id, card, now = secrets.token_urlsafe(9), begun.card, self._clock()
        link = self._link(begun)
        with self._database.writing() as connection:
            connection.execute(
                "INSERT INTO conversations (id, reference, card, link, style, fault, phone, api_call, is_attack, stage,"
                " heard_at) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (
                    conversation_id, begun.reference, json.dumps(asdict(card)), link, begun.style, begun.fault,
                    begun.phone, _written(begun.call), begun.is_attack, _first_stage(link), now.timestamp(),
                ),
            )  # fmt: skip
            _write(connection, conversation_id, now, (PERSON, talk_of(card).opening))
            _write(connection, conversation_id, now, *_sent(card, talk_of(card).ask, link))
            prune(connection, "conversations")
            return _get(connection, conversation_id, now)

    def _link(self, begun: Beginning) -> str:
        """The link that the node sends; nothing where the flow got no ticket for it."""
        address = begun.call.link if begun.call is not None else address_of(self._public_url, begun.card)
        return link_for(address, begun.reference, begun.style) if address else ""

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

    def ask_again(self, conversation_id: str, call: ApiCall | None) -> bool:
        """The flow loops: the node issues the same reference and waits anew. False where the session has ended.

        ``call`` is the ticket that a flow with an API node has registered for this round.
        """
        now = self._clock()
        with self._database.writing() as connection:
            found = _get(connection, conversation_id, now)
            if found.stage == "ended":
                return False
            link = self._link(Beginning(found.card, found.reference, found.style, found.fault, found.phone, call))
            connection.execute(
                "UPDATE conversations SET stage = ?, link = ?, api_call = ?, round = round + 1, wrong_codes = 0,"
                " result = NULL, data = NULL, heard_at = ? WHERE id = ?",
                (_first_stage(link), link, _written(call), now.timestamp(), conversation_id),
            )
            _write(connection, conversation_id, now, (PERSON, WISH), *_sent(found.card, ASK_AGAIN, link))
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


def _first_stage(link: str) -> str:
    return "waiting" if link else "no_ticket"


def _sent(card: JourneyCard, text: str, link: str) -> tuple[tuple[str, str], ...]:
    """What the business says with its link, or instead of one."""
    return ((BUSINESS, text), (LINK, link)) if link else ((BUSINESS, talk_of(card).no_ticket),)


def _branch(card: JourneyCard, result: str, data: Mapping[str, str]) -> tuple[str, str]:
    has_matched = not card.needs_ticket or data.get(card.compares) == MATCHED
    if result != card.success or not has_matched:
        return "refused", talk_of(card).refused
    if card.uses_chat_code:
        return "code", ASK_CODE
    return "thanked", thanks(card, data)


def _reply(chat: Conversation, text: str) -> tuple[str, str]:
    if chat.stage == "waiting":
        return "waiting", STILL_WAITING
    if chat.stage == "code":
        return _compare(chat, text)
    return chat.stage, NOTHING_MORE


def _compare(chat: Conversation, text: str) -> tuple[str, str]:
    data = chat.data or {}
    expected = data.get(chat.card.compares, "")
    if expected and _plain(text) == _plain(expected):
        return "thanked", thanks(chat.card, data)
    if chat.wrong_codes + 1 >= CODE_TRIES:
        return "refused", talk_of(chat.card).refused
    return "code", WRONG_CODE


def _plain(text: str) -> str:
    return re.sub(r"[\s-]", "", text).casefold()


def _written(call: ApiCall | None) -> str | None:
    return None if call is None else json.dumps(asdict(call))


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
        phone=row["phone"],
        call=ApiCall(**json.loads(row["api_call"])) if row["api_call"] else None,
        is_attack=bool(row["is_attack"]),
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
