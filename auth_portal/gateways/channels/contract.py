"""What a channel is: its configuration, what it is given, what it says, and the frame around every kind.

The frame turns everything that can go wrong outside into a receipt, so that a kind only says how it sends.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from auth_portal.errors import Misconfigured
from auth_portal.gateways.flow import Fate, fate_of
from auth_portal.gateways.outbound import check_header
from auth_portal.gateways.way_out import Blocked, HttpAnswer, NotReached, OutboundError, Untrusted, WayOut
from auth_portal.telemetry import mask

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


def receipt(handover: Handover, code: str, words: str, said: str = "") -> Receipt:
    """A receipt in one masked line: our words, then what the other side ``said``."""
    text = "".join(char if char.isprintable() else " " for char in f"{words} {said}")
    return Receipt(handover, code, mask(" ".join(text.split())))


class Destination(NamedTuple):
    """Where a channel's secrets go. ``security``: 0 open, 1 encrypted after an open start, 2 encrypted."""

    host: str
    port: int
    security: int


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


Country = Annotated[str, BeforeValidator(_upper), Field(pattern=r"^[A-Z]{2}$")]


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

    def sends_to(self, carries: str, country: str) -> bool:
        """Whether ``sms`` or ``email`` may go to a country. The allow-list is one of phones: e-mail goes everywhere."""
        return carries != "sms" or not self.countries or country in self.countries

    @property
    def destination(self) -> Destination:
        """Where it goes; the same nowhere for kinds that have no secrets."""
        return Destination("", 0, 2)

    @property
    def address(self) -> str:
        """The URL that it calls, empty where it calls none."""
        return ""

    def check_way_out(self, outbound: WayOut) -> None:
        """Raises Misconfigured where the operator's policy would never let it out. No network."""
        if self.address:
            outbound.check_origin(self.address)


def checked_url(value: str) -> str:
    """A URL as it was typed. Raises ValueError for what is none."""
    parts = urlsplit(value)  # whether it may be called is asked of Outbound, which knows the operator's policy
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("must be a URL such as https://gateway.example")
    return value


def checked_header(name: str, value: str) -> str:
    """A header's value as it was typed. Raises ValueError for what cannot be sent."""
    try:
        check_header(name, value)
    except Blocked as refusal:
        raise ValueError(refusal.reason) from None
    return value


def url_destination(url: str) -> Destination:
    """Host, port and security of a URL."""
    parts = urlsplit(url)
    is_https = parts.scheme == "https"
    return Destination((parts.hostname or "").lower(), parts.port or (443 if is_https else 80), 2 if is_https else 0)


class Frame(ABC):
    """Turns everything that can go wrong outside into a receipt, so that a kind only says how it sends."""

    def __init__(self, config: Any, outbound: WayOut, sandbox_url: str) -> None:
        self._config = config
        self._outbound = outbound
        self._sandbox_url = sandbox_url
        self.carries: frozenset[str] = config.message_kinds

    def send(self, message: OutgoingMessage) -> Receipt:
        """Hands the message over, once."""
        if message.kind not in self.carries:
            return receipt(Handover.OPERATOR, "wrong_kind", f"This channel does not carry {message.kind}.")
        return self._settle(lambda: self._hand_over(message))

    def check(self) -> Receipt:
        """Goes as far as it can without sending a message."""
        return self._settle(self._probe)

    def _settle(self, attempt: Callable[[], Receipt]) -> Receipt:
        if self._config.NEEDS_SANDBOX and not self._sandbox_url:
            return receipt(Handover.OPERATOR, "sandbox_off", "This kind of channel needs the sandbox, which is off.")
        try:
            return attempt()
        except Misconfigured as error:
            return receipt(Handover.OPERATOR, "misconfigured", str(error))
        except OutboundError as error:
            return _lost_way(error)
        except OSError:
            return receipt(Handover.RETRY, "broken", "The connection broke before the message was sent.")

    def _probe(self) -> Receipt:
        self._outbound.reach(self._config.address)
        return receipt(
            Handover.ACCEPTED, "reached", "The server was reached. Only a message shows whether it accepts us."
        )

    @abstractmethod
    def _hand_over(self, message: OutgoingMessage) -> Receipt: ...


def _lost_way(error: OutboundError) -> Receipt:
    match error:
        case Blocked():
            return receipt(Handover.OPERATOR, "blocked", error.reason)
        case Untrusted():
            return receipt(Handover.OPERATOR, "untrusted", "Not trusted:", error.reason)
        case NotReached():
            return receipt(Handover.RETRY, "not_reached", "Not reached:", error.reason)
        case _:
            return receipt(Handover.UNCLEAR, "unclear", "Sent, but", error.reason)


_HANDOVERS = {
    Fate.ACCEPTED: Handover.ACCEPTED,
    Fate.RETRY: Handover.RETRY,
    Fate.UNCLEAR: Handover.UNCLEAR,
    Fate.REFUSED: Handover.OPERATOR,
}


def by_status(answer: HttpAnswer) -> Receipt:
    """What the status alone says: the same as for a callback, a refusal being the operator's to mend."""
    handover = _HANDOVERS[fate_of(answer.status)]
    code = "accepted" if handover is Handover.ACCEPTED else f"http_{answer.status}"
    return receipt(handover, code, f"HTTP {answer.status}.", said_in(answer))


def said_in(answer: HttpAnswer) -> str:
    """The body of an answer as text."""
    return answer.body.decode("utf-8", "replace")


def identifier(message: OutgoingMessage) -> str:
    """The message's id in the characters that every provider takes."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", message.message_id)[:MESSAGE_ID_LENGTH]
