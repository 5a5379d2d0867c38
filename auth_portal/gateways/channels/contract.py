"""What a channel is: its configuration with words and form, the message it is given, and the receipt it returns.

A new kind is one file with a ``ChannelConfig`` and a ``Channel``, its test (a subclass of ``ChannelContract``), and one
line in the registry. Its form comes from the fields that it describes; if it needs more, that stands in
``templates/channels/<kind>.html``. Texts are in English; pages look them up in the reader's language.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from auth_portal.errors import Misconfigured
from auth_portal.gateways.flow import Fate, fate_of, retry_after
from auth_portal.gateways.way_out import Blocked, HttpAnswer, NotReached, OutboundError, Untrusted, WayOut, check_header
from auth_portal.telemetry import DETAIL_LENGTH, mask, without_numbers_of

MESSAGE_ID_LENGTH = 64  # characters; what Clickatell takes as clientMessageId
_RESERVED = (
    "Links without a ticket stop at 70\u00a0%%: the rest is reserved for links whose ticket your flow registered."
)


@dataclass(frozen=True)
class OutgoingMessage:
    """A message. ``to`` is an E.164 number with its plus, or an email address. SMS has neither subject nor HTML.

    ``message_id`` is the same for every attempt at one delivery, so that a repeat can be recognised.
    """

    kind: Literal["sms", "email"]
    to: str
    subject: str
    text: str
    html: str
    message_id: str


class Handover(StrEnum):
    """The result of one attempt, and who has to act."""

    ACCEPTED = "accepted"
    RETRY = "retry"  # not taken, and worth another attempt
    RECIPIENT = "recipient"  # final: the number or address is at fault
    OPERATOR = "operator"  # final until an admin fixes key, account, funds, login or configuration
    UNCLEAR = "unclear"  # perhaps taken


@dataclass(frozen=True)
class Receipt:
    """A result in words. ``code`` is stable, for counting; ``detail`` is for the admin: masked, 200 characters.

    ``retry_after_seconds`` is None if the other side named no wait.
    """

    handover: Handover
    code: str
    detail: str
    retry_after_seconds: float | None = None


def receipt(handover: Handover, code: str, words: str, said: str = "") -> Receipt:
    """Return a receipt in one masked line: our words, then what the other side ``said``."""
    ours, theirs = (" ".join("".join(c if c.isprintable() else " " for c in text).split()) for text in (words, said))
    return Receipt(handover, code, f"{mask(ours)} {mask(theirs)}".strip()[:DETAIL_LENGTH])  # no number spans both


@dataclass(frozen=True)
class KindWords:
    """What a kind of channel is called."""

    name: str  # within a sentence
    about: str  # what it carries and what an admin needs for it, where the kind is chosen
    provider: str = ""  # what reports call a channel of this kind, if not by its own name


@dataclass(frozen=True)
class FormField:
    """One field, with the name of its key in the config file."""

    name: str
    label: str
    help: str = ""
    start: str = ""  # in the form of a new channel
    is_required: bool = False
    is_secret: bool = False
    is_list: bool = False  # several values, with commas between them
    keeps_empty: bool = False  # an empty field is a value, and not the same as a missing key
    choices: tuple[tuple[str, str], ...] = ()
    rows: int = 0  # more than none: several lines of code
    input_type: str = "text"
    inputmode: str = ""

    def read(self, typed: str) -> Any:
        """Return the value for the config file, or None to leave the key out."""
        if self.is_list:
            return tuple(re.findall(r"[^\s,;]+", typed))
        return typed if typed or self.keeps_empty else None

    def show(self, value: Any) -> str:
        """Return a stored value as the field shows it."""
        if isinstance(value, list | tuple):
            return ", ".join(str(item) for item in value)
        return "" if value is None else str(value)

    def show_secret(self, names: Sequence[str]) -> str:
        """Return what the field shows of a stored secret; ``names`` are those of its parts."""
        return ""


def read_fields(fields: Iterable[FormField], typed: Mapping[str, str]) -> dict[str, Any]:
    """Return what was typed as a table of the config file."""
    values = {field.name: field.read(typed.get(field.name, "")) for field in fields}
    return {name: value for name, value in values.items() if value is not None}


def show_fields(
    fields: Iterable[FormField], settings: Mapping[str, Any], secrets: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Return a stored channel as its form shows it."""
    return {
        field.name: field.show_secret(secrets.get(field.name, ()))
        if field.is_secret
        else field.show(settings.get(field.name))
        for field in fields
    }


