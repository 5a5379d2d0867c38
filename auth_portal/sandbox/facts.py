"""What the sandbox knows of the portal and of Chat Flow's formats: journeys, people, links, tickets, JSON."""

from __future__ import annotations

import json
import re
import secrets
import string
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NoReturn, Self
from urllib.parse import quote

Contract = Literal["external_link", "wait_for_callback"]
DefenceName = Literal["none", "chat_code", "phone_match"]
ASKED_PAYMENT = {"amount": "500.00", "currency": "ZAR", "payee": "N. Dlamini"}  # of a sandbox's ticket
PAYMENT_AMOUNT = "payment_amount"  # the variable that a flow compares with the amount it asked for


@dataclass(frozen=True)
class FlowDefence:
    """What a flow does so that a forwarded link cannot answer its sender's chat."""

    needs_ticket: bool = False  # says whose chat it is before it sends the link
    uses_chat_code: bool = False  # asks for the code on the page and compares it


DEFENCES: Mapping[DefenceName, FlowDefence] = {  # the weakest first
    "none": FlowDefence(),
    "chat_code": FlowDefence(uses_chat_code=True),
    "phone_match": FlowDefence(needs_ticket=True),
}


@dataclass(frozen=True)
class JourneyCard:
    """A journey as a flow's author knows it: where the node's link leads and which results it can get."""

    slug: str
    name: str
    is_default: bool = False
    contract: Contract = "external_link"
    results: Mapping[str, str] = field(default_factory=dict)  # by outcome: the text that the Logic section compares
    data: tuple[str, ...] = ()  # keys that arrive with every result
    chat_seconds: int = 600
    relay_defence: DefenceName = "none"
    compares: str = ""  # the data key that the flow's compare node checks, where the defence needs one
    methods_text: str = ""  # such as "SMS or email code"
    business: str = "Acme Bank"

    @property
    def success(self) -> str:
        """Return the result that lets the flow continue, the usual one."""
        return self.successes[0]

    @property
    def successes(self) -> tuple[str, ...]:
        """Return the results that let the flow continue."""
        found = (self.results.get(outcome) for outcome in ("verified", "handed_over", "completed"))
        return tuple(text for text in found if text) or ("verified",)

    @property
    def asks_who(self) -> bool:
        """Report whether a customer is verified at all."""
        return "verified" in self.results or not self.results

    @property
    def waits(self) -> bool:
        """Report whether a Wait for Callback node gets the result, and the flow makes the reference itself."""
        return self.contract == "wait_for_callback"

    @property
    def uses_chat_code(self) -> bool:
        """Report whether the flow asks for the code on the page and compares it."""
        return DEFENCES[self.relay_defence].uses_chat_code

    @property
    def needs_ticket(self) -> bool:
        """Report whether the flow says whose chat it is before it sends the link."""
        return DEFENCES[self.relay_defence].needs_ticket


@dataclass(frozen=True)
class DemoPerson:
    """A person of the demo directory that a newcomer can play. An empty field means that they have none."""

    customer_id: str
    name: str
    phone: str = ""
    email: str = ""
    password: str = ""
    totp_secret: str = ""


class Choice(StrEnum):
    """A word that scripts send, with the sentence that people read."""

    label: str

    def __new__(cls, value: str, label: str = "") -> Self:
        """Return an enum member that is its word and carries its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member


class ReferenceStyle(Choice):
    """How the reference is written into the link. Flow documents and does the first."""

    RAW = "raw", "As Flow sends it: &, % and # left as they are"
    ENCODED = "encoded", "The same, percent-encoded"
    PLAIN = "plain", "A plain UUID"


class FlowFault(Choice):
    """What goes wrong when the portal sends Flow the result."""

    NONE = "none", "Nothing goes wrong"
    SLOW = "slow", "Flow takes 6 seconds to answer"
    REFUSED = "400", "Flow refuses every time (400)"
    ERROR_ONCE = "500_once", "Flow breaks once (500), then works"
    ERROR = "500", "Flow breaks every time (500)"
    LOST_REPLY = "lost_reply", "Flow accepts, but its reply is lost"
    NO_REPLY = "no_reply", "The connection drops once before Flow accepts"
    SESSION_ENDED = "session_ended", "The chat session ends before the result arrives"


# --- References and links
#
# Flow documents ``f7_4hn5=8f&%#nK=``, put into the link as it is. Ours have that shape and more of its traps: an ``&``
# that ends a naive parameter, a ``%`` that starts no escape, a ``+`` that is no space and a ``#`` whose tail only the
# browser sees. They never have what no reader could undo: a ``%`` before two hex digits, or an ending that looks like a
# parameter that some app added.

LETTERS = string.ascii_letters + string.digits
NOT_HEX = "ghjkmnpqrstuvwxyz"


def new_reference(style: ReferenceStyle) -> str:
    """Return an unguessable reference: 131 bits in Flow's documented shape, or a UUID."""

    def some(count: int) -> str:
        return "".join(secrets.choice(LETTERS) for _ in range(count))

    if style is ReferenceStyle.PLAIN:
        return str(uuid.uuid4())
    return f"{some(2)}_{some(6)}={some(3)}&%{secrets.choice(NOT_HEX)}{some(3)}+{some(3)}&{some(2)}%#{some(4)}="


