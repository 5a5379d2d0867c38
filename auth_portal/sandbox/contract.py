"""What the sandbox is told of the portal, and the words that people and scripts use to steer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Self

Contract = Literal["external_link", "wait_for_callback"]
RelayDefence = Literal["none", "chat_code", "phone_match"]


@dataclass(frozen=True)
class JourneyCard:
    """A journey as a flow's author knows it: where the node's link leads and which answers it has to tell apart."""

    slug: str
    name: str
    is_default: bool = False
    contract: Contract = "external_link"
    results: Mapping[str, str] = field(default_factory=dict)  # outcome -> text that the Logic section compares
    data: tuple[str, ...] = ()  # keys that arrive with every answer
    chat_seconds: int = 600
    relay_defence: RelayDefence = "none"
    compares: str = ""  # the key in the data that the flow's compare node looks at, where the defence needs one
    methods_text: str = ""  # such as "SMS or e-mail code"
    business: str = "Acme Bank"

    @property
    def success(self) -> str:
        """The one result that lets the flow go on."""
        return self.results.get("verified", "verified")

    @property
    def waits(self) -> bool:
        """Whether a Wait for Callback node takes the answer, and the flow makes the reference itself."""
        return self.contract == "wait_for_callback"

    @property
    def uses_chat_code(self) -> bool:
        """Whether the flow asks for the code of the page and compares it."""
        return self.relay_defence == "chat_code"

    @property
    def needs_ticket(self) -> bool:
        """Whether the flow says whose chat it is before it sends the link."""
        return self.relay_defence == "phone_match"


@dataclass(frozen=True)
class DemoPerson:
    """Somebody from the demo directory whom a newcomer can play. An empty field means that they have none."""

    customer_id: str
    name: str
    phone: str = ""
    email: str = ""
    password: str = ""
    totp_secret: str = ""


class Choice(StrEnum):
    """A word that scripts send, with the sentence that people read beside it."""

    label: str

    def __new__(cls, value: str, label: str = "") -> Self:
        """An enum member that is its word and carries its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member


class ReferenceStyle(Choice):
    """How the reference is written into the link. The first is what Flow documents and does."""

    RAW = "raw", "As Flow sends it: &, % and # left as they are"
    ENCODED = "encoded", "The same, percent-encoded"
    PLAIN = "plain", "A plain UUID"


class Fault(Choice):
    """What goes wrong when the portal tells Flow the result."""

    NONE = "none", "Nothing goes wrong"
    SLOW = "slow", "Flow takes 6 seconds to answer"
    REFUSED = "400", "Flow refuses every time (400)"
    ERROR_ONCE = "500_once", "Flow breaks once (500), then works"
    ERROR = "500", "Flow breaks every time (500)"
    LOST_REPLY = "lost_reply", "Flow accepts, but its reply gets lost"
    NO_REPLY = "no_reply", "The connection drops once before Flow accepts"
    SESSION_ENDED = "session_ended", "The chat session ends before the answer comes"
