"""What is stored about one person: all of it in one document for them, and its erasure.

The export is for GDPR 15 and 20 and POPIA 23. It names what proves who they are and does not include it: a password's
hash or an app's seed in a file could be used to sign in. Which admin or program did something, and from where, is
theirs, so events say only that an admin did it. After an erasure, what was counted and audited stays, without a name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, or_, select, update

from auth_portal.clock import iso
from auth_portal.crypto import SealedColumn, new_token
from auth_portal.errors import Conflict, NotFound
from auth_portal.services.access.api_answers import forget_answers
from auth_portal.services.delivery.outbox import notice_lane
from auth_portal.services.directory.person import CustomerNotices, Person, erase_person, get_person
from auth_portal.services.imports.store import forget_customer
from auth_portal.services.verification import tries
from auth_portal.store.db import Transactions, Work, parted_facts
from auth_portal.store.keys import update_signed
from auth_portal.store.models import (
    ANSWER_ANSWERS,
    CALLBACK,
    CHANGED,
    DELIVERY_BODY,
    EVENT,
    HIDDEN_STEPS,
    MESSAGE,
    TICKET_PAYMENT,
    TICKET_PHONE,
    TICKET_PURPOSE,
    VISIT_IDENTIFIER,
    Acceptance,
    AnswerRow,
    AuditEvent,
    Challenge,
    CredentialLink,
    CustomerRow,
    Delivery,
    DeliveryState,
    TicketRow,
    Tries,
    Verification,
    Visit,
)

CHUNK = 500  # rows changed by one statement

# The fields that the export shows of each kind of row.
TRY_FIELDS = ("method", "is_ticketed", "total", "day_count", "day_ends_at")
LINK_FIELDS = ("kind", "created_at", "expires_at", "used_at")
VERIFICATION_FIELDS = ("id", "slug", "server", "began_at", "ended_at", "outcome", "methods", "wrong_tries", "sends")
CALLBACK_FIELDS = ("target", "state", "created_at", "ended_at")
VISIT_FIELDS = ("verification_id", "created_at", "step", "proved")
CODE_FIELDS = ("verification_id", "method", "issued_at", "expires_at", "used_at")
TICKET_FIELDS = ("slug", "locale", "created_at", "ends_at", "bound_at")
ACCEPTANCE_FIELDS = ("slug", "verification_id", "version", "language", "digest", "boxes", "accepted_at")
ANSWER_FIELDS = ("slug", "verification_id", "answered_at", "expires_at")
EVENT_FIELDS = ("at", "kind", "verification_id", "facts")

Row = Mapping[str, Any]


class PersonExport:
    """Read everything that is stored about a person, and record that it was read."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def of(self, row: str, *, admin_id: str | None = None, **facts: Any) -> Mapping[str, Any]:
        """Return the document, of what JSON can hold; times are UTC. Raise NotFound."""
        with self._transactions.read() as work:
            person = get_person(work.connection, row)
            document = {"exported_at": iso(work.now), **_document(work, person, row)}
        with self._transactions.write() as work:
            work.record("customer_exported", subject_id=person.subject_id, admin_id=admin_id, **facts)
        return document

    def accepted_terms(self, row: str) -> Sequence[Row]:
        """Return the terms that a person has accepted, the newest first, except what someone else has changed (R54)."""
        with self._transactions.read() as work:
            found = select(Acceptance.__table__).where(Acceptance.customer_row == row).order_by(Acceptance.id.desc())
            return [one for one in _rows(work, found) if work.keyring.holds("acceptances", one)]


