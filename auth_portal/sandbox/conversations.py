"""Chats that wait at an External Link node: who said what, where each stands, and what the flow does next.

::

    waiting --result: success text--------------------------> thanked
    waiting --result: success text, phone_match is not yes--> refused
    waiting --result: success text, flow compares a code----> code --right--> thanked
    waiting --result: any other text------------------------> refused       `--wrong, 3 times--> refused
    waiting, code --no message for the length of the clock--> ended
    any but ended --the flow loops back to the node---------> waiting, same reference, next round

A flow that registers tickets goes to ``no_ticket`` instead of ``waiting`` if it gets none, and sends no link.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from auth_portal.clock import Clock
from auth_portal.sandbox.database import SandboxFile, prune, read_time
from auth_portal.sandbox.facts import (
    PAYMENT_AMOUNT,
    ApiCall,
    FlowFault,
    JourneyCard,
    ReferenceStyle,
    address_of,
    link_for,
    read_json,
)

STATES = {
    "waiting": "waiting",
    "no_ticket": "stopped",
    "code": "answered",
    "thanked": "answered",
    "refused": "answered",
    "ended": "ended",
}
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
class ReceivedCallback:
    """One request that reached Flow, the status of Flow's answer (None: no answer), and why."""

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
        """Return the body as JSON, or as plain text if it is not JSON."""
        found = read_json(self.body)
        return self.body if found is None else found

    @property
    def body_reference(self) -> str | None:
        """Return the reference in the body."""
        content = self.content
        found = content.get("reference") if isinstance(content, dict) else None
        return found if isinstance(found, str) else None


@dataclass(frozen=True)
class Beginning:
    """What a chat begins with. ``call`` is what the flow's API node did, where it has one."""

    card: JourneyCard
    reference: str
    style: ReferenceStyle
    fault: FlowFault
    phone: str
    call: ApiCall | None = None
    is_attack: bool = False


@dataclass(frozen=True)
class Conversation:
    """A chat at one time. ``stage`` is where the flow stands, ``state`` the same in the words of the contract."""

    id: str
    card: JourneyCard
    reference: str
    link: str
    style: ReferenceStyle
    fault: FlowFault
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
    callbacks: tuple[ReceivedCallback, ...] = ()

    @property
    def state(self) -> str:
        """Return ``waiting``, ``answered``, ``ended``, or ``stopped`` (before a link was sent)."""
        return STATES[self.stage]

    @property
    def seconds_left(self) -> int:
        """Return the seconds until the session ends if no message arrives."""
        ends_at = self.heard_at + timedelta(seconds=self.card.chat_seconds)
        return max(0, int((ends_at - self.seen_at).total_seconds()))

    @property
    def answer(self) -> ReceivedCallback | None:
        """Return the callback that this round accepted."""
        return next((found for found in reversed(self.this_round) if found.is_accepted), None)

    @property
    def this_round(self) -> tuple[ReceivedCallback, ...]:
        """Return the callbacks since the node last issued its link."""
        return tuple(found for found in self.callbacks if found.round == self.round)

    @property
    def asked_amount(self) -> str:
        """Return the amount that the flow asked for and compares; "" where its journey sends none back."""
        return self.call.amount if self.call is not None and PAYMENT_AMOUNT in self.card.data else ""

    def after_result(self, result: str, data: Mapping[str, str]) -> tuple[str, str]:
        """Return the next stage and what the business says, once the node's Logic section has compared a result."""
        has_matched = not self.card.needs_ticket or data.get(self.card.compares) == MATCHED
        is_asked = not self.asked_amount or data.get(PAYMENT_AMOUNT) == self.asked_amount
        if result not in self.card.successes or not has_matched or not is_asked:
            return "refused", talk_of(self.card).refused
        if self.card.uses_chat_code:
            return "code", ASK_CODE
        return "thanked", thanks(self.card, data)

    def after_message(self, text: str) -> tuple[str, str]:
        """Return the next stage and what the business replies to a message of the customer."""
        if self.stage == "waiting":
            return "waiting", STILL_WAITING
        if self.stage != "code":
            return self.stage, NOTHING_MORE
        data = self.data or {}
        expected = data.get(self.card.compares, "")
        if expected and _without_blanks(text) == _without_blanks(expected):
            return "thanked", thanks(self.card, data)
        if self.wrong_codes + 1 >= CODE_TRIES:
            return "refused", talk_of(self.card).refused
        return "code", WRONG_CODE


