"""All that is on record of one verification, loaded at once and already masked: what its story is written from."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, or_, select

from auth_portal.clock import WallClock
from auth_portal.crypto import KeyFault, Keyring, SealedColumn
from auth_portal.errors import NotFound
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.methods import CARRIES
from auth_portal.services.config.journey import RESERVED_AT_FIRST, JourneyConfig, payment_of
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.delivery.outbox import ALERT, TEST, TIME_WAS_OVER, WEBHOOK, notice_lane
from auth_portal.services.directory.person import (
    PERSON_COLUMNS,
    Identifier,
    Person,
    has_id,
    mask_contact,
    mask_name,
    person_from,
    read_identifier,
)
from auth_portal.services.history.delivery_lists import LINE_COLUMNS, AttemptLine, DeliveryLine, attempts_of, line_from
from auth_portal.store.db import Work, parted_facts
from auth_portal.store.models import (
    CALLBACK,
    CHANGED,
    CUSTOMER_NAME,
    DELIVERY_ABOUT,
    DELIVERY_BODY,
    MESSAGE,
    RESULT_COLUMNS,
    TICKET_PAYMENT,
    VERIFICATION_REFERENCE,
    VERIFIED,
    VISIT_IDENTIFIER,
    Admin,
    AuditEvent,
    Challenge,
    ChannelState,
    CustomerRow,
    Delivery,
    JourneyVersion,
    TicketRow,
    Verification,
    Visit,
    is_changed,
    signed_columns,
)

# Variables of a result with the portal's own values, without the one that opens the chat.
SHOWN_DATA = frozenset(RESERVED_AT_FIRST) - {"chat_code"}
KINDS = ("customer_id", "phone", "email")
SHOWN_ENDS = 3  # characters of a reference that are shown at each end
SHORTEST_SHOWN = 10  # a shorter one would be shown almost whole
DIGITS_OF_A_PHONE = 6
MOST_VISITS = 1000  # of a page of verifications, the newest, that are looked at for who was named
NOTICES = {TEST: "test", ALERT: "alert", WEBHOOK: "webhook"}  # by contract; any other is a notice
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class NamedPerson:
    """The person of a verification as lists show them: the name is masked.

    Without a ``row`` no one customer was named, and ``typed`` is what was typed last, masked.
    """

    row: str | None
    customer_id: str
    name: str
    typed: str


@dataclass(frozen=True)
class DeliverySubject:
    """What a delivery is about and where it goes, as lists show it. ``contact`` is masked; empty if it is not known.

    ``kind`` is callback, code, notice, test, alert or webhook; ``target`` the server or channel. ``subject`` is that of
    a notice, or the event of a webhook; ``method`` that of a code. ``person`` is the customer of the code, or of the
    verification whose result it is.
    """

    kind: str
    target: str
    subject: str
    method: str
    slug: str
    outcome: str
    contact: str
    person: NamedPerson | None


@dataclass(frozen=True)
class DeliveryFix:
    """Who can fix what kept a delivery from arriving, and what that is. ``kind`` is that of a moment."""

    who: str
    what: str
    kind: str = "bad"


@dataclass(frozen=True)
class CustomerDelivery:
    """A delivery to a customer, or with their result."""

    line: DeliveryLine
    subject: DeliverySubject


@dataclass(frozen=True)
class VisitFacts:
    """One browser. ``typed`` is masked; ``is_shared`` means that several customers have what was typed."""

    id: str
    at: datetime
    customer_row: str | None
    typed: str
    is_shared: bool


@dataclass(frozen=True)
class CodeFacts:
    """One code that was issued. ``contact`` is where it was sent, masked; empty if that is no longer on file."""

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

    @property
    def last_response(self) -> str:
        """Return what the last try came to; that the time was over is no response."""
        if self.line.reason == TIME_WAS_OVER:
            details = (one.detail for one in reversed(self.tries))
            return next((text for text in details if text and text != TIME_WAS_OVER), self.line.reason)
        return self.line.reason


@dataclass(frozen=True)
class EventFacts:
    """An audit event. ``admin`` is the name of the admin who caused it, or ""; ``came_from`` says from where.

    ``customer_row`` is the row of the customer it is about; an id that no row has, if the customer was erased since.
    """

    at: datetime
    kind: str
    facts: Mapping[str, Any]
    came_from: Mapping[str, str]
    admin: str
    customer_row: str | None


@dataclass(frozen=True)
class Record:
    """One verification with everything that belongs to it. ``row`` is its own row.

    With ``is_changed`` someone else has changed what says how it ended, and its outcome, customer and methods may be
    false.
    """

    now: datetime
    wall: WallClock  # of the portal's time zone
    row: Any
    is_changed: bool
    reference_ends: str
    journey: JourneyConfig
    journeys: Mapping[str, str]  # the titles of all, by slug
    channels: Mapping[str, ChannelConfig]
    failing: Mapping[str, datetime]  # since when, by channel that has accepted nothing since
    visits: tuple[VisitFacts, ...]
    codes: tuple[CodeFacts, ...]
    deliveries: tuple[DeliveryFacts, ...]
    events: tuple[EventFacts, ...]
    people: Mapping[str, Person]
    payment: str  # that the customer was asked to approve, in one line
    has_others: bool
    is_closed: bool  # the journey accepts no customer now
    takes_support_code: bool  # the journey does, as it is now

    def time(self, moment: datetime) -> str:
        """Return a time of day, with its date where that is not the date on which the verification began."""
        return self.wall.time(moment, of=self.row.began_at)

    @property
    def person(self) -> Person | None:
        """Return the customer who was verified, or else the customer who was identified last."""
        if self.is_changed:
            return None
        rows = [self.row.customer_row, *(visit.customer_row for visit in reversed(self.visits))]
        return next((self.people[row] for row in rows if row in self.people), None)

    @property
    def why_ended(self) -> str:
        """Return the reason of the end where one is on record, a key of WHY_ENDED."""
        ends = (event for event in self.events if event.kind == "verification_ended" and "why" in event.facts)
        return next((str(event.facts["why"]) for event in ends), "")

    @property
    def callback(self) -> DeliveryFacts | None:
        """Return the delivery of its one result."""
        return next((one for one in self.deliveries if one.line.kind == CALLBACK), None)

    @property
    def messages(self) -> list[DeliveryFacts]:
        """Return the messages of its codes, in order."""
        return [one for one in self.deliveries if one.line.kind == MESSAGE]


def load_record(work: Work, journeys: Journeys, verification_id: str) -> Record:
    """Load the record of a verification. Raise NotFound("verification_unknown")."""
    row = work.execute(_VERIFICATION.where(Verification.id == verification_id)).one_or_none()
    if row is None:
        raise NotFound("verification_unknown")
    snapshot = journeys.current()
    visits = _visits(work, snapshot.portal.default_region, verification_id)
    challenges = work.execute(_CODES.where(Challenge.verification_id == verification_id)).all()
    events = _events(work, verification_id)
    found: tuple[Any, ...] = (row, *visits, *challenges, *events)
    rows = {one.customer_row for one in found if one.customer_row is not None}
    people = _people(work, rows)
    others = select(Verification.id).where(
        Verification.reference_hash == row.reference_hash, Verification.id != verification_id
    )
    current = snapshot.journeys.get(row.slug)
    methods = {method for step in current.config.verify_steps for method in step.methods} if current else set()
    failing = select(ChannelState.name, ChannelState.failing_since).where(ChannelState.failures_in_row > 0)
    sent = select(*LINE_COLUMNS).where(Delivery.verification_id == verification_id)
    lines = [line_from(row) for row in work.execute(sent.order_by(Delivery.created_at, Delivery.id))]
    tries = attempts_of(work.connection, [line.id for line in lines])
    reference = _opened(work, row.reference_sealed, VERIFICATION_REFERENCE, row.id)
    asked = asked_payment(work.keyring, row, snapshot.portal.default_region)
    return Record(
        now=work.now,
        wall=snapshot.portal.wall,
        row=row,
        is_changed=is_forged(work.keyring, journeys, row),
        reference_ends=masked_reference(reference),
        journey=journeys.version(row.version_id),
        journeys=snapshot.titles,
        channels=snapshot.channels,
        failing={one.name: one.failing_since or work.now for one in work.execute(failing)},
        visits=visits,
        codes=tuple(_code(work, challenge, people) for challenge in challenges),
        deliveries=tuple(DeliveryFacts(line, tuple(tries[line.id])) for line in lines),
        events=events,
        people=people,
        payment=asked.text if asked is not None else "",
        is_closed=current is None or not snapshot.is_open(current.config),
        takes_support_code="support_code" in methods,
        has_others=work.execute(others.limit(1)).first() is not None,
    )


def masked_reference(reference: str) -> str:
    """Return a reference by its ends."""
    is_long = len(reference) >= SHORTEST_SHOWN
    return f"{reference[:SHOWN_ENDS]}•••{reference[-SHOWN_ENDS:]}" if is_long else "•••"


def is_forged(keyring: Keyring, journeys: Journeys, row: Any) -> bool:
    """Report whether someone else has changed a verification, its customer's ID or its journey (R54).

    ``row`` has RESULT_COLUMNS and the slug, which no MAC covers: its journey's version has it, too.
    """
    if is_changed(keyring, row):
        return True
    try:
        return keyring.requires_macs and journeys.served_version(row.verification__version_id).slug != row.slug
    except NotFound:
        return True


TICKET_COLUMNS = signed_columns(TicketRow, "ticket__")  # what asked_payment reads, where a statement joins the ticket


@dataclass(frozen=True)
class AskedPayment:
    """The payment that a ticket asked its customer to approve, as it was registered, and in one line."""

    amount: str
    currency: str
    payee: str
    text: str


def asked_payment(keyring: Keyring, row: Any, region: str) -> AskedPayment | None:
    """Return the payment that a ticket asked for; None if there is none or the ticket was changed (R54)."""
    found = row._mapping
    sealed = found["ticket__payment_sealed"]
    if sealed is None or not keyring.holds("tickets", found, "ticket__"):
        return None
    try:
        payment = payment_of(keyring.open(sealed, TICKET_PAYMENT, found["ticket__id"]))
    except KeyFault:
        return None
    return AskedPayment(payment.amount, payment.currency, payment.payee, payment.shown(region).text)


_VERIFICATION = (
    select(
        Verification.__table__,
        *RESULT_COLUMNS,
        *TICKET_COLUMNS,
        JourneyVersion.number.label("version_number"),
        JourneyVersion.created_at.label("version_saved_at"),
    )
    .join(JourneyVersion, JourneyVersion.id == Verification.version_id)
    .outerjoin(CustomerRow, CustomerRow.id == Verification.customer_row)
    .outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
)
_CODES = select(
    Challenge.id,
    Challenge.issued_at,
    Challenge.method,
    Challenge.customer_row,
    Challenge.destination_key,
    Challenge.expires_at,
    Challenge.used_at,
    Challenge.replaced_at,
).order_by(Challenge.issued_at)


def _visits(work: Work, region: str, verification_id: str) -> tuple[VisitFacts, ...]:
    query = select(Visit.id, Visit.created_at, Visit.customer_row, Visit.identifier_sealed)
    visits = []
    for row in work.execute(query.where(Visit.verification_id == verification_id).order_by(Visit.id)).all():
        typed = _opened(work, row.identifier_sealed, VISIT_IDENTIFIER, row.id)
        read = read_identifier(typed, KINDS, region, work.keyring) if row.customer_row is None else None
        is_shared = read is not None and len(holders_of(work.connection, read, 2)) > 1
        visits.append(VisitFacts(row.id, row.created_at, row.customer_row, masked_identifier(typed), is_shared))
    return tuple(visits)


def holders_of(connection: Connection, identifier: Identifier, most: int) -> tuple[str, ...]:
    """Return the rows of the customers with this identifier; several where they share a phone or mailbox."""
    held = [has_id(identifier.customer_key)] if identifier.customer_key else []
    held += [CustomerRow.phone_key == identifier.phone_key] if identifier.phone_key else []
    held += [CustomerRow.email_key == identifier.email_key] if identifier.email_key else []
    return tuple(connection.execute(select(CustomerRow.id).where(or_(*held)).limit(most)).scalars())


def masked_identifier(typed: str) -> str:
    """Return what a visitor typed to identify themselves, masked so that a typing error still shows."""
    if not typed:
        return ""
    if "@" in typed or len(_DIGIT.findall(typed)) > DIGITS_OF_A_PHONE:
        return mask_contact(typed)
    return f"{typed[:2]}•••{typed[-2:]}" if len(typed) > 2 * 2 else "•••"


def named_people(work: Work, ended_with: Mapping[str, str | None]) -> dict[str, NamedPerson]:
    """Return the person of each verification: the customer it ended with, or else the one who was named last.

    ``ended_with`` has by verification the row of that customer. One where no one was named yet is left out.
    """
    found = select(Visit.id, Visit.verification_id, Visit.customer_row, Visit.identifier_sealed)
    newest = found.where(Visit.verification_id.in_(ended_with)).order_by(Visit.id.desc()).limit(MOST_VISITS)
    visits: dict[str, Any] = {}
    for visit in work.execute(newest):
        known = visits.setdefault(visit.verification_id, visit)
        if known.customer_row is None and visit.customer_row is not None:
            visits[visit.verification_id] = visit
    rows = {of: row or getattr(visits.get(of), "customer_row", None) for of, row in ended_with.items()}
    people, named = _people(work, {row for row in rows.values() if row is not None}), {}
    for of, row in rows.items():
        if row in people:
            named[of] = _named(work, people[row])
        elif of in visits and row is None:
            typed = _opened(work, visits[of].identifier_sealed, VISIT_IDENTIFIER, visits[of].id)
            if typed:
                named[of] = NamedPerson(None, "", "", masked_identifier(typed))
    return named


def delivery_subjects(work: Work, journeys: Journeys, delivery_ids: Collection[str]) -> dict[str, DeliverySubject]:
    """Return by delivery what it is about and where it goes."""
    rows = work.execute(_SUBJECTS.where(Delivery.id.in_(delivery_ids))).all()
    codes = {row.id: row.of_row for row in rows if row.of_row is not None}
    results = {row.id: row.customer_row for row in rows if row.method is None and row.customer_row is not None}
    people = _people(work, {*codes.values(), *results.values()})
    found = {}
    for row in rows:
        about = json.loads(_opened(work, row.about_sealed, DELIVERY_ABOUT, row.id) or "{}")
        was_changed = row.slug is not None and is_forged(work.keyring, journeys, row)
        person = people.get(codes.get(row.id) or ("" if was_changed else results.get(row.id, "")))
        carries = CARRIES.get(row.method, "email")
        contact = str(about.get("to", ""))
        if person is not None and row.method and person.destination_key(carries, "") == row.destination_key:
            contact = _masked_contact(work, person, carries)
        kind = "code" if row.challenge_id is not None else NOTICES.get(row.contract, "notice")
        found[row.id] = DeliverySubject(
            kind=CALLBACK if row.kind == CALLBACK else kind,
            target=row.target,
            subject=str(about.get("subject", "")).removeprefix(f"{journeys.current().portal.name}: "),
            method=row.method or "",
            slug="" if was_changed else row.slug or "",
            outcome=CHANGED if was_changed else row.outcome or "",
            contact=contact,
            person=_named(work, person) if person is not None else None,
        )
    return found


def delivery_facts(work: Work, delivery_id: str) -> DeliveryFacts:
    """Return a delivery with its attempts."""
    row = work.execute(select(*LINE_COLUMNS).where(Delivery.id == delivery_id)).one()
    return DeliveryFacts(line_from(row), tuple(attempts_of(work.connection, [delivery_id])[delivery_id]))


def masked_result(work: Work, delivery_id: str, subject: DeliverySubject, paths: Mapping[str, str]) -> str:
    """Return the request of a callback, masked, with the variables that only the portal fills in; "" for others.

    ``paths`` are those of Flow by contract. What was changed in the database is not shown, nor is any variable once the
    customer was erased: a result that was on its way then is stored a while longer.
    """
    if subject.kind != CALLBACK or subject.outcome == CHANGED:
        return ""
    row = work.execute(select(Delivery.contract, Delivery.body_sealed).where(Delivery.id == delivery_id)).one()
    try:
        body = json.loads(_opened(work, row.body_sealed, DELIVERY_BODY, delivery_id))
    except ValueError:
        return ""
    reference = masked_reference(body["reference"])
    shown_data = SHOWN_DATA if subject.person is not None or subject.outcome != VERIFIED else ()
    data = {name: value if name in shown_data else "••••" for name, value in body.get("data", {}).items()}
    shown = json.dumps({**body, "reference": reference, "data": data}, ensure_ascii=False, indent=1)
    return f"POST {subject.target}{paths.get(row.contract, '')}\nreference: {reference}\n\n{shown}"


def customer_lanes(work: Work, rows: Iterable[str]) -> tuple[bytes, ...]:
    """Return the lanes in which notices to these customers leave."""
    return tuple(notice_lane(work.keyring, row) for row in rows)


def customer_deliveries(
    work: Work, journeys: Journeys, row: str, verification_ids: Collection[str], most: int
) -> tuple[CustomerDelivery, ...]:
    """Return the newest deliveries of a customer: notices to them, and codes and results of these verifications."""
    is_notice = Delivery.lane == notice_lane(work.keyring, row), Delivery.kind == MESSAGE  # not an event for programs
    notices = select(*LINE_COLUMNS).where(*is_notice)
    rows = list(work.execute(notices.order_by(Delivery.created_at.desc()).limit(most)))
    sent = select(*LINE_COLUMNS).where(Delivery.verification_id.in_(verification_ids))
    sent = sent.outerjoin(Challenge, Challenge.id == Delivery.challenge_id)
    theirs = sent.where(or_(Delivery.kind == CALLBACK, Challenge.customer_row == row))
    rows += work.execute(theirs.order_by(Delivery.created_at.desc()).limit(most))
    lines = sorted(map(line_from, rows), key=lambda line: (line.created_at, line.id), reverse=True)[:most]
    subjects = delivery_subjects(work, journeys, [line.id for line in lines])
    return tuple(CustomerDelivery(line, subjects[line.id]) for line in lines)


_SUBJECTS = (
    select(
        Delivery.id,
        Delivery.kind,
        Delivery.contract,
        Delivery.target,
        Delivery.challenge_id,
        Delivery.about_sealed,
        Challenge.method,
        Challenge.customer_row.label("of_row"),
        Challenge.destination_key,
        Verification.slug,
        Verification.outcome,
        Verification.customer_row,
        *RESULT_COLUMNS,
    )
    .outerjoin(Challenge, Challenge.id == Delivery.challenge_id)
    .outerjoin(Verification, Verification.id == Delivery.verification_id)
    .outerjoin(CustomerRow, CustomerRow.id == Verification.customer_row)
)


def _people(work: Work, rows: Collection[str]) -> dict[str, Person]:
    persons = work.execute(select(*PERSON_COLUMNS).where(CustomerRow.id.in_(rows))) if rows else ()
    return {row.row: person_from(row, row.row) for row in persons}


def _named(work: Work, person: Person) -> NamedPerson:
    name = _opened(work, person.name_sealed, CUSTOMER_NAME, person.key)
    return NamedPerson(person.row, person.customer_id, mask_name(name), "")


def _masked_contact(work: Work, person: Person, carries: str) -> str:
    """Return where messages to a customer go, masked; nothing if what is stored was altered."""
    column, sealed = ("phone", person.phone_sealed) if carries == "sms" else ("email", person.email_sealed)
    contact = _opened(work, sealed, SealedColumn("customers", column), person.key)
    return mask_contact(contact) if contact else ""


def _opened(work: Work, sealed: bytes | None, column: SealedColumn, row: str) -> str:
    """Return what was sealed, or "" where it was altered: the rest of the story is still wanted."""
    try:
        return work.open(sealed, column, row) if sealed else ""
    except KeyFault:
        return ""


def _code(work: Work, row: Any, people: Mapping[str, Person]) -> CodeFacts:
    person, carries, contact = people.get(row.customer_row or ""), CARRIES.get(row.method, "email"), ""
    if person is not None and person.destination_key(carries, "") == row.destination_key:
        contact = _masked_contact(work, person, carries)
    return CodeFacts(
        row.id, row.issued_at, row.method, row.customer_row, contact, row.expires_at, row.used_at, row.replaced_at
    )


def _events(work: Work, verification_id: str) -> tuple[EventFacts, ...]:
    found = (
        select(
            AuditEvent.at,
            AuditEvent.kind,
            AuditEvent.facts,
            Admin.name,
            func.coalesce(CustomerRow.id, AuditEvent.subject_id).label("customer_row"),
        )
        .outerjoin(Admin, Admin.id == AuditEvent.admin_id)
        .outerjoin(CustomerRow, CustomerRow.subject_id == AuditEvent.subject_id)
    )
    rows = work.execute(found.where(AuditEvent.verification_id == verification_id).order_by(AuditEvent.id))
    return tuple(
        EventFacts(row.at, row.kind, *parted_facts(row.facts), row.name or "", row.customer_row) for row in rows
    )