def address_of(public_url: str, card: JourneyCard) -> str:
    """Return what the author of a flow pastes into its node, where no ticket gives each chat its own link."""
    return f"{public_url}/" if card.is_default else f"{public_url}/j/{card.slug}"


def link_for(address: str, reference: str, style: ReferenceStyle) -> str:
    """Return the link as the chat shows it: the node's address followed by the reference."""
    written = quote(reference, safe="") if style is ReferenceStyle.ENCODED else reference
    return f"{address}?reference={written}"


# --- People and their phones

STRANGERS_PHONE = "+27605550199"
NUMBER = re.compile(r"\+?[1-9][0-9]{5,14}")


@dataclass(frozen=True)
class DemoPhone:
    """One number and the people who have it."""

    number: str
    holders: tuple[DemoPerson, ...]

    @property
    def owner(self) -> str:
        """Return whose phone it is, in words."""
        return " and ".join(person.name for person in self.holders) or "a stranger"


@dataclass(frozen=True)
class Cast:
    """The roles when the attack is played: two people with a phone that no other person shares."""

    attacker: DemoPerson
    victim: DemoPerson


def phones_of(people: Sequence[DemoPerson]) -> list[DemoPhone]:
    """Return every phone of the demo once, in the order of its people, and the stranger's."""
    numbers = dict.fromkeys([*(plain_number(person.phone) for person in people if person.phone), STRANGERS_PHONE])
    return [phone_of(people, number) for number in numbers]


def phone_of(people: Sequence[DemoPerson], number: str) -> DemoPhone:
    """Return a number with the people who have it."""
    return DemoPhone(
        number, tuple(person for person in people if person.phone and plain_number(person.phone) == number)
    )


def cast_of(people: Sequence[DemoPerson]) -> Cast | None:
    """Return the victim, who comes first in the demo, and the attacker; None if the demo has no two such people."""
    alone = [phone.holders[0] for phone in phones_of(people) if len(phone.holders) == 1]
    return Cast(attacker=alone[1], victim=alone[0]) if len(alone) > 1 else None


def plain_number(number: str) -> str:
    """Return a number as it is stored: without blanks and dashes, with its plus. Raise ValueError if it is none."""
    found = re.sub(r"[\s-]", "", number)
    if not NUMBER.fullmatch(found):
        raise ValueError("Write the phone number with its country code, such as +27821234567.")
    return "+" + found.removeprefix("+")


# --- The API Integration node, which registers a ticket before the link is sent

TICKETS_PATH = "/api/v1/tickets"
CREATED = 201


@dataclass(frozen=True)
class ApiCall:
    """A request of the node, and the portal's response."""

    body: Mapping[str, object]
    status: int
    answer: str

    @property
    def link(self) -> str:
        """Return the link of the response, which is for this chat only; "" if there is none."""
        content = read_json(self.answer)
        link = content.get("link") if self.status == CREATED and isinstance(content, dict) else None
        return link if isinstance(link, str) else ""

    @property
    def amount(self) -> str:
        """Return the amount of the payment that has to be approved; "" if nothing is paid."""
        payment = self.body.get("payment")
        return str(payment.get("amount", "")) if isinstance(payment, dict) else ""

    @property
    def pretty_answer(self) -> str:
        """Return the response as readable JSON, or unchanged if it is not JSON."""
        content = read_json(self.answer)
        return self.answer if content is None else json.dumps(content, indent=2, ensure_ascii=False)


AskPortal = Callable[[Mapping[str, object]], ApiCall]  # a ticket's fields, sent to the portal's API


def ticket_body(card: JourneyCard, phone: str, reference: str) -> dict[str, object]:
    """Return the node's body with its variables filled in; Flow writes a number without its plus."""
    body: dict[str, object] = {"journey": card.slug, "msisdn": phone.removeprefix("+"), "payment": ASKED_PAYMENT}
    return {**body, "reference": reference} if card.waits else body


# --- JSON from strangers

BRACKETS = 300  # at most: far more than any callback has, far below Python's own limit of nesting


def read_json(body: bytes | str) -> object:
    """Return the document; None if it is not UTF-8, absurdly nested, or has text that no encoding can hold.

    Whatever passes can be stored, shown and written again.
    """
    try:
        text = body.decode("utf-8") if isinstance(body, bytes) else body
        if text.count("[") + text.count("{") > BRACKETS:
            return None
        content: object = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except ValueError:
        return None
    return content


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