class Destination(NamedTuple):
    """Where a channel's secrets go. ``security``: 0 open, 1 encrypted after an open start, 2 encrypted."""

    host: str
    port: int
    security: int


Country = Annotated[
    str,
    BeforeValidator(lambda value: value.strip().upper() if isinstance(value, str) else value),
    Field(pattern=r"^[A-Z]{2}$"),
]


class ChannelConfig(BaseModel):
    """What all kinds share.

    ``countries`` are those SMS may go to; ``daily_cap`` and ``hourly_cap`` are the most messages a day and an hour.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    WORDS: ClassVar[KindWords]
    FORM: ClassVar[tuple[FormField, ...]]  # after the name, which every channel has
    SECRETS: ClassVar[frozenset[str]] = frozenset()
    NEEDS_SANDBOX: ClassVar[bool] = False  # it shows codes to anyone, so it works only while the sandbox is on

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
    kind: str
    countries: tuple[Country, ...] = ()
    daily_cap: Annotated[int | None, Field(ge=1)] = None
    hourly_cap: Annotated[int | None, Field(ge=1)] = None

    @property
    def message_kinds(self) -> frozenset[str]:
        """Return which of ``sms`` and ``email`` it carries."""
        return frozenset({"sms", "email"})

    def sends_to(self, carries: str, country: str) -> bool:
        """Report whether ``sms`` or ``email`` may go to a country. Email may go everywhere: the list is for phones."""
        return carries != "sms" or not self.countries or country in self.countries

    @property
    def destination(self) -> Destination:
        """Return where its secrets go; the same nowhere for kinds that have none."""
        return Destination("", 0, 2)

    @property
    def address(self) -> str:
        """Return the URL that it calls, empty if it calls none."""
        return ""

    def check_way_out(self, outbound: WayOut) -> None:
        """Raise Misconfigured if the operator's policy forbids its destination. Uses no network."""
        if self.address:
            outbound.check_origin(self.address)


def countries_field(more_help: str = "", *, is_required: bool = False) -> FormField:
    """Return the field of the allow-list of countries, for a kind that carries SMS."""
    help_text = "SMS are sent only to numbers of these countries. Two letters each, such as ZA, NA."
    return FormField(
        "countries", "Countries", f"{help_text} {more_help}".strip(), is_required=is_required, is_list=True
    )


def sms_cap_field(more_help: str = "", *, is_required: bool = False) -> FormField:
    """Return the field of the daily cap, for a kind that carries SMS."""
    help_text = f"Most SMS per day for each country. It limits what an attacker can cost you. {_RESERVED}"
    return FormField(
        "daily_cap", "Daily cap", f"{help_text} {more_help}".strip(), is_required=is_required, inputmode="numeric"
    )


def hourly_cap_field() -> FormField:
    """Return the field of the hourly cap, for every kind that costs money or has a quota."""
    help_text = f"Most messages per hour, for SMS for each country. Leave empty for no cap. {_RESERVED}"
    return FormField("hourly_cap", "Hourly cap", help_text, inputmode="numeric")


def mail_cap_field() -> FormField:
    """Return the field of the daily cap, for a kind that only carries email."""
    return FormField(
        "daily_cap", "Daily cap", f"Most messages per day. Leave empty for no cap. {_RESERVED}", inputmode="numeric"
    )


def checked_url(value: str) -> str:
    """Return a URL as it was typed. Raise ValueError for anything else."""
    parts = urlsplit(value)  # whether it may be called is for check_way_out
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("must be a URL such as https://gateway.example")
    return value


def checked_header(name: str, value: str) -> str:
    """Return a header's value as it was typed. Raise ValueError if it cannot be sent."""
    try:
        check_header(name, value)
    except Blocked as refusal:
        raise ValueError(refusal.reason) from None
    return value


