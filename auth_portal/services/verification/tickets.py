"""Tickets: what Flow's server says of a chat before its link is sent, so that a link that is passed on proves nothing.

A ticket names the person who may prove their identity under it: by the chat's own number, or by a customer ID. It
serves the first reference that begins with it, taken in one conditional write, and no other; or it is registered for a
reference that the flow made, and then the ordinary link finds it. Its chat clock starts when it is registered. What the
browser sends names no one: any other person who is typed under a ticket is a stranger. A ticket that was changed by
someone other than the portal opens nothing, and a chat that began with it means no one (R54).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import bindparam, insert, or_, select, update

from auth_portal.crypto import Keyring, new_token, token_hash
from auth_portal.errors import Gone, NotFound, Problem
from auth_portal.services.config.journey import (
    JourneyConfig,
    Payment,
    ShownPayment,
    amount_faults,
    payment_of,
    phone_only,
)
from auth_portal.services.config.snapshot import ChatClock, Journeys, Snapshot
from auth_portal.services.directory.fields import check
from auth_portal.services.directory.person import (
    Identifier,
    Person,
    find_person,
    holders_of,
    mask_contact,
    read_identifier,
    stranger,
    trusted,
)
from auth_portal.services.verification import references
from auth_portal.store.db import Compiled, Transactions, Work
from auth_portal.store.models import (
    TICKET_PAYMENT,
    TICKET_PHONE,
    TICKET_PURPOSE,
    TicketRow,
    signed_columns,
    table_of,
)
from auth_portal.typed import JOINERS, chat_numbers, visible_text

PURPOSE_LENGTH = 140  # characters: two lines on a phone, read before anything is proved
PAYEE_LENGTH = 40  # characters, so that a payment fits into one SMS
LAST_LATIN = "\u024f"  # up to here no letter needs a joiner, which could only hide in a name
UNREADABLE = 422
Found = TypeVar("Found")


class ChangedTicket(Gone):
    """A link has a ticket that someone other than the portal has changed (R54)."""

    def __init__(self, row: str) -> None:
        super().__init__("ticket_gone")
        self.row = row


@dataclass(frozen=True)
class TicketRequest:
    """What Flow's server asks for. ``journey`` is a slug; exactly one of ``msisdn`` and ``customer_id`` is given."""

    journey: str
    msisdn: str = ""
    customer_id: str = ""
    locale: str = ""
    purpose: str = ""  # one line of PURPOSE_LENGTH characters at most
    payment: Payment | None = None  # as it was sent, not checked yet
    reference: str = ""  # the one that a Wait for Callback flow made
    api_key_id: str | None = None


@dataclass(frozen=True)
class NewTicket:
    """A ticket as it was registered. The path is shown once: only the hash of its token is stored."""

    ticket_id: str
    path: str
    names_customer: bool  # else several people have the number, and the page asks which of them it is
    created_at: datetime
    proofs_until: datetime
    ends_at: datetime


@dataclass(frozen=True)
class Ticket:
    """The person a verification is for, and its purpose. With neither phone nor customer it is for no one."""

    id: str
    phone_key: str | None
    customer_row: str | None
    purpose_sealed: bytes | None
    payment_sealed: bytes | None
    locale: str

    @property
    def is_by_id(self) -> bool:
        """Report whether it is for a customer ID: then nothing of it may show who is a customer (R52)."""
        return self.phone_key is None

    @property
    def names_customer(self) -> bool:
        """Report whether it means one person, perhaps one who does not exist, so that no identifier is needed."""
        return self.is_by_id or self.customer_row is not None

    def agrees(self, person: Person) -> bool:
        """Report whether it means this person as they are now: active, and still with the chat's number."""
        if not person.is_active or (self.phone_key is None and self.customer_row is None):
            return False
        has_number = self.phone_key is None or self.phone_key == person.phone_key
        return has_number and self.customer_row in (None, person.row)

    def limited_to(self, person: Person, key: str) -> Person:
        """Return the person if the ticket means them, else a stranger: no code is sent and no proof is right."""
        return person if self.agrees(person) else stranger(key)

    def identifier(self, keyring: Keyring) -> Identifier | None:
        """Return what stands for an identifier that was not typed; None if the page must ask for one."""
        if not self.names_customer:
            return None
        return Identifier(typed="", customer_key="", phone_key="", email_key="", key=keyring.index("ticket", self.id))

    def allowed(self, methods: Iterable[str]) -> tuple[str, ...]:
        """Return the methods that can be used: codes go to the chat's own number, where the ticket has one."""
        return phone_only(methods) if self.phone_key is not None else tuple(methods)

    def purpose(self, keyring: Keyring) -> str:
        """Return what the person is asked to confirm, or ""."""
        return keyring.open(self.purpose_sealed, TICKET_PURPOSE, self.id) if self.purpose_sealed else ""

    def payment(self, keyring: Keyring) -> Payment | None:
        """Return the payment that the person is asked to approve, or None."""
        sealed = self.payment_sealed
        return payment_of(keyring.open(sealed, TICKET_PAYMENT, self.id)) if sealed else None

    def shown_payment(self, keyring: Keyring, region: str) -> ShownPayment | None:
        """Return that payment as a page writes it, or None."""
        payment = self.payment(keyring)
        return payment.shown(region) if payment is not None else None


