"""How a message travels: SMTP, Clickatell, an HTTP template, and for development the console and the sandbox inbox.

A channel hands one message over once and says what became of it. Caps, countries, waiting, trying again and
logging belong to whoever calls. The text of a message holds a code: it goes to the recipient and nowhere else.

A new kind is a config, a channel and one line in ``KINDS``.
"""

from __future__ import annotations

import json
import re
import smtplib
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import formatdate, getaddresses
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self
from urllib.parse import quote_plus, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from auth_portal.errors import Misconfigured
from auth_portal.gateways.flow import Fate, fate_of
from auth_portal.gateways.outbound import (
    Blocked,
    HttpAnswer,
    NotReached,
    Outbound,
    OutboundError,
    Untrusted,
    check_header,
)
from auth_portal.telemetry import mask

SMTP_SECONDS = 10.0  # a whole SMTP conversation, of which connecting is the first part
SMTP_CONNECT_SECONDS = 3.0
MESSAGE_ID_LENGTH = 64  # characters; what Clickatell takes as clientMessageId


@dataclass(frozen=True)
class OutgoingMessage:
    """``to`` is an E.164 number with its plus, or an e-mail address. SMS has neither subject nor HTML.

    ``message_id`` is the same for every attempt at one delivery, so that a repeat can be recognised.
    """

    kind: Literal["sms", "email"]
    to: str
    subject: str
    text: str
    html: str
    message_id: str


class Handover(StrEnum):
    """What became of one attempt, and who has to act."""

    ACCEPTED = "accepted"
    RETRY = "retry"  # not taken, and worth another attempt
    RECIPIENT = "recipient"  # final: the number or address is at fault
    OPERATOR = "operator"  # final until the admin mends key, account, funds, login or configuration
    UNCLEAR = "unclear"  # perhaps taken


@dataclass(frozen=True)
class Receipt:
    """``code`` is stable, for counting. ``detail`` is for the admin: plain words, masked, 200 characters."""

    handover: Handover
    code: str
    detail: str


class Channel(Protocol):
    """What every kind offers."""

    carries: frozenset[str]

    def send(self, message: OutgoingMessage) -> Receipt:
        """Hands the message over, once. Raises nothing that network, provider or message could cause."""

    def check(self) -> Receipt:
        """Goes as far as it can without sending a message: connects, and logs in where there is a login."""


def _receipt(handover: Handover, code: str, words: str, said: str = "") -> Receipt:
    text = "".join(char if char.isprintable() else " " for char in f"{words} {said}")
    return Receipt(handover, code, mask(" ".join(text.split())))


# --- Configuration -------------------------------------------------------------------------------------------


class Destination(NamedTuple):
    """Where a channel's secrets go. ``security``: 0 open, 1 encrypted after an open start, 2 encrypted."""

    host: str
    port: int
    security: int


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


Country = Annotated[str, BeforeValidator(_upper), Field(pattern=r"^[A-Z]{2}$")]
_PLAIN_TEXT = re.compile(r"[\x20-\x7e]*")


