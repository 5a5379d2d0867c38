"""The texts of messages. Those that carry a code are made when they are sent and kept nowhere.

An SMS is one message of 160 GSM characters or fewer, and its last line is ``@host #code``, by which iOS and Android
fill the code in. An e-mail has the code in its subject's first words.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from auth_portal.gateways.channels import OutgoingMessage

SMS_LENGTH = 160  # characters of one message (3GPP TS 23.038 6.2.1)
TEMPLATES = Path(__file__).resolve().parent.parent.parent / "templates" / "messages"
# The basic set of 3GPP TS 23.038, as far as texts of ours can have it; what takes two septets is left out.
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
    seconds: int  # that the code still lives
    support: str = ""

    @property
    def minutes(self) -> int:
        """Whole minutes, rounded, never none: the page has the countdown."""
        return max(1, round(self.seconds / 60))


def gsm(text: str) -> str:
    """Text in the GSM basic set: marks dropped where the letter alone is in it, a dot for the rest."""
    return "".join(_gsm_letter(letter) for letter in text)


def _gsm_letter(letter: str) -> str:
    if letter in _GSM:
        return letter
    plain = unicodedata.normalize("NFKD", letter)[:1]
    return plain if plain in _GSM else "."


def sms_text(message: CodeMessage) -> str:
    """The SMS: which business asks, for what, for how long, never to tell anyone, and the line that fills itself in."""
    last_line = f"\n\n@{message.host} #{message.code}"
    tail = f". Valid {message.minutes} min. Never tell anyone this code."
    head = f"{message.code} is your {gsm(message.portal)} code"
    about = f" for {gsm(message.journey)}"
    room = SMS_LENGTH - len(last_line) - len(tail)
    if len(head) + len(about) > room:
        about = ""
    text = head[:room] + about + tail + last_line
    return text if len(text) <= SMS_LENGTH else head + tail


class Texts:
    """Renders messages from ``templates/messages``."""

    def __init__(self, host: str) -> None:
        self._host = host
        loader = FileSystemLoader(TEMPLATES)
        self._environment = Environment(
            loader=loader, autoescape=lambda name: bool(name and name.endswith(".html")), undefined=StrictUndefined,
            keep_trailing_newline=True, trim_blocks=True,
        )  # fmt: skip

    @property
    def host(self) -> str:
        """The host that the page is at, which every message names."""
        return self._host

    def outgoing(self, kind: str, to: str, message: CodeMessage, message_id: str) -> OutgoingMessage:
        """The message for a channel."""
        if kind == "sms":
            return OutgoingMessage("sms", to, "", sms_text(message), "", message_id)
        values = {name: getattr(message, name) for name in ("code", "portal", "journey", "host", "minutes", "support")}
        text, html = (self._environment.get_template(f"email.{part}").render(values) for part in ("txt", "html"))
        return OutgoingMessage("email", to, f"{message.code} is your {message.portal} code", text, html, message_id)

    def notice(self, to: str, subject: str, text: str, message_id: str) -> OutgoingMessage:
        """A message without a code, to an e-mail address or a phone (then subject and text become one SMS)."""
        if "@" not in to:
            return OutgoingMessage("sms", to, "", gsm(f"{subject}. {text}")[: 2 * SMS_LENGTH], "", message_id)
        values = {"subject": subject, "lines": text.splitlines(), "host": self._host}
        plain, html = (self._environment.get_template(f"notice.{part}").render(values) for part in ("txt", "html"))
        return OutgoingMessage("email", to, subject, plain, html, message_id)