@dataclass(frozen=True)
class TicketFacts:
    """A ticket as the landing page shows it: its purpose, the masked number, and whether it names a customer."""

    purpose: str
    number: str
    names_customer: bool
    payment: ShownPayment | None
    asked_at: datetime | None  # when it was registered, for a payment


@dataclass(frozen=True)
class FoundTicket:
    """A ticket that a link brought, with the times it was registered with."""

    ticket: Ticket
    times: ChatClock
    phone_sealed: bytes | None
    row: Mapping[str, Any] = field(repr=False)  # its signed columns

    def facts(self, keyring: Keyring, region: str) -> TicketFacts:
        """Return what the landing page shows of it; the sign of a currency is that of the region."""
        number = ""
        if self.phone_sealed is not None:
            number = mask_contact(keyring.open(self.phone_sealed, TICKET_PHONE, self.ticket.id))
        payment = self.ticket.shown_payment(keyring, region)
        return TicketFacts(
            purpose=self.ticket.purpose(keyring),
            number=number,
            names_customer=self.ticket.names_customer,
            payment=payment,
            asked_at=self.times.started_at if payment is not None else None,
        )


_TICKETS = table_of(TicketRow)
_INSERT = insert(_TICKETS)
_SIGNED = signed_columns(TicketRow)
_FOUND = (*_SIGNED, TicketRow.phone_sealed)
_BY_TOKEN = Compiled(
    select(*_FOUND).where(TicketRow.token_hash == bindparam("token"), TicketRow.slug == bindparam("slug"))
)
_BY_REFERENCE = Compiled(
    select(*_FOUND)
    .where(TicketRow.reference_hash == bindparam("reference"), TicketRow.slug == bindparam("slug"))
    .order_by(TicketRow.id.desc())  # a flow that comes back to its node registers a newer one
    .limit(1)
)
_BIND = Compiled(
    update(_TICKETS)
    .where(
        _TICKETS.c.id == bindparam("of"),
        or_(_TICKETS.c.reference_hash.is_(None), _TICKETS.c.reference_hash == bindparam("reference")),
    )
    .values(reference_hash=bindparam("reference"), bound_at=bindparam("now"), mac=bindparam("signature"))
    .returning(*_SIGNED)
)
# As part of a wider row, under names that begin so.
PREFIX = "ticket__"
CASE_COLUMNS = signed_columns(TicketRow, PREFIX)


def ticket_of(row: Mapping[Any, Any], prefix: str = "") -> Ticket:
    """Return the ticket of a row, or of a wider row with CASE_COLUMNS. The caller has looked at its MAC."""
    return Ticket(**{name: row[f"{prefix}{name}"] for name in Ticket.__dataclass_fields__})


def ticket_for_no_one(ticket_id: str) -> Ticket:
    """Return what stands for a ticket that was deleted, or changed by someone other than the portal (R54)."""
    return Ticket(id=ticket_id, phone_key=None, customer_row=None, purpose_sealed=None, payment_sealed=None, locale="")


def bind(work: Work, found: FoundTicket, reference: bytes) -> None:
    """Take a ticket for a reference (its hash), in one conditional write.

    Raise Gone if another reference has it, or if it is no longer as it was found.
    """
    mac = work.keyring.signed("tickets", {**found.row, "reference_hash": reference})["mac"]
    taken = {"of": found.ticket.id, "reference": reference, "now": work.now, "signature": mac}
    row = work.row(_BIND, taken)
    if row is None or not work.keyring.holds("tickets", row._mapping):
        raise Gone("ticket_gone")


@dataclass(frozen=True)
class Findings:
    """What is wrong with a request, so that all of it is named at once."""

    faults: list[Problem]

    def read(self, rule: Callable[..., Found], *given: Any) -> Found | None:
        """Return what a rule returns; None where it raises Problem, which is added to what is wrong."""
        try:
            return rule(*given)
        except Problem as fault:
            self.faults.append(fault)
            return None

    def refuse(self) -> None:
        """Raise the Problem, or one with all of them if there are several."""
        if len(self.faults) == 1:
            raise self.faults[0]
        if self.faults:
            raise Problem("body_invalid", status=UNREADABLE, faults=tuple(self.faults))