class ChannelConfig(BaseModel):
    """What all kinds share. ``countries`` are those SMS may go to; ``daily_cap`` counts messages a day."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    SECRETS: ClassVar[frozenset[str]] = frozenset()
    NEEDS_SANDBOX: ClassVar[bool] = False

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
    kind: str
    countries: tuple[Country, ...] = ()
    daily_cap: Annotated[int | None, Field(ge=1)] = None

    @property
    def message_kinds(self) -> frozenset[str]:
        """Which of ``sms`` and ``email`` it carries."""
        return frozenset({"sms", "email"})

    @property
    def destination(self) -> Destination:
        """Where it goes; the same nowhere for kinds that have no secrets."""
        return Destination("", 0, 2)

    @property
    def address(self) -> str:
        """The URL that it calls, empty where it calls none."""
        return ""


class SmtpConfig(ChannelConfig):
    """A mail server. A login is sent only over TLS, or to a server that the operator declared private."""

    SECRETS = frozenset({"password"})

    kind: Literal["smtp"] = "smtp"
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9:._-]{1,253}$")]
    port: Annotated[int, Field(ge=1, le=65535)]
    security: Literal["none", "starttls", "tls"]
    username: str = ""
    password: Annotated[str, Field(repr=False)] = ""
    sender: str

    @property
    def message_kinds(self) -> frozenset[str]:
        """E-mail only."""
        return frozenset({"email"})

    @property
    def destination(self) -> Destination:
        """The mail server, and how the conversation is protected."""
        return Destination(self.host.lower(), self.port, ("none", "starttls", "tls").index(self.security))

    @field_validator("username", "password")
    @classmethod
    def _is_ascii(cls, value: str) -> str:
        if not _PLAIN_TEXT.fullmatch(value):
            raise ValueError("must be printable ASCII: SMTP logins carry nothing else reliably")
        return value

    @field_validator("sender")
    @classmethod
    def _is_mailbox(cls, value: str) -> str:
        try:
            _mailbox(value)
        except _NO_MAIL:
            raise ValueError('must be an address such as "Acme Bank <no-reply@acme.example>"') from None
        return value


class ClickatellConfig(ChannelConfig):
    """SMS through Clickatell's One API. An allow-list of countries and a cap are required: SMS costs money."""

    SECRETS = frozenset({"api_key"})

    kind: Literal["clickatell"] = "clickatell"
    base_url: str = "https://platform.clickatell.com"
    api_key: Annotated[str, Field(min_length=1, repr=False)]
    countries: Annotated[tuple[Country, ...], Field(min_length=1)]
    daily_cap: Annotated[int, Field(ge=1)]

    @property
    def message_kinds(self) -> frozenset[str]:
        """SMS only."""
        return frozenset({"sms"})

    @property
    def address(self) -> str:
        """Where messages are posted."""
        return f"{self.base_url.rstrip('/')}/v1/message"

    @property
    def destination(self) -> Destination:
        """Host and port of the base URL."""
        return _url_destination(self.base_url)

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if "?" in value:
            raise ValueError("must be a URL without a question mark")
        return _checked_url(value)

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: str) -> str:
        return _checked_header("Authorization", value)


_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_PLACEHOLDERS = frozenset({"to", "text", "subject", "message_id"})
_OWN_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