class Conversations:
    """Read and write chats. Each method is one transaction."""

    def __init__(self, file: SandboxFile, clock: Clock, public_url: str) -> None:
        self._file = file
        self._clock = clock
        self._public_url = public_url

    def start(self, beginning: Beginning) -> Conversation:
        """Start a chat: a customer writes, and the flow reaches its node."""
        conversation_id, card, now = secrets.token_urlsafe(9), beginning.card, self._clock()
        link = self._link(beginning)
        with self._file.writing() as connection:
            connection.execute(
                "INSERT INTO conversations (id, reference, card, link, style, fault, phone, api_call, is_attack, stage,"
                " heard_at) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (
                    conversation_id,
                    beginning.reference,
                    json.dumps(asdict(card)),
                    link,
                    beginning.style,
                    beginning.fault,
                    beginning.phone,
                    _call_as_json(beginning.call),
                    beginning.is_attack,
                    _first_stage(link),
                    now.timestamp(),
                ),
            )
            _write(connection, conversation_id, now, (PERSON, talk_of(card).opening))
            _write(connection, conversation_id, now, *_lines_with_link(card, talk_of(card).ask, link))
            prune(connection, "conversations")
            return _get(connection, conversation_id, now)

    def _link(self, beginning: Beginning) -> str:
        """Return the link that the node sends; "" if the flow got no ticket for it."""
        call = beginning.call
        address = call.link if call is not None else address_of(self._public_url, beginning.card)
        return link_for(address, beginning.reference, beginning.style) if address else ""

    def find(self, conversation_id: str) -> Conversation | None:
        """Return a chat with all lines and callbacks."""
        with self._file.reading() as connection:
            row = connection.execute("SELECT * FROM conversations WHERE id = ?", (conversation_id,)).fetchone()
            if row is None:
                return None
            lines = connection.execute("SELECT * FROM lines WHERE conversation = ? ORDER BY number", (row["id"],))
            received = connection.execute(
                "SELECT * FROM callbacks WHERE conversation = ? ORDER BY number", (row["id"],)
            )
            return replace(
                _bare(row, self._clock()),
                lines=tuple(Line(line["speaker"], line["text"], read_time(line["at"])) for line in lines),
                callbacks=tuple(read_callback(callback) for callback in received),
            )

    def recent(self, count: int) -> list[Conversation]:
        """Return the newest chats, without their lines."""
        with self._file.reading() as connection:
            rows = connection.execute("SELECT * FROM conversations ORDER BY number DESC LIMIT ?", (count,)).fetchall()
            return [_bare(row, self._clock()) for row in rows]

    def set_fault(self, conversation_id: str, fault: FlowFault) -> None:
        """Set what goes wrong with callbacks from now on."""
        with self._file.writing() as connection:
            connection.execute("UPDATE conversations SET fault = ? WHERE id = ?", (fault, conversation_id))

    def say(self, conversation_id: str, text: str) -> bool:
        """Type a message as the customer. Return False if the session has ended."""
        now = self._clock()
        with self._file.writing() as connection:
            found = _get(connection, conversation_id, now)
            if found.stage == "ended":
                return False
            stage, reply = found.after_message(text)
            connection.execute(
                "UPDATE conversations SET stage = ?, heard_at = ?, wrong_codes = wrong_codes + ? WHERE id = ?",
                (stage, now.timestamp(), found.stage == "code" and stage != "thanked", conversation_id),
            )
            _write(connection, conversation_id, now, (PERSON, text), (BUSINESS, reply))
            return True

    def ask_again(self, conversation_id: str, call: ApiCall | None) -> bool:
        """Loop the flow: the node issues the same reference and waits again. Return False if the session has ended.

        ``call`` is the ticket that a flow with an API node has registered for this round.
        """
        now = self._clock()
        with self._file.writing() as connection:
            found = _get(connection, conversation_id, now)
            if found.stage == "ended":
                return False
            link = self._link(Beginning(found.card, found.reference, found.style, found.fault, found.phone, call))
            connection.execute(
                "UPDATE conversations SET stage = ?, link = ?, api_call = ?, round = round + 1, wrong_codes = 0,"
                " result = NULL, data = NULL, heard_at = ? WHERE id = ?",
                (_first_stage(link), link, _call_as_json(call), now.timestamp(), conversation_id),
            )
            _write(
                connection,
                conversation_id,
                now,
                (PERSON, PERSON_ASKS_AGAIN),
                *_lines_with_link(found.card, ASK_AGAIN, link),
            )
            return True


def find_by_reference(connection: sqlite3.Connection, reference: str, now: datetime) -> Conversation | None:
    """Return the chat that a reference belongs to, without its lines."""
    row = connection.execute("SELECT * FROM conversations WHERE reference = ?", (reference,)).fetchone()
    return _bare(row, now) if row else None


def take_answer(connection: sqlite3.Connection, chat: Conversation, result: str, data: Mapping[str, str]) -> None:
    """Compare the result as the node's Logic section does, and continue the flow."""
    stage, reply = chat.after_result(result, data)
    connection.execute(
        "UPDATE conversations SET stage = ?, result = ?, data = ? WHERE id = ?",
        (stage, result, json.dumps(data), chat.id),
    )
    _write(connection, chat.id, chat.seen_at, (BUSINESS, reply))


