"""The texts of messages: a code by SMS or email, and a notice."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from auth_portal.gateways.channels import OutgoingMessage

SMS_LENGTH = 160  # characters of one message (3GPP TS 23.038 6.2.1)
TEMPLATES = ("email.txt", "email.html", "notice.txt", "notice.html")
# The basic set of 3GPP TS 23.038, as far as our texts use it, without the characters that take two septets.
_GSM = frozenset(
    "@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà\n"
)


@dataclass(frozen=True)
class CodeMessage:
    """What a message with a code says."""

    code: str
    portal: str
    journey: str
    host: str
    seconds: int  # for which the code is still valid
    support: str = ""

    @property
    def minutes(self) -> int:
        """Return whole minutes, rounded, at least one: the page has the countdown."""
        return max(1, round(self.seconds / 60))


def gsm(text: str) -> str:
    """Return text in the GSM basic set: without marks if the letter alone is in it, a dot for any other character."""
    letters = []
    for letter in text:
        plain = letter if letter in _GSM else unicodedata.normalize("NFKD", letter)[:1]
        letters.append(plain if plain in _GSM else ".")
    return "".join(letters)


def sms_text(message: CodeMessage) -> str:
    """Return the SMS: which business asks, for what, for how long, the warning, and the line that fills the code in."""
    last_line = f"\n\n@{message.host} #{message.code}"
    tail = f". Valid {message.minutes} min. Never share this code."
    head = f"{message.code} is your {gsm(message.portal)} code"
    about = f" for {gsm(message.journey)}"
    room = SMS_LENGTH - len(last_line) - len(tail)
    if len(head) + len(about) > room:
        about = ""
    text = head[:room] + about + tail + last_line
    return text if len(text) <= SMS_LENGTH else head + tail


class Texts:
    """Render messages from the folder ``templates``. Raise TemplateNotFound if one of them is missing there."""

    def __init__(self, host: str, templates: Path) -> None:
        self._host = host
        loader = FileSystemLoader(templates / "messages")
        # Plain text is not escaped: see S701 in pyproject.toml.
        self._environment = Environment(  # nosec B701
            loader=loader,
            autoescape=lambda name: bool(name and name.endswith(".html")),
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=True,
        )
        for name in TEMPLATES:  # an incomplete installation shows at the start, not when a code has to leave
            self._environment.get_template(name)

    @property
    def host(self) -> str:
        """Return the host of the page, which every message names."""
        return self._host

    def outgoing(self, kind: str, to: str, message: CodeMessage, message_id: str) -> OutgoingMessage:
        """Return the message with a code, for a channel of this kind."""
        if kind == "sms":
            return OutgoingMessage("sms", to, "", sms_text(message), "", message_id)
        values = {name: getattr(message, name) for name in ("code", "portal", "journey", "host", "minutes", "support")}
        text, html = (self._environment.get_template(f"email.{part}").render(values) for part in ("txt", "html"))
        return OutgoingMessage("email", to, f"{message.code} is your {message.portal} code", text, html, message_id)

    def notice(self, to: str, subject: str, text: str, message_id: str) -> OutgoingMessage:
        """Return a message without a code, to an email address or a phone (then subject and text become one SMS)."""
        if "@" not in to:
            return OutgoingMessage("sms", to, "", gsm(f"{subject}. {text}")[: 2 * SMS_LENGTH], "", message_id)
        values = {"subject": subject, "lines": text.splitlines(), "host": self._host}
        plain, html = (self._environment.get_template(f"notice.{part}").render(values) for part in ("txt", "html"))
        return OutgoingMessage("email", to, subject, plain, html, message_id)