def _document(work: Work, person: Person, row: str) -> dict[str, Any]:
    visits = _rows(work, select(Visit.__table__).where(Visit.customer_row == row).order_by(Visit.id))
    seen = {visit["verification_id"] for visit in visits}
    is_theirs = or_(Verification.customer_row == row, Verification.id.in_(seen))
    verifications = _rows(work, select(Verification.__table__).where(is_theirs).order_by(Verification.id))
    codes = select(Challenge.__table__).where(
        Challenge.verification_id.in_([one["id"] for one in verifications]), Challenge.customer_row == row
    )
    events = select(AuditEvent.__table__).where(AuditEvent.subject_id == person.subject_id).order_by(AuditEvent.id)
    counted = select(Tries.__table__).where(Tries.person_key == row)
    links = select(CredentialLink.__table__).where(CredentialLink.customer_row == row)
    tickets = select(TicketRow.__table__).where(TicketRow.customer_row == row)
    accepted = select(Acceptance.__table__).where(Acceptance.customer_row == row).order_by(Acceptance.id)
    answers = select(AnswerRow.__table__).where(AnswerRow.customer_row == row).order_by(AnswerRow.id)
    until = person.support_code_expires_at
    return {
        "customer": _customer(work, person, row),
        "credentials": {
            "password": "set, not given out" if person.password_sealed is not None else "none",
            "password_has_15_characters": person.password_is_long,
            "authenticator_app": "enrolled, its key is not given out" if person.totp_sealed is not None else "none",
            "support_code_until": iso(until) if until is not None else None,
        },
        "wrong_tries": [_shown(one, TRY_FIELDS) for one in _rows(work, counted)],
        "one_time_links": [_shown(one, LINK_FIELDS) for one in _rows(work, links)],
        "verifications": [{**_shown(one, VERIFICATION_FIELDS), **_result(work, one, row)} for one in verifications],
        "visits": [
            {**_visit(visit), "typed": _opened(work, visit, "identifier_sealed", VISIT_IDENTIFIER)} for visit in visits
        ],
        "codes": [_shown(one, CODE_FIELDS) for one in _rows(work, codes)],
        "tickets": [
            {
                **_shown(ticket, TICKET_FIELDS),
                "phone": _opened(work, ticket, "phone_sealed", TICKET_PHONE),
                "purpose": _opened(work, ticket, "purpose_sealed", TICKET_PURPOSE),
                "payment": json.loads(_opened(work, ticket, "payment_sealed", TICKET_PAYMENT) or "null"),
            }
            for ticket in _rows(work, tickets)
        ],
        "accepted_terms": [_shown(one, ACCEPTANCE_FIELDS) for one in _rows(work, accepted)],
        "answers": [
            {**_shown(one, ANSWER_FIELDS), "answers": json.loads(_opened(work, one, "answers_sealed", ANSWER_ANSWERS))}
            for one in _rows(work, answers)
        ],
        "events": [
            {**_shown(event, EVENT_FIELDS), "by_an_admin": event["admin_id"] is not None}
            for event in _rows(work, events)
        ],
    }


def _customer(work: Work, person: Person, row: str) -> dict[str, Any]:
    times = work.execute(select(CustomerRow.created_at, CustomerRow.changed_at).where(CustomerRow.id == row)).one()
    return {
        "customer_id": person.customer_id,
        "name": person.name(work.keyring),
        "phone": person.contact("sms", work.keyring) if person.phone_sealed is not None else "",
        "email": person.contact("email", work.keyring) if person.email_sealed is not None else "",
        "locale": person.locale,
        "is_active": person.is_active,
        "subject_id": person.subject_id,
        "created_at": iso(times.created_at),
        "changed_at": iso(times.changed_at),
    }


def _result(work: Work, verification: Row, row: str) -> dict[str, Any]:
    """Return what the business was sent about a verification, if this person was the one who was verified.

    If someone else has changed the verification (R54), what it says of its outcome and methods is replaced instead.
    """
    if not work.keyring.holds("verifications", verification):
        return {"outcome": CHANGED, "methods": "", "told": None}
    if verification["customer_row"] != row:
        return {"told": None}
    is_result = (Delivery.verification_id == verification["id"]) & (Delivery.kind == CALLBACK)
    for sent in _rows(work, select(Delivery.__table__).where(is_result)):
        body = _opened(work, sent, "body_sealed", DELIVERY_BODY) if sent["body_sealed"] is not None else None
        return {"told": {**_shown(sent, CALLBACK_FIELDS), "said": body}}
    return {"told": None}


def _rows(work: Work, query: Select[Any]) -> Sequence[Row]:
    return [dict(row) for row in work.execute(query).mappings()]


def _visit(visit: Row) -> dict[str, Any]:
    return {**_shown(visit, VISIT_FIELDS), "step": visit["step"] % HIDDEN_STEPS}


