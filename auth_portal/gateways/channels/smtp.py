"""Email through a mail server, within one deadline, and what its answers mean (RFC 5321, 3463, 4954)."""

from __future__ import annotations

import base64
import re
import smtplib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import formatdate, getaddresses
from typing import Annotated, Literal, Self

import idna
from pydantic import Field, field_validator

from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels.contract import (
    Channel,
    ChannelConfig,
    Destination,
    FormField,
    Handover,
    KindWords,
    OutgoingMessage,
    Receipt,
    hourly_cap_field,
    identifier,
    mail_cap_field,
    receipt,
)
from auth_portal.gateways.way_out import MAIL_SECONDS, WayOut

SMTP_SECONDS = MAIL_SECONDS  # a whole conversation, of which connecting is the first part
SMTP_CONNECT_SECONDS = 3.0
_HOST = re.compile(r"[A-Za-z0-9:._-]{1,253}")
_PLAIN_TEXT = re.compile(r"[\x20-\x7e]*")
_E_MAIL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,253}")
_ENHANCED = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\b")  # RFC 3463
_NO_MAIL = (ValueError, IndexError, MessageError)  # what the email package raises for what cannot be email
_LINE_WITH_A_DOT = re.compile(rb"^\.", re.MULTILINE)  # which would end the message (RFC 5321, 4.5.2)
_GO_ON = 354  # the answer to DATA
_DONE, _NOT_NOW, _NEVER = range(200, 300), range(400, 500), range(500, 600)  # RFC 5321, 4.2.1
_LOGIN_CODES = frozenset({530, 534, 535, 538})  # RFC 4954, 6
_LOGGED_IN = (235, 503)  # the latter: already
_CHALLENGE = 334
_NOT_UNDERSTOOD = (500, 501, 502, 504)  # RFC 5321, 4.2.2: the command is at fault, and not the password
_MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")
_GREETING = "the greeting"
_VERB = re.compile(r"(?i:ehlo|helo|starttls|auth|mail|rcpt|data|quit)\b")
# Who has to act on a final refusal, if the enhanced code says otherwise than the command that was refused.
_AT_RECIPIENT = {"5.7.": Handover.OPERATOR, "5.1.7": Handover.OPERATOR, "5.1.8": Handover.OPERATOR}
_AT_CONTENT = {"5.1.1": Handover.RECIPIENT, "5.1.2": Handover.RECIPIENT, "5.2.": Handover.RECIPIENT}


class SmtpConfig(ChannelConfig):
    """A mail server. A login is sent only over TLS, or to a server that the operator declared private."""

    WORDS = KindWords(
        "mail server (SMTP)",
        "Sends email. You need the name of your mail server and, usually, a mailbox with its password.",
    )
    FORM = (
        FormField("host", "Mail server", "Such as smtp.acme.example", is_required=True),
        FormField(
            "port",
            "Port",
            "587 with STARTTLS, 465 with TLS. 25 and 2525 also work.",
            start="587",
            is_required=True,
            inputmode="numeric",
        ),
        FormField(
            "security",
            "Security",
            "User name and password are sent only over an encrypted connection.",
            start="starttls",
            choices=(
                ("starttls", "STARTTLS: starts unencrypted, then encrypts"),
                ("tls", "TLS: encrypted from the start"),
                ("none", "none: anyone on the network can read the messages"),
            ),
        ),
        FormField("username", "User name", "Leave empty if the server needs no login.", keeps_empty=True),
        FormField("password", "Password", "The password of this mailbox.", is_secret=True, keeps_empty=True),
        FormField(
            "sender",
            "Sender",
            "An address, with or without a name: Acme Bank &lt;no-reply@acme.example&gt;",
            is_required=True,
        ),
        mail_cap_field(),
        hourly_cap_field(),
    )
    SECRETS = frozenset({"password"})

    kind: Literal["smtp"] = "smtp"
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    security: Literal["none", "starttls", "tls"]
    username: str = ""
    password: Annotated[str, Field(repr=False)] = ""
    sender: str

    @property
    def message_kinds(self) -> frozenset[str]:
        """Return email only."""
        return frozenset({"email"})

    @property
    def destination(self) -> Destination:
        """Return the mail server, and how the connection is protected."""
        return Destination(self.host.lower(), self.port, ("none", "starttls", "tls").index(self.security))

    def check_way_out(self, outbound: WayOut) -> None:
        """Raise Misconfigured also for a login that would be sent unencrypted."""
        outbound.check_mail_host(self.host, self.port)
        self.check_login(outbound)

    def check_login(self, outbound: WayOut) -> None:
        """Raise Misconfigured if a login would be sent unencrypted to a server that is not declared private."""
        is_open = self.security == "none" and bool(self.username)
        if is_open and not outbound.is_private(self.host, self.port):
            raise Misconfigured(
                "A login needs security starttls or tls, or a server that the operator declared private."
            )

    @field_validator("host")
    @classmethod
    def _is_host(cls, value: str) -> str:
        if not _HOST.fullmatch(value):
            raise ValueError("must be the name or address of a server, such as smtp.acme.example")
        return value

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
    """Return one address, with or without a name; an international domain as DNS has it.

    Raise one of _NO_MAIL for anything else.
    """
    if not text.isprintable():
        raise ValueError("control characters")
    [(display_name, address)] = getaddresses([text])
    local, _, domain = address.rpartition("@")
    if not domain.isascii():
        address = f"{local}@{idna.encode(domain, uts46=True).decode()}"  # its own error is a ValueError, too
    return _address(address, display_name)