class Tickets:
    """Registers tickets for Flow's server, and finds the ticket of a link."""

    def __init__(self, transactions: Transactions, journeys: Journeys) -> None:
        self._transactions = transactions
        self._journeys = journeys

    def register(
        self,
        request: TicketRequest,
        also: Callable[[Work, NewTicket], None] | None = None,
        faults: Sequence[Problem] = (),
    ) -> NewTicket:
        """Register a ticket; ``also`` commits together with it. ``faults`` are what the caller has found wrong already.

        Raise NotFound("journey_unknown"), or Problem with status 409 "journey_closed" or 422 and a code that begins
        with "ticket_"; the parameter ``field`` names the field at fault. If more than one thing is wrong, raise Problem
        "body_invalid" with all of them in ``faults``.
        """
        snapshot, reference = self._journeys.current(), request.reference
        found = Findings(list(faults))
        config, purpose, payment, locale, numbers = _read_request(snapshot, request, found)
        token = "" if reference else new_token()
        with self._transactions.write() as work:
            meant = None
            if config is not None and bool(numbers) != bool(request.customer_id):
                meant = found.read(_person_meant, work, config, numbers, request.customer_id)
            found.refuse()
            assert config is not None and meant is not None, "else there is a fault"  # noqa: PT018
            person, phone = meant
            path = f"/j/{config.slug}/t/{token}" if token else f"/j/{config.slug}"
            ticket_id, times = work.new_id(), ChatClock.from_ticket(work.now, config.chat_seconds)
            values = {
                "id": ticket_id,
                "token_hash": token_hash(token) if token else None,
                "slug": config.slug,
                "reference_hash": token_hash(reference) if reference else None,
                "customer_row": person.row,
                "phone_key": work.keyring.index("phone", phone) if phone else None,
                "phone_sealed": work.seal(phone, TICKET_PHONE, ticket_id) if phone else None,
                "purpose_sealed": work.seal(purpose, TICKET_PURPOSE, ticket_id) if purpose else None,
                "payment_sealed": work.seal(payment.json, TICKET_PAYMENT, ticket_id) if payment is not None else None,
                "locale": locale,
                "api_key_id": request.api_key_id,
                "created_at": work.now,
                "proofs_until": times.proofs_until,
                "ends_at": times.ends_at,
            }
            work.execute(_INSERT, work.keyring.signed("tickets", values))
            by = "msisdn" if phone else "customer_id"
            facts = {"ticket": ticket_id, "journey": config.slug, "by": by, "api_key": request.api_key_id}
            work.record("ticket_registered", subject_id=person.subject_id, **facts)
            names_customer = not phone or person.row is not None
            ticket = NewTicket(ticket_id, path, names_customer, work.now, times.proofs_until, times.ends_at)
            if also is not None:
                also(work, ticket)
        return ticket

    def find(self, slug: str, ticket_token: str, reference: str) -> FoundTicket | None:
        """Return the ticket of a link to a journey: by the token in its path, or without one by its reference.

        Change nothing. Raise Gone for a path's ticket that is unknown here or past its clock, and ChangedTicket for any
        that was changed by someone else.
        """
        with self._transactions.read() as work:
            if ticket_token:
                row = work.row(_BY_TOKEN, {"token": token_hash(ticket_token), "slug": slug})
            else:
                row = work.row(_BY_REFERENCE, {"reference": token_hash(reference), "slug": slug})
            if row is not None and not work.keyring.holds("tickets", row._mapping):
                raise ChangedTicket(row.id)
        if row is not None and work.now < row.proofs_until:
            times = ChatClock(row.created_at, row.proofs_until, row.ends_at)
            return FoundTicket(ticket_of(row._mapping), times, row.phone_sealed, {**row._mapping})
        if ticket_token:
            raise Gone("ticket_gone")
        return None


def _read_request(
    snapshot: Snapshot, request: TicketRequest, found: Findings
) -> tuple[JourneyConfig | None, str | None, Payment | None, str | None, tuple[str, ...]]:
    """Return the journey, what its customer is asked, and the forms of the chat's number, as far as they are read."""
    config = found.read(_open_journey, snapshot, request.journey)
    if config is not None:
        found.faults.extend(_request_faults(config, request))
    numbers = chat_numbers(request.msisdn, snapshot.portal.default_region)
    if request.msisdn and not numbers:
        found.faults.append(Problem("ticket_msisdn_unreadable", status=UNREADABLE, field="msisdn"))
    payment = found.read(_read_payment, request.payment) if request.payment is not None else None
    return (
        config,
        found.read(_read_purpose, request.purpose),
        payment,
        found.read(_read_locale, request.locale),
        numbers,
    )