class HttpConfig(ChannelConfig):
    """Any gateway that takes one POST or PUT. ``body`` is a template with {to} {text} {subject} {message_id}.

    What is filled in is escaped for the content type. Accepted means: a status in ``success``, and
    ``success_contains`` somewhere in the answer.
    """

    SECRETS = frozenset({"headers"})

    kind: Literal["http"] = "http"
    carries: Literal["sms", "email"]
    method: Literal["POST", "PUT"] = "POST"
    url: str
    headers: Annotated[dict[str, str], Field(repr=False)] = {}
    body: str
    content_type: Literal["application/json", "application/x-www-form-urlencoded"] = "application/json"
    success: Annotated[tuple[Annotated[int, Field(ge=200, le=299)], ...], Field(min_length=1)] = (200, 201, 202)
    success_contains: str = ""

    @property
    def message_kinds(self) -> frozenset[str]:
        """The one that is configured."""
        return frozenset({self.carries})

    @property
    def address(self) -> str:
        """The URL as configured."""
        return self.url

    @property
    def destination(self) -> Destination:
        """Host and port of the URL."""
        return _url_destination(self.url)

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return _checked_url(value)

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, value: dict[str, str]) -> dict[str, str]:
        if own := sorted(_OWN_HEADERS & {name.lower() for name in value}):
            raise ValueError(f"{', '.join(own)} cannot be set here")
        for name, text in value.items():
            _checked_header(name, text)
        return value

    @field_validator("body")
    @classmethod
    def _knows_its_placeholders(cls, value: str) -> str:
        if unknown := sorted(set(_PLACEHOLDER.findall(value)) - _PLACEHOLDERS):
            raise ValueError(f"unknown placeholder {{{unknown[0]}}}; known: {', '.join(sorted(_PLACEHOLDERS))}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.carries == "sms" and not (self.countries and self.daily_cap):
            raise ValueError("a channel that carries SMS needs countries and a daily_cap")
        if self.content_type == "application/json":
            try:
                json.loads(_PLACEHOLDER.sub("x", self.body))
            except (ValueError, RecursionError):
                raise ValueError('body is no JSON; each placeholder belongs inside quotes, as in "{to}"') from None
        return self


class ConsoleConfig(ChannelConfig):
    """Writes messages, codes included, to stderr. For development: it needs the sandbox."""

    NEEDS_SANDBOX = True
    kind: Literal["console"] = "console"


class InboxConfig(ChannelConfig):
    """The sandbox's own inbox, which everybody who reaches the sandbox can read."""

    NEEDS_SANDBOX = True
    kind: Literal["inbox"] = "inbox"


def _checked_url(value: str) -> str:
    parts = urlsplit(value)  # whether it may be called is asked of Outbound, which knows the operator's policy
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("must be a URL such as https://gateway.example")
    return value


def _checked_header(name: str, value: str) -> str:
    try:
        check_header(name, value)
    except Blocked as refusal:
        raise ValueError(refusal.reason) from None
    return value


def _url_destination(url: str) -> Destination:
    parts = urlsplit(url)
    is_https = parts.scheme == "https"
    return Destination((parts.hostname or "").lower(), parts.port or (443 if is_https else 80), 2 if is_https else 0)


def may_keep_secrets(stored: ChannelConfig, changed: ChannelConfig) -> bool:
    """Whether secrets stored for one configuration may serve another: same kind, host and port, no less security.

    Otherwise whoever may edit a channel could have its secret sent to a host of his own (D4).
    """
    before, after = stored.destination, changed.destination
    return stored.kind == changed.kind and before[:2] == after[:2] and after.security >= before.security


def check_destination(config: ChannelConfig, outbound: Outbound) -> None:
    """Raises Misconfigured where the operator's policy would never let this channel out. No network."""
    if isinstance(config, SmtpConfig):
        outbound.check_mail_host(config.host, config.port)
        _check_login(config, outbound)
    elif config.address:
        outbound.check_origin(config.address)


def _check_login(config: SmtpConfig, outbound: Outbound) -> None:
    is_open = config.security == "none" and bool(config.username)
    if is_open and not outbound.policy.exempts(config.host, config.port):
        raise Misconfigured("A login needs security starttls or tls, or a server that the operator declared private.")


# --- The frame around every kind -----------------------------------------------------------------------------


class _Frame(ABC):
    """Turns everything that can go wrong outside into a receipt, so that a kind only says how it sends."""

    def __init__(self, config: Any, outbound: Outbound, sandbox_url: str) -> None:
        self._config = config
        self._outbound = outbound
        self._sandbox_url = sandbox_url
        self.carries: frozenset[str] = config.message_kinds

    def send(self, message: OutgoingMessage) -> Receipt:
        if message.kind not in self.carries:
            return _receipt(Handover.OPERATOR, "wrong_kind", f"This channel does not carry {message.kind}.")
        return self._settle(lambda: self._hand_over(message))

    def check(self) -> Receipt:
        return self._settle(self._probe)

    def _settle(self, attempt: Callable[[], Receipt]) -> Receipt:
        if self._config.NEEDS_SANDBOX and not self._sandbox_url:
            return _receipt(Handover.OPERATOR, "sandbox_off", "This kind of channel needs the sandbox, which is off.")
        try:
            return attempt()
        except Misconfigured as error:
            return _receipt(Handover.OPERATOR, "misconfigured", str(error))
        except OutboundError as error:
            return _lost_way(error)
        except smtplib.SMTPException as error:
            return _smtp_trouble(error)
        except OSError:
            return _receipt(Handover.RETRY, "broken", "The connection broke before the message was sent.")

    def _probe(self) -> Receipt:
        self._outbound.reach(self._config.address)
        return _receipt(
            Handover.ACCEPTED, "reached", "The server was reached. Only a message shows whether it accepts us."
        )

    @abstractmethod
    def _hand_over(self, message: OutgoingMessage) -> Receipt: ...


def _lost_way(error: OutboundError) -> Receipt:
    match error:
        case Blocked():
            return _receipt(Handover.OPERATOR, "blocked", error.reason)
        case Untrusted():
            return _receipt(Handover.OPERATOR, "untrusted", "Not trusted:", error.reason)
        case NotReached():
            return _receipt(Handover.RETRY, "not_reached", "Not reached:", error.reason)
        case _:
            return _receipt(Handover.UNCLEAR, "unclear", "Sent, but", error.reason)


_HANDOVERS = {
    Fate.ACCEPTED: Handover.ACCEPTED,
    Fate.RETRY: Handover.RETRY,
    Fate.UNCLEAR: Handover.UNCLEAR,
    Fate.REFUSED: Handover.OPERATOR,
}


def _by_status(answer: HttpAnswer) -> Receipt:
    """What the status alone says: the same as for a callback, a refusal being the operator's to mend."""
    handover = _HANDOVERS[fate_of(answer.status)]
    code = "accepted" if handover is Handover.ACCEPTED else f"http_{answer.status}"
    return _receipt(handover, code, f"HTTP {answer.status}.", _said(answer))


def _said(answer: HttpAnswer) -> str:
    return answer.body.decode("utf-8", "replace")


def _identifier(message: OutgoingMessage) -> str:
    """The message's id in the characters that every provider takes."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", message.message_id)[:MESSAGE_ID_LENGTH]


# --- SMTP ----------------------------------------------------------------------------------------------------

_E_MAIL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,253}")
_ENHANCED = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\b")  # RFC 3463
_NO_MAIL = (ValueError, IndexError, MessageError)  # what the email package raises for what is no mail
_DONE, _NOT_NOW, _NEVER = range(200, 300), range(400, 500), range(500, 600)  # RFC 5321, 4.2.1
_LOGIN_CODES = frozenset({530, 534, 535, 538})  # RFC 4954, 6
# Whose fault a final refusal is, where the enhanced code says otherwise than the command that was refused.
_AT_RECIPIENT = {"5.7.": Handover.OPERATOR, "5.1.7": Handover.OPERATOR, "5.1.8": Handover.OPERATOR}
_AT_CONTENT = {"5.1.1": Handover.RECIPIENT, "5.1.2": Handover.RECIPIENT, "5.2.": Handover.RECIPIENT}


def _mailbox(text: str) -> Address:
    """One address, with or without a name. Raises one of _NO_MAIL where it is anything else."""
    if not text.isprintable():
        raise ValueError("control characters")
    [(display_name, address)] = getaddresses([text])
    return _address(address, display_name)


def _address(text: str, display_name: str = "") -> Address:
    if not _E_MAIL.fullmatch(text):
        raise ValueError("no address")
    return Address(display_name, addr_spec=text)


class _Conversation(smtplib.SMTP):
    """smtplib over a socket of ours, which ends at its deadline."""

    def __init__(self, config: SmtpConfig, outbound: Outbound, our_name: str) -> None:
        self._config = config
        self._outbound = outbound
        # Without a name smtplib asks DNS for this machine's, with no limit of time.
        super().__init__(config.host, config.port, local_hostname=our_name)

    def _get_socket(self, host: str, port: int, timeout: float | None) -> socket.socket:
        deadline = time.monotonic() + SMTP_SECONDS
        sock = self._outbound.connect(host, port, connect_seconds=SMTP_CONNECT_SECONDS, deadline=deadline)
        return self._outbound.tls.wrap_socket(sock, server_hostname=host) if self._config.security == "tls" else sock

    def __exit__(self, *args: object) -> None:
        with suppress(OSError):  # politeness is not worth waiting for
            self.putcmd("quit")
        self.close()

    def introduce(self) -> Self:
        """STARTTLS and login as configured; an open connection is never used in place of an encrypted one."""
        if self._config.security == "starttls":
            self.starttls(context=self._outbound.tls)
        if self._config.username:
            self.login(self._config.username, self._config.password)
        self.ehlo_or_helo_if_needed()
        return self


class SmtpChannel(_Frame):
    """E-mail through a mail server, one connection for each message."""

    _config: SmtpConfig

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        sender = _mailbox(self._config.sender)
        try:
            content = _compose(message, sender).as_bytes()
        except _NO_MAIL:
            return _receipt(Handover.RECIPIENT, "address", "This is no address that mail can be sent to.")
        with self._converse(sender) as conversation:
            return _deliver(conversation.introduce(), sender.addr_spec, message.to, content)

    def _probe(self) -> Receipt:
        with self._converse(_mailbox(self._config.sender)) as conversation:
            conversation.introduce()
        words = "Connected and logged in." if self._config.username else "Connected."
        return _receipt(Handover.ACCEPTED, "reached", words)

    def _converse(self, sender: Address) -> _Conversation:
        _check_login(self._config, self._outbound)
        return _Conversation(self._config, self._outbound, sender.domain)


def _compose(message: OutgoingMessage, sender: Address) -> EmailMessage:
    """The message as it is sent, one line to a header. Raises one of _NO_MAIL where it cannot be written."""
    mail = EmailMessage(SMTP_POLICY.clone(cte_type="7bit"))  # nobody asked the server for 8BITMIME
    mail["From"] = sender
    mail["To"] = _address(message.to)
    mail["Subject"] = " ".join("".join(char if char.isprintable() else " " for char in message.subject).split())
    mail["Date"] = formatdate(usegmt=True)
    mail["Message-ID"] = f"<{_identifier(message)}@{sender.domain}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notices in return
    mail.set_content(message.text)
    if message.html:
        mail.add_alternative(message.html, subtype="html")
    return mail


def _deliver(smtp: smtplib.SMTP, sender: str, to: str, content: bytes) -> Receipt:
    code, said = smtp.mail(sender)
    if code not in _DONE:
        return _smtp_refusal(code, said, Handover.OPERATOR)
    code, said = smtp.rcpt(to)
    if code not in _DONE:
        return _smtp_refusal(code, said, Handover.RECIPIENT, _AT_RECIPIENT)
    try:
        code, said = smtp.data(content)
    except smtplib.SMTPDataError as error:
        return _smtp_refusal(error.smtp_code, error.smtp_error, Handover.OPERATOR, _AT_CONTENT)
    except OSError:
        return _receipt(Handover.UNCLEAR, "unclear", "Sent, but the mail server's answer was lost.")
    if code in _DONE:
        return _receipt(Handover.ACCEPTED, "accepted", "The mail server took it.")
    if code in _NOT_NOW or code in _NEVER:
        return _smtp_refusal(code, said, Handover.OPERATOR, _AT_CONTENT)
    return _receipt(Handover.UNCLEAR, "unclear", "Sent, but the mail server's answer makes no sense.")


def _smtp_refusal(
    code: int, said: bytes | str, fault: Handover, exceptions: Mapping[str, Handover] | None = None
) -> Receipt:
    """A refusal: 5xx is final and somebody's fault, all else is worth another attempt."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    enhanced = match[1] if (match := _ENHANCED.match(text)) else ""
    for prefix, other in (exceptions or {}).items():
        fault = other if enhanced.startswith(prefix) else fault
    if code in _LOGIN_CODES:
        fault = Handover.OPERATOR
    handover = fault if code in _NEVER else Handover.RETRY
    return _receipt(handover, f"smtp_{code}", f"The mail server refused: {code}", text)


def _smtp_trouble(error: smtplib.SMTPException) -> Receipt:
    """What went wrong before the message itself was sent."""
    match error:
        case smtplib.SMTPServerDisconnected():
            return _receipt(
                Handover.RETRY, "broken", "The mail server closed the connection, or did not answer in time."
            )
        case smtplib.SMTPResponseException():
            return _smtp_refusal(error.smtp_code, error.smtp_error, Handover.OPERATOR)
        case _:  # STARTTLS or login is configured, and the server does not offer it
            return _receipt(
                Handover.OPERATOR, "not_offered", "The mail server cannot do what is configured.", str(error)
            )


# --- SMS and other gateways ----------------------------------------------------------------------------------

_ERROR_CODE = re.compile(r"[0-9]{1,6}")
_CLICKATELL_CODES = {
    **dict.fromkeys((18, 19, 43), (Handover.RETRY, "Clickatell could not take it now.")),
    **dict.fromkeys((25, 26, 27), (Handover.RECIPIENT, "Clickatell cannot send to this number.")),
    **dict.fromkeys((1, 2, 3, 7, 20), (Handover.OPERATOR, "Clickatell refuses the key, the account or its funds.")),
}


class ClickatellChannel(_Frame):
    """SMS through Clickatell. The status alone is not success: each message has its own word."""

    _config: ClickatellConfig

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        one = {
            "channel": "sms",
            "to": message.to.removeprefix("+"),
            "content": message.text,
            "clientMessageId": _identifier(message),
        }
        headers = {"Authorization": self._config.api_key, "Content-Type": "application/json"}
        body = json.dumps({"messages": [one]}).encode()
        return _read_clickatell(self._outbound.request("POST", self._config.address, headers=headers, body=body))


def _read_clickatell(answer: HttpAnswer) -> Receipt:
    whole = _json_object(answer.body)
    messages = whole.get("messages")
    first = messages[0] if isinstance(messages, list) and messages and isinstance(messages[0], dict) else {}
    if answer.is_success and first.get("accepted") is True:
        return _receipt(Handover.ACCEPTED, "accepted", "Clickatell took it.")
    code = _clickatell_error(first) or _clickatell_error(whole)
    if code in _CLICKATELL_CODES:
        handover, words = _CLICKATELL_CODES[code]
        return _receipt(handover, f"clickatell_{code}", words, f"Code {code}. {_said(answer)}")
    if not answer.is_success:
        return _by_status(answer)
    if code or first.get("accepted") is False:
        return _receipt(Handover.OPERATOR, f"clickatell_{code or 'rejected'}", "Clickatell refused it.", _said(answer))
    return _receipt(Handover.UNCLEAR, "unclear", "Clickatell's answer does not say whether it took it.", _said(answer))


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _clickatell_error(part: Mapping[str, Any]) -> int | None:
    """The code of an error, which is a number, or an object that holds one."""
    error = part.get("error") or part.get("errorCode")
    if isinstance(error, dict):
        error = error.get("code")
    return int(error) if isinstance(error, int | str) and _ERROR_CODE.fullmatch(str(error)) else None


class HttpChannel(_Frame):
    """Any gateway, by template."""

    _config: HttpConfig
    _ABOUT_THIS_MESSAGE = frozenset({400, 422})  # a gateway that works says so of what it cannot deliver

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        headers = {**self._config.headers, "Content-Type": self._config.content_type}
        body = _fill(self._config.body, message, self._config.content_type).encode()
        return self._read(self._outbound.request(self._config.method, self._config.url, headers=headers, body=body))

    def _read(self, answer: HttpAnswer) -> Receipt:
        said, code = _said(answer), f"http_{answer.status}"
        if answer.status in self._ABOUT_THIS_MESSAGE:
            words = f"HTTP {answer.status}: the gateway refused the number or address, or the body template."
            return _receipt(Handover.RECIPIENT, code, words, said)
        if not answer.is_success:
            return _by_status(answer)
        if answer.status in self._config.success and self._config.success_contains in said:
            return _receipt(Handover.ACCEPTED, "accepted", "The gateway took it.")
        if not answer.is_whole:
            return _receipt(Handover.UNCLEAR, "unclear", "The gateway's answer was cut.", said)
        return _receipt(Handover.OPERATOR, code, f"HTTP {answer.status}, but not what counts as success.", said)


def _fill(template: str, message: OutgoingMessage, content_type: str) -> str:
    """The template with its placeholders filled in, in one pass: what is filled in is never read again."""
    values = asdict(message) | {"message_id": _identifier(message)}
    escape = _json_escape if content_type == "application/json" else quote_plus
    return _PLACEHOLDER.sub(lambda match: escape(values[match[1]]), template)


def _json_escape(text: str) -> str:
    return json.dumps(text)[1:-1]


# --- For development -----------------------------------------------------------------------------------------


class ConsoleChannel(_Frame):
    """Writes the message to stderr for a person to read. Not a log: it shows codes, and is for development."""

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        lines = [f"--- {message.kind} to {message.to}", message.subject, message.text, "---"]
        sys.stderr.write("".join(f"{line}\n" for line in lines if line))
        return _receipt(Handover.ACCEPTED, "accepted", "Written to the console.")

    def _probe(self) -> Receipt:
        return _receipt(Handover.ACCEPTED, "reached", "Messages are written to stderr.")


class InboxChannel(_Frame):
    """Hands the message to the sandbox, which shows it to everybody."""

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        headers = {"Content-Type": "application/json"}
        body = json.dumps(asdict(message)).encode()
        return _by_status(self._outbound.request("POST", f"{self._sandbox_url}/messages", headers=headers, body=body))

    def _probe(self) -> Receipt:
        self._outbound.reach(self._sandbox_url)
        return _receipt(Handover.ACCEPTED, "reached", "The sandbox was reached.")


# --- The registry --------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[type[ChannelConfig], type[_Frame]]] = {
    "smtp": (SmtpConfig, SmtpChannel),
    "clickatell": (ClickatellConfig, ClickatellChannel),
    "http": (HttpConfig, HttpChannel),
    "console": (ConsoleConfig, ConsoleChannel),
    "inbox": (InboxConfig, InboxChannel),
}


