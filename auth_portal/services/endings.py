"""How a verification ends: one conditional write that also puts the result into the outbox and a fact into the audit.

Whoever makes that write decides; everybody else finds it ended. An ``expired`` comes by itself when the chat clock has
run out, whether or not anybody is looking.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, bindparam, select

from auth_portal.clock import Clock, iso
from auth_portal.crypto import KeyFault, Keyring, token_hash
from auth_portal.errors import Problem
from auth_portal.services import audit, outbox
from auth_portal.services.cases import HEADLESS_COLUMNS, Case, headless_case, update_verification
from auth_portal.services.journeys import Journeys
from auth_portal.services.results import VERIFIED, result_body
from auth_portal.services.tickets import CASE_COLUMNS, ticket_of
from auth_portal.store.db import Database
from auth_portal.store.models import Delivery, TicketRow, Verification, Visit
from auth_portal.telemetry import log_event

CHAT_CODE_DIGITS = 6
SWEEP_BATCH = 50  # verifications expired in one transaction


@dataclass(frozen=True)
class Ending:
    """How a verification ended, as its /done page tells it to one visit."""

    outcome: str
    journey: str
    portal: str
    support_contact: str
    return_url: str
    logo: str
    colour: str
    words: str  # the business's own, after success
    told: str  # the state of the result's delivery
    chat_code: str
    is_chat_over: bool
    purpose: str = ""


_DONE = (
    select(
        Visit.id.label("visit_id"),
        Verification.id,
        Verification.version_id,
        Verification.outcome,
        Verification.visit_id.label("decided_by"),
        Verification.chat_code_sealed,
        Verification.proofs_until,
        Verification.chat_ends_at,
        Delivery.state,
        Verification.ticket_id,
        *CASE_COLUMNS,
    )
    .join(Verification, Verification.id == Visit.verification_id)
    .outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
    .outerjoin(Delivery, and_(Delivery.verification_id == Verification.id, Delivery.kind == outbox.CALLBACK))
    .where(Visit.token_hash == bindparam("token"))
)


class Endings:
    """Ends verifications, and tells how they ended."""

    def __init__(
        self, database: Database, keyring: Keyring, clock: Clock, journeys: Journeys, wake: Callable[[], None]
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._journeys = journeys
        self._wake = wake

    def end(self, connection: Connection, case: Case, outcome: str, now: datetime, *, why: str = "") -> None:
        """Decides a verification, in the caller's transaction; does nothing where it has ended already.

        ``why`` is for the admin alone, where the outcome does not say it.
        """
        is_verified = outcome == VERIFIED
        chat_code = _new_chat_code(case) if is_verified else ""
        methods = "+".join(case.proved)
        decided = update_verification(
            connection,
            case,
            outcome=outcome,
            ended_at=now,
            visit_id=case.visit_id,
            customer_row=case.person.row,
            methods=methods,
            chat_code_sealed=self._seal_chat_code(case, chat_code),
        )
        if not decided:
            return
        reference = self._keyring.open(case.reference_sealed, "verifications", case.verification_id, "reference")
        body = result_body(case.journey, outcome, reference, self._facts(case, now, chat_code) if is_verified else {})
        outbox.add_callback(
            connection, self._keyring, now, case.verification_id, case.server, case.journey.callback.contract,
            case.reference_hash, body, outcome, case.chat_ends_at,
        )  # fmt: skip
        audit.record(
            connection, self._keyring, now, "verification_ended",
            verification_id=case.verification_id, subject_id=case.person.subject_id, outcome=outcome, methods=methods,
            **({"why": why} if why else {}),
        )  # fmt: skip
        log_event("verification_ended", verification=case.verification_id, outcome=outcome, journey=case.journey.slug)

    def _facts(self, case: Case, now: datetime, chat_code: str) -> Mapping[str, str]:
        person, ticket = case.person, case.ticket
        return {
            "purpose": ticket.purpose(self._keyring) if ticket is not None else "",
            # Whoever proved it holds the chat's own number: else the person would have been a stranger to this ticket.
            "phone_match": "yes" if ticket is not None and ticket.phone_key is not None else "",
            "customer_id": person.customer_id,
            "name": person.name(self._keyring),
            "method": case.proved[-1],
            "methods": "+".join(case.proved),
            "verified_at": iso(now),
            "locale": (ticket.locale if ticket is not None else "") or person.locale,
            "chat_code": chat_code,
        }

    def _seal_chat_code(self, case: Case, chat_code: str) -> bytes | None:
        return self._keyring.seal(chat_code, "verifications", case.verification_id, "chat_code") if chat_code else None

    def expire_due(self) -> int:
        """Ends verifications whose time for proofs is over; how many this call ended."""
        now = self._clock()
        due = select(*HEADLESS_COLUMNS).where(Verification.outcome.is_(None), Verification.proofs_until <= now)
        due = due.order_by(Verification.proofs_until).limit(SWEEP_BATCH)
        with self._database.read() as connection:
            if connection.execute(due.limit(1)).first() is None:
                return 0
        with self._database.write() as connection:
            rows = connection.execute(due.with_for_update(skip_locked=True)).all()
            for row in rows:
                try:
                    self.end(connection, headless_case(row, self._journeys, now), "expired", now)
                except KeyFault:  # one altered row must not keep all the others waiting; it has ended, untold
                    log_event("reference_unreadable", level=logging.ERROR, verification=row.id)
        self._wake()
        return len(rows)

    def done(self, token: str) -> Ending | None:
        """How it ended, as far as this visit may know, or None while it has not. Raises Problem("no_visit")."""
        with self._database.read() as connection:
            row = connection.execute(_DONE, {"token": token_hash(token)}).one_or_none()
        if row is None:
            raise Problem("no_visit")
        now = self._clock()
        if row.outcome is None and now < row.proofs_until:
            return None
        chat_code = ""
        if row.chat_code_sealed is not None and row.visit_id == row.decided_by:
            # Only the browser that proved it sees the code: the sender of a relayed link has a visit of his own.
            chat_code = self._keyring.open(row.chat_code_sealed, "verifications", row.id, "chat_code")
        ticket = ticket_of(row)
        portal, journey = self._journeys.current().portal, self._journeys.version(row.version_id)
        return Ending(
            outcome=row.outcome or "expired",  # by the clock already; the sweep writes it within a second
            journey=journey.name,
            portal=portal.name,
            support_contact=portal.support_contact,
            return_url=journey.return_url,
            logo=journey.logo,
            colour=journey.colour,
            words=journey.texts.done,
            told=row.state or outbox.State.PENDING,
            chat_code=chat_code,
            is_chat_over=now >= row.chat_ends_at,
            purpose=ticket.purpose(self._keyring) if ticket is not None else "",
        )


def _new_chat_code(case: Case) -> str:
    if case.journey.relay_defence != "chat_code":
        return ""
    return f"{secrets.randbelow(10**CHAT_CODE_DIGITS):0{CHAT_CODE_DIGITS}d}"