def _address(text: str, display_name: str = "") -> Address:
    if not _E_MAIL.fullmatch(text):
        raise ValueError("no address")
    return Address(display_name, addr_spec=text)


class _NoAnswer(smtplib.SMTPServerDisconnected):
    """The server closed the connection, or the time was over; the text says after what."""


class _Conversation(smtplib.SMTP):
    """smtplib over one of our sockets, which ends at its deadline."""

    def __init__(self, config: SmtpConfig, outbound: WayOut, our_name: str) -> None:
        self._config = config
        self._outbound = outbound
        self._awaited = _GREETING
        # Without a name smtplib asks DNS for this machine's, with no time limit.
        super().__init__(config.host, config.port, local_hostname=our_name)

    def _get_socket(self, host: str, port: int, timeout: float | None) -> socket.socket:
        deadline = time.monotonic() + SMTP_SECONDS
        sock = self._outbound.connect(host, port, connect_seconds=SMTP_CONNECT_SECONDS, deadline=deadline)
        return self._outbound.tls.wrap_socket(sock, server_hostname=host) if self._config.security == "tls" else sock

    def __exit__(self, *args: object) -> None:
        with suppress(OSError):  # politeness is not worth waiting for
            self.putcmd("quit")
        self.close()

    def putcmd(self, cmd: str, args: str = "") -> None:
        if verb := _VERB.match(cmd):  # else the line of a login
            self._awaited = verb[0].upper()
        super().putcmd(cmd, args)

    def getreply(self) -> tuple[int, bytes]:
        try:
            return super().getreply()
        except smtplib.SMTPServerDisconnected as error:
            is_late = isinstance(error.__context__, TimeoutError)
            words = "The mail server closed the connection without a greeting."
            if self._awaited != _GREETING:
                missed = (
                    f"did not answer {self._awaited} in time"
                    if is_late
                    else f"closed the connection after {self._awaited}"
                )
                words = f"The mail server {missed}."
            elif is_late:
                words = f"The mail server greeted too late: {SMTP_SECONDS:g} s is the most that a message may take."
                if self._config.security != "tls":
                    words += " At a port for TLS, such as 465, it waits for TLS: choose that."
            raise _NoAnswer(words) from error

    def introduce(self) -> Self:
        """Do STARTTLS and login as configured; an unencrypted connection never replaces an encrypted one."""
        if self._config.security == "starttls":
            self.starttls(context=self._outbound.tls)
        self.ehlo_or_helo_if_needed()
        if self._config.username:
            self._log_in()
        return self

    def _log_in(self) -> None:
        """Log in by one of the mechanisms that the server offers; some servers refuse one that they offer.

        LOGIN begins without a response, because the drafts of it know none and some servers refuse it; for servers that
        refuse it with PLAIN as well, PLAIN is repeated without.
        """
        self.user, self.password = self._config.username, self._config.password
        offered = self.esmtp_features.get("auth", "").upper().split()
        refusal: smtplib.SMTPException = smtplib.SMTPNotSupportedError(
            _no_mechanism(offered, has_starttls=self.has_extn("starttls"))
        )
        plain = _base64(f"\0{self.user}\0{self.password}")
        for mechanism in (name for name in _MECHANISMS if name in offered):
            try:
                if mechanism == "PLAIN":
                    code, said = self._authenticate(f"PLAIN {plain}", plain)
                    if code in _NOT_UNDERSTOOD:
                        code, said = self._authenticate("PLAIN", plain)
                elif mechanism == "LOGIN":
                    code, said = self._authenticate("LOGIN", _base64(self.user), _base64(self.password))
                else:
                    code, said = self._authenticate("CRAM-MD5", self._digest)
            except smtplib.SMTPServerDisconnected:  # some servers hang up after a refusal, which says more
                if isinstance(refusal, smtplib.SMTPAuthenticationError):
                    raise refusal from None
                raise
            if code in _LOGGED_IN:
                return
            refusal = smtplib.SMTPAuthenticationError(code, said)
        raise refusal

    def _authenticate(self, start: str, *responses: str | Callable[[bytes], str]) -> tuple[int, bytes]:
        """Start a login, and give one response to each challenge of the server."""
        code, said = self.docmd("AUTH", start)
        for response in responses:
            if code != _CHALLENGE:
                break
            code, said = self.docmd(response if isinstance(response, str) else response(said))
        return code, said

    def _digest(self, challenge: bytes) -> str:
        try:
            return _base64(self.auth_cram_md5(base64.b64decode(challenge, validate=True)) or "")
        except ValueError:  # no challenge, or a system without MD5
            return "*"  # which ends this attempt (RFC 4954, 4)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _no_mechanism(offered: Sequence[str], *, has_starttls: bool) -> str:
    """Return in words why no login is possible."""
    if offered:
        return f"It offers a login by {', '.join(offered)} only; the portal knows {', '.join(_MECHANISMS)}."
    if has_starttls:
        return "It offers a login only after STARTTLS: set Security to STARTTLS."
    return "It offers no login: remove user name and password, or use the port for senders, such as 587 or 465."