def parse_channel(table: Mapping[str, object]) -> ChannelConfig:
    """A table of the config file, or a form, as a configuration.

    Raises Misconfigured with one line for each fault, ``key: what is wrong``; no line repeats a value.
    """
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise Misconfigured(f"kind: must be one of {', '.join(KINDS)}")
    try:
        return KINDS[kind][0].model_validate(dict(table))
    except ValidationError as error:
        raise Misconfigured(
            *(_fault(found) for found in error.errors(include_input=False, include_url=False))
        ) from None


def _fault(found: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in found["loc"] if isinstance(part, str)) or "channel"
    if (words := _FAULTS.get(found["type"])) is not None:
        return f"{key}: {words.format_map(found.get('ctx') or {})}"
    if found["type"] == "string_pattern_mismatch":
        return f"{key}: {_PATTERNS.get(key, 'is not written as it must be')}"
    return f"{key}: {str(found['msg']).removeprefix('Value error, ')}"


_FAULTS = {
    "extra_forbidden": "is not known here",
    "missing": "is missing",
    "int_parsing": "must be a whole number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "is missing",
    "too_short": "is missing",
    "literal_error": "must be {expected}",
}
_PATTERNS = {
    "name": "must begin with a small letter or digit, and have only those, - and _; 40 characters at most",
    "host": "must be the name or address of a server, such as smtp.acme.example",
    "countries": "must be countries of two letters, such as ZA",
}


def open_channel(config: ChannelConfig, outbound: Outbound, *, sandbox_url: str) -> Channel:
    """The channel that a configuration describes. ``sandbox_url`` is empty while the sandbox is off."""
    return KINDS[config.kind][1](config, outbound, sandbox_url)