def end_session(connection: sqlite3.Connection, chat: Conversation) -> None:
    """End the session: Flow no longer waits."""
    connection.execute("UPDATE conversations SET stage = 'ended' WHERE id = ?", (chat.id,))


def read_callback(row: sqlite3.Row) -> ReceivedCallback:
    """Return a stored callback."""
    return ReceivedCallback(
        row["round"],
        row["path"],
        row["header"],
        row["body"],
        row["status"],
        bool(row["is_accepted"]),
        row["why"],
        read_time(row["at"]),
    )


def _first_stage(link: str) -> str:
    return "waiting" if link else "no_ticket"


def _lines_with_link(card: JourneyCard, text: str, link: str) -> tuple[tuple[str, str], ...]:
    """Return what the business says with its link, or without one."""
    return ((BUSINESS, text), (LINK, link)) if link else ((BUSINESS, talk_of(card).no_ticket),)


def _without_blanks(text: str) -> str:
    return re.sub(r"[\s-]", "", text).casefold()


def _call_as_json(call: ApiCall | None) -> str | None:
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


def _bare(row: sqlite3.Row, now: datetime) -> Conversation:
    card = json.loads(row["card"])
    found = Conversation(
        id=row["id"],
        card=JourneyCard(**{**card, "data": tuple(card["data"])}),
        reference=row["reference"],
        link=row["link"],
        style=ReferenceStyle(row["style"]),
        fault=FlowFault(row["fault"]),
        phone=row["phone"],
        call=ApiCall(**json.loads(row["api_call"])) if row["api_call"] else None,
        is_attack=bool(row["is_attack"]),
        round=row["round"],
        stage=row["stage"],
        wrong_codes=row["wrong_codes"],
        result=row["result"],
        data=json.loads(row["data"]) if row["data"] else None,
        heard_at=read_time(row["heard_at"]),
        seen_at=now,
    )
    is_over = found.stage in ("waiting", "code") and found.seconds_left == 0
    return replace(found, stage="ended") if is_over else found


# --- What is said

PERSON_ASKS_AGAIN = "Please ask me again"
ASK_AGAIN = "Let me check once more that it's you. Here is the link again."
ASK_CODE = "Almost there. Type the code our page shows you."
WRONG_CODE = "That isn't the code on the page. Check it and type it again."
STILL_WAITING = "I'm still waiting for you. Please tap the link above."
NOTHING_MORE = "That's all I can do here. To get the link again, use “Ask again”."


@dataclass(frozen=True)
class Talk:
    """One subject: how the person begins, and what the business says before and after the link."""

    opening: str
    ask: str
    done: str
    goal: str  # what the success branch does, as the flow's author would say it
    refused: str
    no_ticket: str


BALANCE = Talk(
    opening="Hi, I want to see my balance",
    ask="Of course. First, confirm it's you. Tap the link to open our page in your browser.",
    done="Your balance is R 1,234.50.",
    goal="shows the balance",
    refused="We couldn't verify you, so I can't show your balance.",
    no_ticket="We can't verify you in this chat.",
)
PAYMENT = Talk(
    opening="Hi, please send R 500 to N. Dlamini",
    ask="Of course. Tap the link to check the payment on our page and approve it.",
    done="R 500 is on its way to N. Dlamini.",
    goal="sends the money",
    refused="We couldn't verify you, so nothing was paid.",
    no_ticket="We can't verify you in this chat. Nothing was paid.",
)


SAVINGS = Talk(
    opening="Hi, I want a savings account",
    ask="Great. First, read our savings terms. Tap the link to open them in your browser.",
    done="Your savings account is open.",
    goal="opens the account",
    refused="That's fine. Without the terms I can't open the account.",
    no_ticket="I can't do this in this chat.",
)
SURVEY = Talk(
    opening="Thanks, that was all",
    ask="May I ask you a few questions? Tap the link to open them in your browser.",
    done="Your answers help us.",
    goal="says thank you",
    refused="That's fine. Maybe another time.",
    no_ticket="I can't do this in this chat.",
)
AGENT = Talk(
    opening="Hi, I want to talk to a person",
    ask="Of course. Tap the link and choose how.",
    done="You're in good hands.",
    goal="ends the chat politely",
    refused="I'm still here if you need me.",
    no_ticket="I can't do this in this chat.",
)


def talk_of(card: JourneyCard) -> Talk:
    """Return what a chat of this journey is about."""
    if card.asks_who:
        return PAYMENT if card.needs_ticket else BALANCE
    if "handover" in card.data:
        return AGENT
    return SAVINGS if "terms_version" in card.data else SURVEY


def thanks(card: JourneyCard, data: Mapping[str, str]) -> str:
    """Return what a verified person reads: who the flow takes them for, and what they wanted."""
    customer = f"customer {data['customer_id']}" if data.get("customer_id") else ""
    who = " / ".join(part for part in (data.get("name"), customer) if part)
    return f"Thank you{', ' if who else ''}{who}. {talk_of(card).done}"
