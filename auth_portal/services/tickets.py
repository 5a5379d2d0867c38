"""Tickets: what Flow's server says of a chat before its link is sent, so that a link that is passed on proves nothing.

A ticket names whoever may prove themselves under it: by the chat's own number, or by a customer ID. It serves the first
reference that begins with it, taken in one conditional write, and no other; or it is registered for a reference that
the flow made, and then the ordinary link finds it. Its chat clock starts as it is registered. Refuses to name anybody
by what the browser sends: whoever is typed under a ticket is a stranger unless the ticket means them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, or_, select, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, new_token, token_hash
from auth_portal.errors import Gone, NotFound, Problem
from auth_portal.services import audit, references
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.directory import customer_fields, customers
from auth_portal.services.directory.customers import Identifier, Person, msisdn_form, stranger
from auth_portal.services.journeys import ChatClock, Journeys, Snapshot
from auth_portal.store.db import Database, new_id
from auth_portal.store.models import TicketRow, table_of

PURPOSE_LENGTH = 140  # characters: two lines on a phone, read before anything is proved
UNREADABLE = 422
_JOINERS = "\u200c\u200d"  # the invisible characters that some scripts cannot be written without


@dataclass(frozen=True)
class Registered:
    """A ticket as it was made. The path is told this once: of its token only the hash is kept."""

    ticket_id: str
    path: str
    names_customer: bool  # else several people hold the number, and the page asks which of them it is
    created_at: datetime
    proofs_until: datetime
    ends_at: datetime


@dataclass(frozen=True)
class Ticket:
    """Whom a verification may be passed by, and what for. With neither phone nor customer it is for nobody any more."""

    id: str
    phone_key: str | None
    customer_row: str | None
    purpose_sealed: bytes | None
    locale: str

    @property
    def names_customer(self) -> bool:
        """Whether it means one person, so that nobody need say who they are."""
        return self.customer_row is not None

    def agrees(self, person: Person) -> bool:
        """Whether it means this person, as the directory has them now: active, and still with the chat's number."""
        if not person.is_active or (self.phone_key is None and self.customer_row is None):
            return False
        has_number = self.phone_key is None or self.phone_key == person.phone_key
        return has_number and self.customer_row in (None, person.row)

    def held_to(self, person: Person, key: str) -> Person:
        """The person where the ticket means them, else a stranger: no code goes out and no proof is right."""
        return person if self.agrees(person) else stranger(key)

    def identifier(self, keyring: Keyring) -> Identifier | None:
        """What stands for a name that nobody typed; None where the page must ask."""
        if not self.names_customer:
            return None
        return Identifier(typed="", customer_key="", phone_key="", email_key="", key=keyring.index("ticket", self.id))

    def purpose(self, keyring: Keyring) -> str:
        """What the person is asked to confirm, or nothing."""
        return keyring.open(self.purpose_sealed, "tickets", self.id, "purpose") if self.purpose_sealed else ""


@dataclass(frozen=True)
class Told:
    """A ticket as the landing page tells it: for what, of which chat (masked), and whether a name is still needed."""

    purpose: str
    number: str
    names_customer: bool


@dataclass(frozen=True)
class Presented:
    """A ticket that a link brought, with the times it was registered with."""

    ticket: Ticket
    times: ChatClock
    phone_sealed: bytes | None

    def told(self, keyring: Keyring) -> Told:
        """What the landing page shows of it."""
        number = ""
        if self.phone_sealed is not None:
            number = customers.mask_contact(keyring.open(self.phone_sealed, "tickets", self.ticket.id, "phone"))
        return Told(self.ticket.purpose(keyring), number, self.ticket.names_customer)


_TICKETS = table_of(TicketRow)
_INSERT = insert(_TICKETS)
_COLUMNS = (
    TicketRow.id, TicketRow.phone_key, TicketRow.customer_row, TicketRow.purpose_sealed, TicketRow.locale,
)  # fmt: skip
_WITH_TIMES = (
    *_COLUMNS, TicketRow.phone_sealed, TicketRow.created_at, TicketRow.proofs_until, TicketRow.ends_at,
)  # fmt: skip
_BY_TOKEN = select(*_WITH_TIMES).where(TicketRow.token_hash == bindparam("token"), TicketRow.slug == bindparam("slug"))
_BY_REFERENCE = (
    select(*_WITH_TIMES)
    .where(TicketRow.reference_hash == bindparam("reference"), TicketRow.slug == bindparam("slug"))
    .order_by(TicketRow.id.desc())  # a flow that comes back to its node registers a newer one
    .limit(1)
)
_BIND = (
    update(_TICKETS)
    .where(
        _TICKETS.c.id == bindparam("of"),
        or_(_TICKETS.c.reference_hash.is_(None), _TICKETS.c.reference_hash == bindparam("reference")),
    )
    .values(reference_hash=bindparam("reference"), bound_at=bindparam("now"))
)
# As part of a wider row, under names of their own.
CASE_COLUMNS = tuple(column.label(f"ticket_{column.key}") for column in _COLUMNS[1:])


