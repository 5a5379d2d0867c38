"""How a verification ends: one conditional write that also puts the result into the outbox and a fact into the audit.

The request that makes that write decides; every other one finds it ended. ``expired`` comes by itself when the chat
clock has run out, whether or not a browser is still open. It is also all that is said of a verification that someone
other than the portal has changed (R54); nothing is said if where it goes, what it says or until when may be changed.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, bindparam, select

from auth_portal.clock import iso
from auth_portal.crypto import KeyFault, token_hash
from auth_portal.errors import Problem, WrongClock
from auth_portal.methods import CARRIES
from auth_portal.services.config.journey import (
    CHAT_CODE,
    PHONE_MATCH,
    PURPOSE,
    SUCCESSES,
    JourneyConfig,
    ShownPayment,
    result_body,
)
from auth_portal.services.config.snapshot import Journeys, Look
from auth_portal.services.delivery import outbox
from auth_portal.services.delivery.outbox import DATABASE_FAULTS, Courier, NewDelivery, ToPrograms
from auth_portal.services.verification import given
from auth_portal.services.verification.case import (
    ENDED_COLUMNS,
    UNVISITED_COLUMNS,
    Case,
    Voice,
    end_silently,
    ended_whole,
    given_of_row,
    unvisited_case,
    update_verification,
    verification_mac,
)
from auth_portal.store.db import Compiled, Transactions, Work, moment_of
from auth_portal.store.models import (
    CALLBACK,
    VERIFICATION_CHAT_CODE,
    VERIFICATION_REFERENCE,
    VERIFIED,
    Attempt,
    CustomerRow,
    Delivery,
    DeliveryState,
    TicketRow,
    Verification,
    Visit,
)

CHAT_CODE_DIGITS = 6
UNKNOWN_REFERENCE = 400  # Flow's answer where it can match no session
SWEEP_BATCH = 50  # verifications expired in one transaction
_NOT_ITS_FAULT = (*DATABASE_FAULTS, WrongClock)  # what keeps a verification from being ended, whatever it says
NO_CHAT = timedelta(days=2)  # no chat lasts as long: 24 hours at most


@dataclass(frozen=True)
class HandoverLink:
    """Where a customer goes on. The address of a web chat or page holds a value that is valid for 5 minutes."""

    kind: str
    label: Mapping[str, str]
    address: str


@dataclass(frozen=True)
class Ending:
    """How a verification ended, as its /done page shows it to one visit."""

    outcome: str
    journey: str
    portal: str
    support_contact: str
    return_url: str
    chat_app: str
    look: Look
    voice: Voice = field(compare=False)
    words: str  # the business's own, after success
    delivery: str  # the state of the result's delivery
    chat_code: str
    is_chat_over: bool
    changed_contact_hours: int  # of the journey (R45)
    purpose: str = ""
    payment: ShownPayment | None = None
    ended_at: datetime | None = None  # None while only the clock has ended it
    has_proof: bool = True  # of the journey
    handover: HandoverLink | None = None
    has_script: bool = False  # the visit's browser ran script on its landing page
    may_be_cut: bool = False  # Flow knows no such reference, and without script a part behind "#" would be missing

    @property
    def chat(self) -> str:
        """Return what the chat knows: heard, open, lost (it has ended), unclear, withdrawn (started again), or ""."""
        if self.delivery in _CHAT:
            return _CHAT[self.delivery]
        if self.is_chat_over:
            return "lost"
        return "open" if self.delivery == DeliveryState.PENDING else ""

    @property
    def shows_code(self) -> bool:
        """Report whether the page shows a chat code, which must not disappear while someone copies it."""
        return self.outcome == VERIFIED and bool(self.chat_code) and self.chat not in ("lost", "withdrawn")


_CHAT: Mapping[str, str] = {
    DeliveryState.ACCEPTED: "heard",
    DeliveryState.UNCONFIRMED: "unclear",
    DeliveryState.SUPERSEDED: "withdrawn",
    DeliveryState.REFUSED: "lost",
    DeliveryState.GIVEN_UP: "lost",
}
_LAST_STATUS = (
    select(Attempt.status)
    .where(Attempt.delivery_id == Delivery.id)
    .order_by(Attempt.number.desc())
    .limit(1)
    .scalar_subquery()
    .label("last_status")
)


_DONE = Compiled(
    select(
        *ENDED_COLUMNS,
        Verification.chat_code_sealed,
        Verification.ended_at,
        Delivery.state,
        Visit.has_script,
        _LAST_STATUS,
    )
    .add_columns(Visit.locale.label("visit_locale"), CustomerRow.locale.label("own_locale"))
    .join(Verification, Verification.id == Visit.verification_id)
    .outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
    .outerjoin(CustomerRow, CustomerRow.id == Visit.customer_row)
    .outerjoin(Delivery, and_(Delivery.verification_id == Verification.id, Delivery.kind == CALLBACK))
    .where(Visit.token_hash == bindparam("token"))
)


_LIVE = (
    select(Verification.id).where(Verification.outcome.is_(None)).order_by(Verification.proofs_until).limit(SWEEP_BATCH)
)
_DUE = _LIVE.where(Verification.proofs_until <= bindparam("now"))
_NEVER_DUE = _LIVE.where(Verification.proofs_until > bindparam("never"))  # as no chat of ours
_EXPIRING = (
    select(*UNVISITED_COLUMNS)
    .outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
    .where(Verification.outcome.is_(None))
    .order_by(Verification.proofs_until)
    .with_for_update(of=Verification)
)

# What is counted of a verification that did not succeed: see STAGES.
_VISITS = Compiled(
    select(Visit.method, Visit.person_key)
    .where(Visit.verification_id == bindparam("of_id"))
    .group_by(Visit.method, Visit.person_key)
)
_CODES = Compiled(
    select(Delivery.state)
    .where(Delivery.verification_id == bindparam("of_id"), Delivery.challenge_id.is_not(None))
    .group_by(Delivery.state)
)
_HANDED_OVER = {DeliveryState.REFUSED, DeliveryState.GIVEN_UP, DeliveryState.UNCONFIRMED}


class Endings:
    """Ends verifications, and shows how they ended."""

    def __init__(
        self, transactions: Transactions, journeys: Journeys, courier: Courier, to_programs: ToPrograms
    ) -> None:
        self._transactions = transactions
        self._journeys = journeys
        self._courier = courier
        self._to_programs = to_programs

    def end(self, work: Work, case: Case, outcome: str, *, why: str = "") -> None:
        """Decide a verification, in the caller's transaction; do nothing if it has ended already.

        ``why`` is for the admin alone, where the outcome does not say it.
        """
        if case.is_misrouted:
            end_silently(work, case.verification_id)
            return
        is_verified, methods, chat_code = outcome == VERIFIED, "+".join(case.proved), ""
        if is_verified and case.journey.defence.makes_chat_code:
            chat_code = f"{secrets.randbelow(10**CHAT_CODE_DIGITS):0{CHAT_CODE_DIGITS}d}"
        decided = {
            "outcome": outcome,
            "visit_id": case.visit_id,
            "customer_row": case.person.row,
            "methods": methods,
        }
        is_decided = update_verification(
            work,
            case,
            **decided,
            mac=None if case.is_broken else verification_mac(work, case, **decided),
            ended_at=work.now,
            chat_code_sealed=work.seal(chat_code, VERIFICATION_CHAT_CODE, case.verification_id) if chat_code else None,
        )
        if not is_decided:
            return
        reference = work.open(case.reference_sealed, VERIFICATION_REFERENCE, case.verification_id)
        callback = NewDelivery(
            kind=CALLBACK,
            target=case.server,
            contract=case.journey.callback.contract,
            verification_id=case.verification_id,
            lane=case.reference_hash,
            body=result_body(case.journey, outcome, reference, _facts(work, case, outcome, chat_code)),
            priority=outbox.priority_of(outcome),
            give_up_at=case.chat_ends_at,
        )
        outbox.hand_over(work, callback, self._courier)
        given.store(work, case, outcome)
        work.record(
            "verification_ended",
            verification_id=case.verification_id,
            subject_id=case.person.subject_id,
            outcome=outcome,
            methods=methods,
            **({"why": why} if why else {}),
        )
        self._report(work, case, outcome)
        _count(work, case, outcome, methods)

    def _report(self, work: Work, case: Case, outcome: str) -> None:
        """Report an end to the log, and to programs that ask for it, without personal data unless it is a success."""
        facts: dict[str, Any] = {
            "verification": case.verification_id,
            "outcome": outcome,
            "journey": case.journey.slug,
        }
        work.log("verification_ended", **facts)
        person = case.person if outcome == VERIFIED else None
        data = {**facts, "customer_id": person.customer_id if person is not None else None}
        row = person.row if person is not None else None
        self._to_programs(work, outbox.VERIFICATION_ENDED, data, row or "")

    def expire_due(self) -> int:
        """End verifications whose time for proofs is over. Return how many this call ended."""
        with self._transactions.read() as work:
            times = {"now": work.now, "never": work.now + NO_CHAT}
            which = next((due for due in (_DUE, _NEVER_DUE) if work.execute(due.limit(1), times).first()), None)
            if which is None:
                return 0
        due: list[str] = []
        try:
            with self._transactions.write() as work:
                due += work.execute(which.with_for_update(skip_locked=True), times).scalars()
                self._expire(work, due)
        except _NOT_ITS_FAULT:
            raise
        except Exception:
            for verification_id in due:  # one altered row must not keep all the others waiting
                self._expire_alone(verification_id)
        return len(due)

    def _expire(self, work: Work, due: Sequence[str]) -> None:
        for row in work.execute(_EXPIRING.where(Verification.id.in_(due))).all():
            self.end(work, unvisited_case(work, row, self._journeys), "expired")

    def _expire_alone(self, verification_id: str) -> None:
        """End one verification. Without a result if its reference, or what its journey would say, is not ours."""
        try:
            with self._transactions.write() as work:
                self._expire(work, [verification_id])
        except _NOT_ITS_FAULT:
            raise
        except Exception as fault:
            with self._transactions.write() as work:
                end_silently(work, verification_id)
                kind = "reference_unreadable" if isinstance(fault, KeyFault) else "verification_unreadable"
                work.log(kind, level=logging.ERROR, verification=verification_id, why=type(fault).__name__)

    def done(self, visit_token: str) -> Ending | None:
        """Return how it ended, as far as this visit may know, or None while it has not.

        Raise Problem("no_visit") if no visit of ours has this token.
        """
        with self._transactions.read() as work:
            row = work.row(_DONE, {"token": token_hash(visit_token)})
            is_ours, ticket = (False, None) if row is None else ended_whole(work, row)
        if row is None or not is_ours:
            raise Problem("no_visit")
        if row.verification__outcome is None and work.now < row.verification__proofs_until:
            return None
        chat_code = ""
        if row.chat_code_sealed is not None and row.visit__id == row.verification__visit_id:
            # Only the browser that proved it sees the code: the sender of a relayed link has a separate visit.
            chat_code = work.open(row.chat_code_sealed, VERIFICATION_CHAT_CODE, row.verification__id)
        snapshot, journey = self._journeys.current(), self._journeys.version(row.verification__version_id)
        portal = snapshot.portal
        return Ending(
            outcome=row.verification__outcome or "expired",  # by the clock already; the sweep writes it within a second
            journey=journey.name,
            portal=portal.name,
            support_contact=portal.support_contact,
            return_url=journey.return_url,
            chat_app=journey.chat_app,
            look=snapshot.look(journey),
            words=journey.texts.done,
            delivery=row.state or DeliveryState.PENDING,
            chat_code=chat_code,
            is_chat_over=work.now >= row.verification__chat_ends_at,
            changed_contact_hours=journey.limits.changed_contact_hours,
            purpose=ticket.purpose(work.keyring) if ticket is not None else "",
            payment=ticket.shown_payment(work.keyring, portal.default_region) if ticket is not None else None,
            ended_at=row.ended_at,
            voice=Voice(
                (
                    row.visit_locale or "",
                    ticket.locale if ticket is not None else "",
                    (row.own_locale or "") if row.visit__proved else "",  # not before a proof (R24)
                ),
                journey,
            ),
            has_script=bool(row.has_script),
            may_be_cut=row.state == DeliveryState.REFUSED
            and row.last_status == UNKNOWN_REFERENCE
            and not row.has_script,
            has_proof=bool(journey.verify_steps),
            handover=_handover(work, row, journey) if work.now < row.verification__chat_ends_at else None,
        )


def _handover(work: Work, row: Any, journey: JourneyConfig) -> HandoverLink | None:
    """Return where the visit that decided goes on, if it has chosen a hand-over. No other visit gets the link."""
    if row.visit__id != row.verification__visit_id or row.verification__outcome not in SUCCESSES:
        return None
    chosen = given_of_row(work, row)
    option = given.chosen_option(journey, chosen)
    if option is None:
        return None
    address = given.handover_address(work, journey, option, chosen, row.verification__id, row.verification__methods)
    return HandoverLink(option.kind, option.label, address)


def _count(work: Work, case: Case, outcome: str, methods: str) -> None:
    slug, began_at = case.journey.slug, moment_of(case.verification_id)
    work.count("verifications_ended", slug, outcome, methods)
    if began_at is None:
        return
    if outcome == VERIFIED:
        work.count("proof_seconds", slug, value=(work.now - began_at).total_seconds())
    if case.journey.verify_steps:
        stage, code = _how_far(work, case, outcome)
    else:
        stage, code = "done" if outcome in SUCCESSES else "", ""
    work.count("verification_stages", slug, outcome, stage, code, since=began_at)


def _how_far(work: Work, case: Case, outcome: str) -> tuple[str, str]:
    """Return the furthest of STAGES that a verification has reached, and what became of its codes, "" without one.

    Read only where the customer's success does not say it.
    """
    if outcome in SUCCESSES:
        if CARRIES.keys() & case.proved:
            return "proved", "accepted"
        return "proved", _fate_of_codes(work, case) if case.sends else ""
    visits = work.rows(_VISITS, {"of_id": case.verification_id})
    methods = {row.method for row in visits} - {None}
    code = _fate_of_codes(work, case) if case.sends else ""
    if code == "accepted" or methods - CARRIES.keys() or case.proved:
        return "code", code
    if methods or code:
        return "chose", code
    is_named = case.last_identifier_key is not None or any(row.person_key for row in visits)
    return ("named" if is_named else "began"), code


def _fate_of_codes(work: Work, case: Case) -> str:
    """Return the best that happened to the codes of a verification: accepted, refused or not_sent."""
    states = {row.state for row in work.rows(_CODES, {"of_id": case.verification_id})}
    if DeliveryState.ACCEPTED in states:
        return "accepted"
    return "refused" if states & _HANDED_OVER else "not_sent"


def _facts(work: Work, case: Case, outcome: str, chat_code: str) -> Mapping[str, str]:
    """Return what the data of a result may say after every step: of a verified customer, else of the chat alone."""
    if outcome not in SUCCESSES:
        return {}
    person, ticket, answers = case.person, case.ticket, given.values_of(case)
    of_chat = {PURPOSE: ticket.purpose(work.keyring), "locale": ticket.locale} if ticket is not None else {}
    if outcome != VERIFIED:
        return {**answers, **of_chat}
    payment = ticket.payment(work.keyring) if ticket is not None else None
    return {
        **answers,
        **of_chat,
        **(payment.variables if payment is not None else {}),
        # The person holds the chat's own number: otherwise they would have been a stranger to this ticket.
        PHONE_MATCH: "yes" if ticket is not None and ticket.phone_key is not None else "",
        "customer_id": person.customer_id,
        "name": person.name(work.keyring),
        "method": case.proved[-1],
        "methods": "+".join(case.proved),
        "verified_at": iso(work.now),
        "locale": of_chat.get("locale") or person.locale,
        CHAT_CODE: chat_code,
    }
