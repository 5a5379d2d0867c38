"""Every SMS and email that the portal's ``inbox`` channel sent: no phone rings, and anyone can look."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from flask import Blueprint, Response, jsonify, make_response, request

from auth_portal.clock import Clock, iso
from auth_portal.sandbox.database import SandboxFile, prune, read_time
from auth_portal.sandbox.facts import read_json

KINDS = ("sms", "email")
LENGTHS = {"message_id": 100, "kind": 10, "to": 254, "subject": 250, "text": 10_000, "html": 50_000}
CODE = re.compile(r"\b\d{6,10}\b")
INBOX_JSON = 200  # messages
MESSAGE_BYTES = 64 * 1024  # as much as the portal accepts in any request


@dataclass(frozen=True)
class InboxMessage:
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
        """Return the text before the code, the code, and the text after it; the last two are "" without a code."""
        found = CODE.search(self.text)
        if not found:
            return self.text, "", ""
        return self.text[: found.start()], found.group(), self.text[found.end() :]


class Inbox:
    """Store and list messages."""

    def __init__(self, file: SandboxFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock

    def keep(self, fields: Mapping[str, str]) -> bool:
        """Store a message. Return False if it is already stored, since a channel may send one twice."""
        with self._file.writing() as connection:
            stored = connection.execute(
                "INSERT INTO messages (message_id, kind, recipient, recipient_key, subject, text, html, at)"
                " VALUES (:message_id, :kind, :to, :key, :subject, :text, :html, :at) ON CONFLICT DO NOTHING",
                {**fields, "key": _key(fields["to"]), "at": self._clock().timestamp()},
            )
            prune(connection, "messages")
            return stored.rowcount == 1

    def newest(self, count: int, to: str = "") -> list[InboxMessage]:
        """Return the newest messages first, of one recipient if ``to`` is given."""
        query = "SELECT * FROM messages WHERE :key IN ('', recipient_key) ORDER BY number DESC LIMIT :count"
        with self._file.reading() as connection:
            rows = connection.execute(query, {"key": _key(to), "count": count})
            return [
                InboxMessage(
                    row["message_id"],
                    row["kind"],
                    row["recipient"],
                    row["subject"],
                    row["text"],
                    row["html"],
                    read_time(row["at"]),
                )
                for row in rows
            ]


def read_message(content: object) -> dict[str, str]:
    """Return the fields of a posted message, all filled in. Raise ValueError with what is wrong."""
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
    """Return one form for look-ups; a ``+`` that a query string turned into a blank does no harm."""
    return recipient.strip().lstrip("+").casefold()


# --- The endpoints


class PhoneEndpoints:
    """The phone networks and mail servers: what the ``inbox`` channel posts to, and what scripts read."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def add_rules(self, found: Blueprint) -> None:
        """Register the endpoints."""
        found.add_url_rule("/messages", "keep_message", self.keep, methods=["POST"])
        found.add_url_rule("/inbox.json", "inbox_json", self.inbox_json)

    def keep(self) -> Response:
        """Store one message; a repeated ``message_id`` changes nothing."""
        body = request.stream.read(MESSAGE_BYTES + 1)
        try:
            fields = read_message(read_json(body) if len(body) <= MESSAGE_BYTES else None)
        except ValueError as error:
            return make_response(jsonify(error=str(error)), 400)
        is_new = self._inbox.keep(fields)
        return make_response(jsonify(is_new=is_new), 202)

    def inbox_json(self) -> Response:
        """Return the newest messages first, those of one recipient if ``to`` is given."""
        found = self._inbox.newest(INBOX_JSON, request.args.get("to", ""))
        return jsonify(
            messages=[
                {
                    "message_id": message.message_id,
                    "to": message.to,
                    "kind": message.kind,
                    "subject": message.subject,
                    "text": message.text,
                    "html": message.html,
                    "at": iso(message.at),
                }
                for message in found
            ]
        )