def url_destination(url: str) -> Destination:
    """Return host, port and security of a URL."""
    parts = urlsplit(url)
    is_https = parts.scheme == "https"
    return Destination((parts.hostname or "").lower(), parts.port or (443 if is_https else 80), 2 if is_https else 0)


class Channel(ABC):
    """Send messages, and turn everything that can go wrong outside into a receipt. A kind only knows how it sends."""

    config_type: ClassVar[type[ChannelConfig]]

    def __init__(self, config: Any, outbound: WayOut, sandbox_url: str) -> None:
        self._config = config
        self._outbound = outbound
        self._sandbox_url = sandbox_url
        self.carries: frozenset[str] = config.message_kinds

    def send(self, message: OutgoingMessage) -> Receipt:
        """Hand the message over, once. Raise nothing that network, provider or message could cause."""
        if message.kind not in self.carries:
            return receipt(Handover.OPERATOR, "wrong_kind", f"This channel does not carry {message.kind}.")
        found = self._settle(lambda: self._hand_over(message))
        return replace(found, detail=without_numbers_of(f"{message.to} {message.subject} {message.text}", found.detail))

    def check(self) -> Receipt:
        """Go as far as possible without sending a message: connect, and log in if there is a login."""
        return self._settle(self._probe)

    def _settle(self, attempt: Callable[[], Receipt]) -> Receipt:
        if self._config.NEEDS_SANDBOX and not self._sandbox_url:
            return receipt(Handover.OPERATOR, "sandbox_off", "This kind of channel needs the sandbox, which is off.")
        try:
            return attempt()
        except Misconfigured as error:
            return receipt(Handover.OPERATOR, "misconfigured", str(error))
        except Blocked as error:
            return receipt(Handover.OPERATOR, "blocked", error.reason)
        except Untrusted as error:
            return receipt(Handover.OPERATOR, "untrusted", "Not trusted:", error.reason)
        except NotReached as error:
            return receipt(Handover.RETRY, "not_reached", "Not reached:", error.reason)
        except OutboundError as error:
            return receipt(Handover.UNCLEAR, "unclear", "Sent, but", error.reason)
        except OSError:
            return receipt(Handover.RETRY, "broken", "The connection broke before the message was sent.")

    def _probe(self) -> Receipt:
        self._outbound.reach(self._config.address)
        return receipt(
            Handover.ACCEPTED, "reached", "The server was reached. Only a message shows whether it accepts us."
        )

    @abstractmethod
    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        """Send the message once, through ``WayOut``, and report what the provider did with it.

        Return RETRY only if the message was certainly not taken: it is sent again until its code expires. Everything
        that may have been taken is UNCLEAR, and is repeated once (D13). An OSError that is raised counts as RETRY, so
        catch those that come after the message was sent.
        """


_HANDOVERS = {
    Fate.ACCEPTED: Handover.ACCEPTED,
    Fate.RETRY: Handover.RETRY,
    Fate.UNCLEAR: Handover.UNCLEAR,
    Fate.REFUSED: Handover.OPERATOR,
}
# The statuses that say that a request was not processed (RFC 9110, 15.5.9 and 15.6.4; RFC 6585, 4; RFC 8470, 5.2). Any
# other 5xx may come from a gateway that had already passed the message on.
_NOT_PROCESSED = frozenset({408, 425, 429, 503})


def by_status(answer: HttpAnswer) -> Receipt:
    """Return what the status alone says: as for a callback, and a refusal is the operator's to fix."""
    handover = _HANDOVERS[fate_of(answer.status)]
    if handover is Handover.RETRY and answer.status not in _NOT_PROCESSED:
        handover = Handover.UNCLEAR
    code = "accepted" if handover is Handover.ACCEPTED else f"http_{answer.status}"
    found = receipt(handover, code, f"HTTP {answer.status}.", said_in(answer))
    wait = retry_after(answer.headers.get("Retry-After", ""), None) if handover is Handover.RETRY else None
    return replace(found, retry_after_seconds=wait)


def said_in(answer: HttpAnswer) -> str:
    """Return the body of an answer as text."""
    return answer.body.decode("utf-8", "replace")


def identifier(message: OutgoingMessage) -> str:
    """Return the message's id in characters that every provider accepts."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", message.message_id)[:MESSAGE_ID_LENGTH]