def _open_journey(snapshot: Snapshot, slug: str) -> JourneyConfig:
    found = snapshot.journeys.get(slug)
    if found is None:
        raise NotFound("journey_unknown", field="journey")
    if not snapshot.is_open(found.config):
        raise Problem("journey_closed", status=409, field="journey")
    return found.config


def _request_faults(config: JourneyConfig, request: TicketRequest) -> Iterator[Problem]:
    """Yield what this journey cannot make a ticket of."""
    msisdn, reference = request.msisdn.strip(), request.reference
    if bool(msisdn) == bool(request.customer_id.strip()):
        yield Problem("ticket_one_of", status=UNREADABLE, field="msisdn")
    elif config.defence.demands_ticket and not msisdn:
        # A customer ID may have been typed into the chat, and would not show whose chat it is.
        yield Problem("ticket_needs_msisdn", status=UNREADABLE, field="customer_id")
    if msisdn and not config.works_by_phone_alone:
        yield Problem("ticket_no_method", status=UNREADABLE, field="journey")
    if request.payment is not None and not config.verify_steps:
        yield Problem("ticket_payment_unproved", status=UNREADABLE, field="payment")
    if reference and not config.finds_ticket_by_reference:
        yield Problem("ticket_reference_made_by_flow", status=UNREADABLE, field="reference")
    elif reference:
        try:
            references.check(reference)
        except Problem:
            yield Problem("ticket_reference_invalid", status=UNREADABLE, field="reference")


def _person_meant(work: Work, config: JourneyConfig, numbers: Sequence[str], customer_id: str) -> tuple[Person, str]:
    """Return the person that a ticket names, and the number that they are found by; "" if it is by customer ID.

    The person is a stranger if several have the number and the page can ask which. By customer ID it is a stranger,
    too, if there is no such customer: nothing may show it (R52). ``numbers`` are the forms of the chat's own number.
    Another form than the first counts only where no customer has the first, and exactly one has any of the others.
    """
    if not numbers:
        identifier = read_identifier(customer_id, ("customer_id",), "", work.keyring)
        if identifier is None:
            raise Problem("ticket_customer_id_unreadable", status=UNREADABLE, field="customer_id")
        return trusted(work, find_person(work.connection, identifier)), ""
    held: list[tuple[str, Person]] = []
    for number in numbers:
        found = holders_of(work.connection, work.keyring.index("phone", number))
        held += [(number, trusted(work, person)) for person in found]
        if held and number == numbers[0]:
            break
    active = [(person, number) for number, person in held if person.is_active]
    if not active:
        raise Problem("ticket_nobody", status=UNREADABLE, field="msisdn")
    if len(held) == 1:
        return active[0]
    if set(config.identifiers) == {"phone"} or held[0][0] != numbers[0]:
        raise Problem("ticket_several", status=UNREADABLE, field="msisdn")
    return stranger(""), numbers[0]


def _read_purpose(purpose: str) -> str:
    text = unicodedata.normalize("NFC", purpose.strip())
    if len(text) > PURPOSE_LENGTH or not _looks_as_it_reads(text):
        raise Problem("ticket_purpose_unreadable", status=UNREADABLE, field="purpose")
    return text


def _looks_as_it_reads(text: str) -> bool:
    """Report whether a line has no control characters, and none that turn text around or hide in it."""
    kinds = {unicodedata.category(char) for char in text if char not in JOINERS}
    return not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def _read_payment(sent: Payment) -> Payment:
    """Return a payment that a customer can compare with what they asked for.

    Raise Problem, which names each member that is at fault.
    """
    faults = amount_faults(sent.amount, sent.currency)
    payee = unicodedata.normalize("NFC", sent.payee.strip())
    hides = any(char in JOINERS and before <= LAST_LATIN for before, char in zip(" " + payee, payee, strict=False))
    if not 1 <= len(payee) <= PAYEE_LENGTH:
        faults["payee"] = f"must have 1 to {PAYEE_LENGTH} characters"
    elif hides or not _looks_as_it_reads(payee) or visible_text(payee, JOINERS) != payee:
        faults["payee"] = "must be one line of characters that can be seen, with plain spaces"
    elif not any(map(str.isalnum, payee)):
        faults["payee"] = "must have a letter or a digit"
    if faults:
        errors = [{"pointer": f"/payment/{name}", "detail": why} for name, why in faults.items()]
        raise Problem("ticket_payment_unreadable", status=UNREADABLE, errors=errors)
    return Payment(sent.amount, sent.currency, payee)


def _read_locale(locale: str) -> str:
    checked = check({"locale": locale.strip() or None}, "")
    if checked.faults:
        raise Problem("ticket_locale_unreadable", status=UNREADABLE, field="locale")
    return checked.fields["locale"] or ""
