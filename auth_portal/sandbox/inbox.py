"""Every SMS and e-mail that the portal's ``inbox`` channel sent: nobody's phone rings, and everybody can look."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from auth_portal.clock import Clock
from auth_portal.sandbox.conversations import moment
from auth_portal.sandbox.database import Database, prune

KINDS = ("sms", "email")
LENGTHS = {"message_id": 100, "kind": 10, "to": 254, "subject": 250, "text": 10_000, "html": 50_000}
CODE = re.compile(r"\b\d{6,10}\b")


@dataclass(frozen=True)
class Message:
    """One message as it was sent."""

    message_id: str
    kind: str
    to: str
    subject: str
    text: str
    html: str
    at: datetime

    @property
    def parts(self) -> tuple[str, str, str]:
        """The text before the code, the code, and the text after it; empty where there is no code."""
        found = CODE.search(self.text)
        if not found:
            return self.text, "", ""
        return self.text[: found.start()], found.group(), self.text[found.end() :]


class Inbox:
    """Keeps and lists messages."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def keep(self, fields: Mapping[str, str]) -> bool:
        """Stores a message; False where it is known already, since a channel may send one twice."""
        with self._database.writing() as connection:
            stored = connection.execute(
                "INSERT INTO messages (message_id, kind, recipient, recipient_key, subject, text, html, at)"
                " VALUES (:message_id, :kind, :to, :key, :subject, :text, :html, :at) ON CONFLICT DO NOTHING",
                {**fields, "key": _key(fields["to"]), "at": self._clock().timestamp()},
            )
            prune(connection, "messages")
            return stored.rowcount == 1

    def newest(self, count: int, to: str = "") -> list[Message]:
        """The newest messages first, of one recipient where one is named."""
        query = "SELECT * FROM messages WHERE :key IN ('', recipient_key) ORDER BY number DESC LIMIT :count"
        with self._database.reading() as connection:
            return [_message(row) for row in connection.execute(query, {"key": _key(to), "count": count})]


def read_message(content: object) -> dict[str, str]:
    """The fields of a posted message, all filled in. Raises ValueError with what is wrong."""
    fields = {name: content.get(name, "") for name in LENGTHS} if isinstance(content, dict) else {}
    if not fields:
        raise ValueError("The body must be a JSON object.")
    for name, length in LENGTHS.items():
        if not isinstance(fields[name], str) or len(fields[name]) > length:
            raise ValueError(f"“{name}” must be a string of at most {length} characters.")
    if fields["kind"] not in KINDS:
        raise ValueError(f"“kind” must be one of: {', '.join(KINDS)}.")
    if not all(fields[name] for name in ("to", "text", "message_id")):
        raise ValueError("“to”, “text” and “message_id” must not be empty.")
    return fields


def _key(recipient: str) -> str:
    """One form for look-ups; a ``+`` that a query string turned into a blank does no harm."""
    return recipient.strip().lstrip("+").casefold()


def _message(row: sqlite3.Row) -> Message:
    return Message(
        row["message_id"], row["kind"], row["recipient"], row["subject"], row["text"], row["html"], moment(row["at"])
    )