def _shown(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """Return some fields of a row as JSON can hold them; the facts of an event without where it came from."""
    shown: dict[str, Any] = {name: iso(row[name]) if isinstance(row[name], datetime) else row[name] for name in names}
    return {**shown, "facts": parted_facts(shown["facts"])[0]} if "facts" in shown else shown


def _opened(work: Work, row: Row, name: str, column: SealedColumn) -> str:
    return work.open(row[name], column, row["id"]) if row[name] is not None else ""


@dataclass(frozen=True)
class ErasureCounts:
    """How much of a person was removed from the database."""

    visits: int
    verifications: int


class Erasure:
    """Remove a person and all that identifies them."""

    def __init__(self, transactions: Transactions, notices: CustomerNotices) -> None:
        self._transactions = transactions
        self._notices = notices

    def erase(
        self,
        row: str,
        *,
        seen_at: datetime | None = None,
        admin_id: str | None = None,
        along_with: Callable[[Work], None] | None = None,
        **facts: Any,
    ) -> ErasureCounts:
        """Remove a person and all that identifies them. A result that is still on its way to Flow is sent.

        ``seen_at`` is the ``changed_at`` of the row that the decision was based on. ``along_with`` commits with the
        erasure. Raise NotFound if there is no such row, and Conflict if it was changed since ``seen_at``.
        """
        with self._transactions.read() as work:
            # Looked for outside the writing transaction, because not all of it is indexed.
            traces = {
                table: work.execute(select(table.id).where(table.customer_row == row)).scalars().all()
                for table in _FORGETTING
            }
        erased = ErasureCounts(len(traces[Visit]), len(traces[Verification]))
        with self._transactions.write() as work:
            found = select(CustomerRow.subject_id, CustomerRow.changed_at).where(CustomerRow.id == row)
            person = work.execute(found.with_for_update()).one_or_none()
            if person is None:
                raise NotFound("customer_unknown")
            if seen_at is not None and person.changed_at != seen_at:
                raise Conflict("customer_changed")
            _drop_notices(work, row)
            forget_customer(work, row)
            erase_person(work, row)
            tries.forget(work, row)
            # Once the row is ours: a change of it commits its answer before.
            forget_answers(work, row)
            for table, forget in _FORGETTING.items():
                for start in range(0, len(traces[table]), CHUNK):
                    forget(work, traces[table][start : start + CHUNK])
            counts: dict[str, Any] = {"visits": erased.visits, "verifications": erased.verifications, **facts}
            self._notices.customer_changed(work, row, None, "erased")
            work.record("customer_erased", subject_id=person.subject_id, admin_id=admin_id, **counts)
            if along_with is not None:
                along_with(work)
        self._transactions.database.compact()
        return erased


def _drop_notices(work: Work, row: str) -> None:
    """Withdraw the notices to a customer, and events about them, that have not left; forget the text of all of them."""
    theirs = Delivery.lane == notice_lane(work.keyring, row), Delivery.kind.in_((MESSAGE, EVENT))
    work.execute(update(Delivery).where(*theirs).values(body_sealed=None, about_sealed=None))
    pending = update(Delivery).where(*theirs, Delivery.state == DeliveryState.PENDING)
    work.execute(pending.values(state=DeliveryState.DROPPED, reason="the customer was erased", ended_at=work.now))


def _forget_in_visits(work: Work, ids: Sequence[str]) -> None:
    emptied = dict.fromkeys(
        ("given_sealed", "identifier_sealed", "identifier_key", "person_key", "customer_row", "method")
    )
    # A visit still under way goes back to its beginning; a form that is open in the browser is out of date.
    beginning = {"step": 0, "proved": "", "prompt": new_token()}
    update_signed(work, Visit, ids, {**emptied, **beginning})


def _forget_in_verifications(work: Work, ids: Sequence[str]) -> None:
    update_signed(work, Verification, ids, {"customer_row": None, "identifier_key": None})
    serving = select(Verification.ticket_id).where(Verification.id.in_(ids), Verification.ticket_id.is_not(None))
    _forget_tickets(work, [str(ticket_id) for ticket_id in work.execute(serving).scalars()])
    # A result that was sent contains the customer ID.
    sent = Delivery.verification_id.in_(ids) & (Delivery.kind == CALLBACK) & Delivery.ended_at.is_not(None)
    work.execute(update(Delivery).where(sent).values(body_sealed=None))


def _forget_tickets(work: Work, ids: Sequence[str]) -> None:
    # Its row stays while a verification may look for it: a ticket without a person lets no one through.
    emptied = dict.fromkeys(("customer_row", "phone_key", "phone_sealed", "purpose_sealed", "payment_sealed"))
    update_signed(work, TicketRow, ids, emptied)


_FORGETTING: Mapping[Any, Callable[[Work, Sequence[str]], object]] = {
    Visit: _forget_in_visits,
    Challenge: lambda work, ids: update_signed(work, Challenge, ids, {"customer_row": None}),
    Verification: _forget_in_verifications,
    TicketRow: _forget_tickets,
    Acceptance: lambda work, ids: update_signed(work, Acceptance, ids, {"customer_row": None}),
    AnswerRow: lambda work, ids: work.execute(delete(AnswerRow).where(AnswerRow.id.in_(ids))),
}
