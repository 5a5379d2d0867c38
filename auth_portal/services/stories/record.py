"""All that is on record of one verification, read in one go and already masked: what its story is told from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, or_, select

from auth_portal.clock import WallClock
from auth_portal.crypto import KeyFault, Keyring
from auth_portal.errors import NotFound
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.methods import CARRIES
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.delivery_lists import LINE_COLUMNS, AttemptLine, DeliveryLine, attempts_of, line_from
from auth_portal.services.directory.customers import (
    PERSON_COLUMNS,
    Identifier,
    Person,
    mask_contact,
    person_from,
    read_identifier,
)
from auth_portal.services.journeys import Journeys
from auth_portal.services.outbox import CALLBACK, MESSAGE
from auth_portal.store.models import Admin, AuditEvent, Challenge, CustomerRow, Delivery, Verification, Visit

KINDS = ("customer_id", "phone", "email")
SHOWN_ENDS = 3  # characters of a reference that are shown at each end
SHORTEST_SHOWN = 10  # a shorter one would be shown almost whole
DIGITS_OF_A_PHONE = 6
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class VisitFacts:
    """One browser. ``typed`` is masked; ``is_shared`` says that several people hold what was typed."""

    id: str
    at: datetime
    customer_row: str | None
    typed: str
    is_shared: bool


@dataclass(frozen=True)
class CodeFacts:
    """One code that was issued. ``contact`` is where it went, masked; empty where that is no longer on file."""

    id: str
    at: datetime
    method: str
    customer_row: str | None
    contact: str
    expires_at: datetime
    used_at: datetime | None
    replaced_at: datetime | None


@dataclass(frozen=True)
class DeliveryFacts:
    """A callback or message with its attempts."""

    line: DeliveryLine
    tries: tuple[AttemptLine, ...]


@dataclass(frozen=True)
class EventFacts:
    """An audit event. ``admin`` is the name of whoever did it, if an admin did.

    ``customer_row`` is the row of whom it is about; of somebody who was erased since, an id that no row has.
    """

    at: datetime
    kind: str
    facts: Mapping[str, Any]
    admin: str
    customer_row: str | None


@dataclass(frozen=True)
class Record:
    """One verification with everything that hangs on it. ``row`` is its own row."""

    now: datetime
    wall: WallClock  # of whoever reads it
    row: Any
    reference_ends: str
    journey: JourneyConfig
    channels: Mapping[str, ChannelConfig]
    visits: tuple[VisitFacts, ...]
    codes: tuple[CodeFacts, ...]
    deliveries: tuple[DeliveryFacts, ...]
    events: tuple[EventFacts, ...]
    people: Mapping[str, Person]
    has_others: bool
    is_closed: bool  # whether the journey takes nobody now

    def time(self, moment: datetime) -> str:
        """A time of day, with its date where that is not the date on which it began."""
        return self.wall.time(moment, of=self.row.began_at)

    @property
    def person(self) -> Person | None:
        """Whoever was verified, else whoever of the directory was named last."""
        rows = [self.row.customer_row, *(visit.customer_row for visit in reversed(self.visits))]
        return next((self.people[row] for row in rows if row in self.people), None)

    @property
    def callback(self) -> DeliveryFacts | None:
        """The delivery of its one result."""
        return next((one for one in self.deliveries if one.line.kind == CALLBACK), None)

    @property
    def messages(self) -> list[DeliveryFacts]:
        """The messages of its codes, in order."""
        return [one for one in self.deliveries if one.line.kind == MESSAGE]


def load_record(
    connection: Connection, keyring: Keyring, journeys: Journeys, verification_id: str, now: datetime
) -> Record:
    """Reads it. Raises NotFound("verification_unknown")."""
    row = connection.execute(select(Verification.__table__).where(Verification.id == verification_id)).one_or_none()
    if row is None:
        raise NotFound("verification_unknown")
    region = journeys.current().portal.default_region
    visits = _visits(connection, keyring, region, verification_id)
    challenges = connection.execute(_CODES.where(Challenge.verification_id == verification_id)).all()
    events = _events(connection, verification_id)
    found: tuple[Any, ...] = (row, *visits, *challenges, *events)
    people = _people(connection, {one.customer_row for one in found if one.customer_row is not None})
    others = select(Verification.id).where(
        Verification.reference_hash == row.reference_hash, Verification.id != verification_id
    )
    return Record(
        now=now,
        wall=journeys.current().portal.wall,
        row=row,
        reference_ends=_ends(_opened(keyring, row.reference_sealed, "verifications", row.id, "reference")),
        journey=journeys.version(row.version_id),
        channels=journeys.current().channels,
        visits=visits,
        codes=tuple(_code(keyring, challenge, people) for challenge in challenges),
        deliveries=_deliveries(connection, verification_id),
        events=events,
        people=people,
        is_closed=_is_closed(journeys, row.slug),
        has_others=connection.execute(others.limit(1)).first() is not None,
    )


def _is_closed(journeys: Journeys, slug: str) -> bool:
    snapshot = journeys.current()
    found = snapshot.journeys.get(slug)
    return found is None or not snapshot.is_open(found.config)


def holders_of(connection: Connection, identifier: Identifier, most: int) -> tuple[str, ...]:
    """The rows of all customers who go by an identifier; several where they share a phone or mailbox."""
    held = [CustomerRow.customer_key == identifier.customer_key] if identifier.customer_key else []
    held += [CustomerRow.phone_key == identifier.phone_key] if identifier.phone_key else []
    held += [CustomerRow.email_key == identifier.email_key] if identifier.email_key else []
    return tuple(connection.execute(select(CustomerRow.id).where(or_(*held)).limit(most)).scalars())


def masked_identifier(typed: str) -> str:
    """What somebody typed to name themselves, as it may be shown: enough to see a slip in it."""
    if not typed:
        return ""
    if "@" in typed or len(_DIGIT.findall(typed)) > DIGITS_OF_A_PHONE:
        return mask_contact(typed)
    return f"{typed[:2]}•••{typed[-2:]}" if len(typed) > 2 * 2 else "•••"


def _ends(reference: str) -> str:
    if len(reference) < SHORTEST_SHOWN:
        return "•••"
    return f"{reference[:SHOWN_ENDS]}•••{reference[-SHOWN_ENDS:]}"


def _opened(keyring: Keyring, sealed: bytes | None, table: str, row: str, column: str) -> str:
    """What was sealed; nothing where it was altered: the story of the rest is still wanted."""
    try:
        return keyring.open(sealed, table, row, column) if sealed else ""
    except KeyFault:
        return ""


def _visits(connection: Connection, keyring: Keyring, region: str, verification_id: str) -> tuple[VisitFacts, ...]:
    query = select(Visit.id, Visit.created_at, Visit.customer_row, Visit.identifier_sealed)
    rows = connection.execute(query.where(Visit.verification_id == verification_id).order_by(Visit.id)).all()
    return tuple(_visit(connection, keyring, region, row) for row in rows)


def _visit(connection: Connection, keyring: Keyring, region: str, row: Any) -> VisitFacts:
    typed = _opened(keyring, row.identifier_sealed, "visits", row.id, "identifier")
    read = read_identifier(typed, KINDS, region, keyring) if row.customer_row is None else None
    is_shared = read is not None and len(holders_of(connection, read, 2)) > 1
    return VisitFacts(row.id, row.created_at, row.customer_row, masked_identifier(typed), is_shared)


_CODES = select(
    Challenge.id, Challenge.issued_at, Challenge.method, Challenge.customer_row, Challenge.destination_key,
    Challenge.expires_at, Challenge.used_at, Challenge.replaced_at,
).order_by(Challenge.issued_at)  # fmt: skip


def _code(keyring: Keyring, row: Any, people: Mapping[str, Person]) -> CodeFacts:
    person, carries, contact = people.get(row.customer_row or ""), CARRIES.get(row.method, "email"), ""
    if person is not None and person.destination_key(carries, "") == row.destination_key:
        contact = mask_contact(person.contact(carries, keyring))
    return CodeFacts(
        row.id, row.issued_at, row.method, row.customer_row, contact, row.expires_at, row.used_at, row.replaced_at
    )


def _deliveries(connection: Connection, verification_id: str) -> tuple[DeliveryFacts, ...]:
    found = select(*LINE_COLUMNS).where(Delivery.verification_id == verification_id)
    lines = [line_from(row) for row in connection.execute(found.order_by(Delivery.created_at, Delivery.id))]
    tries = attempts_of(connection, [line.id for line in lines])
    return tuple(DeliveryFacts(line, tuple(tries[line.id])) for line in lines)


def _events(connection: Connection, verification_id: str) -> tuple[EventFacts, ...]:
    found = (
        select(
            AuditEvent.at, AuditEvent.kind, AuditEvent.facts, Admin.name,
            func.coalesce(CustomerRow.id, AuditEvent.subject_id).label("customer_row"),
        )
        .outerjoin(Admin, Admin.id == AuditEvent.admin_id)
        .outerjoin(CustomerRow, CustomerRow.subject_id == AuditEvent.subject_id)
    )  # fmt: skip
    rows = connection.execute(found.where(AuditEvent.verification_id == verification_id).order_by(AuditEvent.id))
    return tuple(EventFacts(row.at, row.kind, row.facts, row.name or "", row.customer_row) for row in rows)


def _people(connection: Connection, rows: set[str]) -> dict[str, Person]:
    found = connection.execute(select(*PERSON_COLUMNS).where(CustomerRow.id.in_(rows)))
    return {row.row: person_from(row, row.row) for row in found}