class SmtpChannel(Channel):
    """Send email through a mail server, one connection for each message."""

    config_type = SmtpConfig
    _config: SmtpConfig

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        sender = _mailbox(self._config.sender)
        try:
            content = _compose(message, sender).as_bytes()
        except _NO_MAIL:
            return receipt(Handover.RECIPIENT, "address", "This is not an address that email can be sent to.")
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
            except _NoAnswer as error:
                return receipt(Handover.RETRY, "broken", str(error))
            except smtplib.SMTPServerDisconnected:
                return receipt(Handover.RETRY, "broken", "The mail server closed the connection.")
            except smtplib.SMTPResponseException as error:
                return _smtp_refusal(error.smtp_code, error.smtp_error, Handover.OPERATOR)
            except smtplib.SMTPException as error:  # STARTTLS or login is configured, and the server does not offer it
                words = "The mail server cannot do what is configured."
                return receipt(Handover.OPERATOR, "not_offered", words, str(error))

        return super()._settle(conversation)

    def _converse(self, sender: Address) -> _Conversation:
        self._config.check_login(self._outbound)
        return _Conversation(self._config, self._outbound, sender.domain)


def _compose(message: OutgoingMessage, sender: Address) -> EmailMessage:
    """Return the message as it is sent, one line to a header. Raise one of _NO_MAIL if it cannot be written."""
    mail = EmailMessage(SMTP_POLICY.clone(cte_type="7bit"))  # the server was not asked for 8BITMIME
    mail["From"] = sender
    mail["To"] = _address(message.to)
    mail["Subject"] = _one_line(message.subject)
    mail["Date"] = formatdate(usegmt=True)
    mail["Message-ID"] = f"<{identifier(message)}@{sender.domain}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notices in return
    mail.set_content(message.text)
    if message.html:
        mail.add_alternative(message.html, subtype="html")
    return mail


def _one_line(text: str) -> str:
    """Return a text for a header, as one line that says what the text says.

    The email package decodes what looks like an encoded word (RFC 2047), so that a payee such as ``=?utf-8?q?=0D=0A?=``
    would end the header, and one that hides a name would show it in the subject alone.
    """
    seen = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(seen.replace("=?", "= ?").split())


def _deliver(smtp: smtplib.SMTP, sender: str, to: str, content: bytes) -> Receipt:
    code, said = smtp.mail(sender)
    if code not in _DONE:
        return _smtp_refusal(code, said, Handover.OPERATOR)
    code, said = smtp.rcpt(to)
    if code not in _DONE:
        return _smtp_refusal(code, said, Handover.RECIPIENT, _AT_RECIPIENT)
    code, said = smtp.docmd("DATA")
    if code != _GO_ON:
        return _smtp_refusal(code, said, Handover.OPERATOR, _AT_CONTENT)
    smtp.send(_LINE_WITH_A_DOT.sub(b"..", content.removesuffix(b"\r\n")) + b"\r\n")
    try:
        # Without this line the server has nothing to deliver (RFC 5321, 4.1.1.4): what breaks before it was not taken.
        smtp.send(b".\r\n")
        code, said = smtp.getreply()
    except OSError:
        return receipt(Handover.UNCLEAR, "unclear", "Sent, but the mail server's answer was lost.")
    if code in _DONE:
        return receipt(Handover.ACCEPTED, "accepted", "The mail server accepted the message.")
    if code in _NOT_NOW or code in _NEVER:
        return _smtp_refusal(code, said, Handover.OPERATOR, _AT_CONTENT)
    return receipt(Handover.UNCLEAR, "unclear", "Sent, but the mail server's answer makes no sense.")


def _smtp_refusal(
    code: int, said: bytes | str, fault: Handover, exceptions: Mapping[str, Handover] | None = None
) -> Receipt:
    """Return the receipt of a refusal: 5xx is final, and anything else is worth another attempt."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    enhanced = match[1] if (match := _ENHANCED.match(text)) else ""
    for prefix, other in (exceptions or {}).items():
        fault = other if enhanced.startswith(prefix) else fault
    if code in _LOGIN_CODES:
        fault = Handover.OPERATOR
    handover = fault if code in _NEVER else Handover.RETRY
    return receipt(handover, f"smtp_{code}", f"The mail server refused: {code}", text)