def ticket_of(row: Any) -> Ticket | None:
    """The ticket of a row with ``ticket_id`` and CASE_COLUMNS; one whose row is gone means nobody."""
    if row.ticket_id is None:
        return None
    values = {column.key: getattr(row, f"ticket_{column.key}") for column in _COLUMNS[1:]}
    return Ticket(id=row.ticket_id, **{**values, "locale": values["locale"] or ""})


def get(connection: Connection, ticket_id: str | None) -> Ticket | None:
    """The ticket of a verification; None for one without. One that is gone means nobody."""
    if ticket_id is None:
        return None
    row = connection.execute(select(*_COLUMNS).where(TicketRow.id == ticket_id)).one_or_none()
    return Ticket(**row._mapping) if row is not None else Ticket(ticket_id, None, None, None, "")


def bind(connection: Connection, ticket: Ticket, reference: bytes, now: datetime) -> None:
    """Takes a ticket for a reference, in one conditional write. Raises Gone where another one has it."""
    if connection.execute(_BIND, {"of": ticket.id, "reference": reference, "now": now}).rowcount != 1:
        raise Gone("ticket_gone")


def is_by_reference(journey: JourneyConfig) -> bool:
    """Whether an ordinary link of this journey may have a ticket, so that it is worth looking for one."""
    return journey.relay_defence == "phone_match" or journey.callback.contract == "wait_for_callback"


