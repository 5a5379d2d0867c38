"""E-mail through a mail server, within one deadline, and what its answers mean (RFC 5321, 3463, 4954)."""

from __future__ import annotations

import re
import smtplib
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import formatdate, getaddresses
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator

from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels.contract import (
    ChannelConfig,
    Destination,
    Frame,
    Handover,
    OutgoingMessage,
    Receipt,
    identifier,
    receipt,
)
from auth_portal.gateways.way_out import WayOut

SMTP_SECONDS = 10.0  # a whole SMTP conversation, of which connecting is the first part
SMTP_CONNECT_SECONDS = 3.0
_PLAIN_TEXT = re.compile(r"[\x20-\x7e]*")
_E_MAIL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,253}")
_ENHANCED = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\b")  # RFC 3463
_NO_MAIL = (ValueError, IndexError, MessageError)  # what the email package raises for what is no mail
_DONE, _NOT_NOW, _NEVER = range(200, 300), range(400, 500), range(500, 600)  # RFC 5321, 4.2.1
_LOGIN_CODES = frozenset({530, 534, 535, 538})  # RFC 4954, 6
# Whose fault a final refusal is, where the enhanced code says otherwise than the command that was refused.
_AT_RECIPIENT = {"5.7.": Handover.OPERATOR, "5.1.7": Handover.OPERATOR, "5.1.8": Handover.OPERATOR}
_AT_CONTENT = {"5.1.1": Handover.RECIPIENT, "5.1.2": Handover.RECIPIENT, "5.2.": Handover.RECIPIENT}


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

    def check_way_out(self, outbound: WayOut) -> None:
        """The same for a mail server, and for a login that would go out open."""
        outbound.check_mail_host(self.host, self.port)
        self.check_login(outbound)

    def check_login(self, outbound: WayOut) -> None:
        """Raises Misconfigured where a login would be sent open to a server that is not declared private."""
        is_open = self.security == "none" and bool(self.username)
        if is_open and not outbound.is_private(self.host, self.port):
            raise Misconfigured(
                "A login needs security starttls or tls, or a server that the operator declared private."
            )

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

    def __init__(self, config: SmtpConfig, outbound: WayOut, our_name: str) -> None:
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


class SmtpChannel(Frame):
    """E-mail through a mail server, one connection for each message."""

    _config: SmtpConfig

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        sender = _mailbox(self._config.sender)
        try:
            content = _compose(message, sender).as_bytes()
        except _NO_MAIL:
            return receipt(Handover.RECIPIENT, "address", "This is no address that mail can be sent to.")
        with self._converse(sender) as conversation:
            return _deliver(conversation.introduce(), sender.addr_spec, message.to, content)

    def _probe(self) -> Receipt:
        with self._converse(_mailbox(self._config.sender)) as conversation:
            conversation.introduce()
        words = "Connected and logged in." if self._config.username else "Connected."
        return receipt(Handover.ACCEPTED, "reached", words)

    def _settle(self, attempt: Callable[[], Receipt]) -> Receipt:
        def conversation() -> Receipt:
            try:
                return attempt()
            except smtplib.SMTPException as error:
                return _smtp_trouble(error)

        return super()._settle(conversation)

    def _converse(self, sender: Address) -> _Conversation:
        self._config.check_login(self._outbound)
        return _Conversation(self._config, self._outbound, sender.domain)


def _compose(message: OutgoingMessage, sender: Address) -> EmailMessage:
    """The message as it is sent, one line to a header. Raises one of _NO_MAIL where it cannot be written."""
    mail = EmailMessage(SMTP_POLICY.clone(cte_type="7bit"))  # nobody asked the server for 8BITMIME
    mail["From"] = sender
    mail["To"] = _address(message.to)
    mail["Subject"] = " ".join("".join(char if char.isprintable() else " " for char in message.subject).split())
    mail["Date"] = formatdate(usegmt=True)
    mail["Message-ID"] = f"<{identifier(message)}@{sender.domain}>"
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
        return receipt(Handover.UNCLEAR, "unclear", "Sent, but the mail server's answer was lost.")
    if code in _DONE:
        return receipt(Handover.ACCEPTED, "accepted", "The mail server took it.")
    if code in _NOT_NOW or code in _NEVER:
        return _smtp_refusal(code, said, Handover.OPERATOR, _AT_CONTENT)
    return receipt(Handover.UNCLEAR, "unclear", "Sent, but the mail server's answer makes no sense.")


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
    return receipt(handover, f"smtp_{code}", f"The mail server refused: {code}", text)


def _smtp_trouble(error: smtplib.SMTPException) -> Receipt:
    """What went wrong before the message itself was sent."""
    match error:
        case smtplib.SMTPServerDisconnected():
            return receipt(
                Handover.RETRY, "broken", "The mail server closed the connection, or did not answer in time."
            )
        case smtplib.SMTPResponseException():
            return _smtp_refusal(error.smtp_code, error.smtp_error, Handover.OPERATOR)
        case _:  # STARTTLS or login is configured, and the server does not offer it
            return receipt(
                Handover.OPERATOR, "not_offered", "The mail server cannot do what is configured.", str(error)
            )