class Tickets:
    """Registers tickets for Flow's server, and finds the ticket of a link."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, journeys: Journeys) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._journeys = journeys

    def register(
        self, *, journey: str, msisdn: str = "", customer_id: str = "", locale: str = "", purpose: str = "",
        reference: str = "", api_key_id: str | None = None,
        also: Callable[[Connection, Registered], None] | None = None,
    ) -> Registered:  # fmt: skip
        """Registers a ticket: ``journey`` is a slug, and exactly one of ``msisdn`` and ``customer_id`` is given.

        ``purpose`` is one line of 140 characters at most, ``reference`` the one that a Wait for Callback flow made.
        ``also`` commits together with the ticket. Raises NotFound("journey_unknown"), and Problem with status 409
        "journey_closed" or 422 and a code that begins with "ticket_"; the parameter ``field`` names the field at fault.
        """
        snapshot, now = self._journeys.current(), self._clock()
        config = _open_journey(snapshot, journey)
        _check_way(config, msisdn, customer_id, reference)
        purpose, locale = _read_purpose(purpose), _read_locale(locale)
        phone = _read_msisdn(msisdn, snapshot.portal.default_region) if msisdn else ""
        times = ChatClock.from_ticket(now, config.chat_seconds)
        ticket_id, token = new_id(now), "" if reference else new_token()
        path = f"/j/{config.slug}/t/{token}" if token else f"/j/{config.slug}"
        with self._database.write() as connection:
            person = self._meant(connection, config, phone, customer_id)
            values = {
                "id": ticket_id,
                "token_hash": token_hash(token) if token else None,
                "slug": config.slug,
                "reference_hash": references.reference_hash(reference) if reference else None,
                "customer_row": person.row,
                "phone_key": self._keyring.index("phone", phone) if phone else None,
                "phone_sealed": self._keyring.seal(phone, "tickets", ticket_id, "phone") if phone else None,
                "purpose_sealed": self._keyring.seal(purpose, "tickets", ticket_id, "purpose") if purpose else None,
                "locale": locale,
                "api_key_id": api_key_id,
                "created_at": now,
                "proofs_until": times.proofs_until,
                "ends_at": times.ends_at,
                "bound_at": None,
            }
            connection.execute(_INSERT, values)
            audit.record(
                connection, self._keyring, now, "ticket_registered", subject_id=person.subject_id,
                ticket=ticket_id, journey=config.slug, by="msisdn" if phone else "customer_id", api_key=api_key_id,
            )  # fmt: skip
            made = Registered(ticket_id, path, person.row is not None, now, times.proofs_until, times.ends_at)
            if also is not None:
                also(connection, made)
        return made

    def _meant(self, connection: Connection, config: JourneyConfig, phone: str, customer_id: str) -> Person:
        """Whom a ticket names; a stranger where several people hold the number, and the page can ask which."""
        if not phone:
            identifier = customers.read_identifier(customer_id, ("customer_id",), "", self._keyring)
            found = [customers.find(connection, identifier)] if identifier else []
        else:
            found = customers.holders_of(connection, self._keyring.index("phone", phone))
        active = [person for person in found if person.is_active]
        if not active:
            raise Problem("ticket_nobody", status=UNREADABLE, field="msisdn" if phone else "customer_id")
        if len(found) == 1:
            return active[0]
        if set(config.first_step.by) == {"phone"}:
            raise Problem("ticket_several", status=UNREADABLE, field="msisdn")
        return stranger("")

    def find(self, config: JourneyConfig, token: str, reference: str) -> Presented | None:
        """The ticket of a link: of its path, or of its reference where the journey may have such. Changes nothing.

        Raises Gone for a path's ticket that is unknown here, or past its clock.
        """
        if not token and not (reference and is_by_reference(config)):
            return None
        with self._database.read() as connection:
            if token:
                found = connection.execute(_BY_TOKEN, {"token": token_hash(token), "slug": config.slug})
            else:
                by = {"reference": references.reference_hash(reference), "slug": config.slug}
                found = connection.execute(_BY_REFERENCE, by)
            presented = _presented(found.one_or_none())
        if presented is not None and self._clock() < presented.times.proofs_until:
            return presented
        if token:
            raise Gone("ticket_gone")
        return None


def _presented(row: Any) -> Presented | None:
    if row is None:
        return None
    ticket = Ticket(**{column.key: getattr(row, column.key) for column in _COLUMNS})
    return Presented(ticket, ChatClock(row.created_at, row.proofs_until, row.ends_at), row.phone_sealed)


def _open_journey(snapshot: Snapshot, slug: str) -> JourneyConfig:
    found = snapshot.journeys.get(slug)
    if found is None:
        raise NotFound("journey_unknown", field="journey")
    if not snapshot.is_open(found.config):
        raise Problem("journey_closed", status=409, field="journey")
    return found.config


def _check_way(config: JourneyConfig, msisdn: str, customer_id: str, reference: str) -> None:
    """Refuses what this journey cannot make a ticket of."""
    if bool(msisdn.strip()) == bool(customer_id.strip()):
        raise Problem("ticket_one_of", status=UNREADABLE, field="msisdn")
    if config.relay_defence == "phone_match" and not msisdn.strip():
        # A customer ID may have been typed into the chat: then it says nothing of whose chat it is.
        raise Problem("ticket_needs_msisdn", status=UNREADABLE, field="customer_id")
    if msisdn.strip() and not config.works_by_phone_alone:
        raise Problem("ticket_no_method", status=UNREADABLE, field="journey")
    if not reference:
        return
    if not is_by_reference(config):
        raise Problem("ticket_reference_made_by_flow", status=UNREADABLE, field="reference")
    try:
        references.check(reference)
    except Problem:
        raise Problem("ticket_reference_invalid", status=UNREADABLE, field="reference") from None


def _read_msisdn(msisdn: str, region: str) -> str:
    phone = msisdn_form(msisdn, region)
    if phone is None:
        raise Problem("ticket_msisdn_unreadable", status=UNREADABLE, field="msisdn")
    return phone


def _read_purpose(purpose: str) -> str:
    """One line that looks as it reads: no control characters, and none that turn text around or hide in it."""
    text = unicodedata.normalize("NFC", purpose.strip())
    kinds = {unicodedata.category(char) for char in text if char not in _JOINERS}
    if len(text) > PURPOSE_LENGTH or kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        raise Problem("ticket_purpose_unreadable", status=UNREADABLE, field="purpose")
    return text


def _read_locale(locale: str) -> str:
    checked = customer_fields.check({"locale": locale.strip() or None}, "")
    if checked.faults:
        raise Problem("ticket_locale_unreadable", status=UNREADABLE, field="locale")
    return checked.fields["locale"] or ""
