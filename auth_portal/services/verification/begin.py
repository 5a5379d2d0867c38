"""What a link may open, and how its landing form begins a verification or joins the one that is live.

At most one verification of a reference and server is live, by a partial unique index. Beginning a finished reference
again withdraws, in the same transaction, every earlier result that was not yet accepted. A ticket that is newer than
what is live asks a new question: what it replaces is ended and withdrawn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, select

from auth_portal.crypto import Keyring, token_hash
from auth_portal.errors import Gone, Problem
from auth_portal.services import limits
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.rules import weaker_twins
from auth_portal.services.config.snapshot import ChatClock, Journeys, Snapshot
from auth_portal.services.delivery import outbox
from auth_portal.services.directory.person import Identifier, identifier_fault, read_identifier
from auth_portal.services.limits import MINUTE, Limit
from auth_portal.services.verification import codes, tickets
from auth_portal.services.verification.case import (
    UNVISITED_COLUMNS,
    Case,
    VisitKey,
    first_page,
    insert_both,
    insert_visit,
    load_case,
    new_prompt,
    record_move,
    set_language,
    stored_step,
    unvisited_case,
    update_visit,
    visit_label,
    with_person,
)
from auth_portal.services.verification.end import Endings
from auth_portal.services.verification.tickets import ChangedTicket, FoundTicket, Ticket, TicketFacts, Tickets
from auth_portal.store.db import Compiled, Transactions, Work, new_id
from auth_portal.store.models import (
    PORTAL_ROW,
    VERIFICATION_REFERENCE,
    Counter,
    Portal,
    TicketRow,
    Verification,
    Visit,
    signed_columns,
)

RACES = 3  # how often a beginning looks again when another one was faster


@dataclass(frozen=True)
class Landing:
    """A link's journey and ticket, and whether they let anyone in: worked out before anything is typed."""

    snapshot: Snapshot
    journey: JourneyConfig
    version_id: str
    found_ticket: FoundTicket | None  # the one that the link brought
    lacks_ticket: bool  # the journey demands a ticket and this link has none
    is_closed: bool  # lacks its ticket, or no method of the journey can work

    @property
    def first_methods(self) -> tuple[str, ...]:
        """Return what the landing page may begin with, the first at once; nothing where a journey begins otherwise.

        By the journey, its channels and the link alone, never by what a customer has on file (R24, R52).
        """
        if self.is_closed or self.journey.naming_step != 0 or not self.journey.steps[1].proves:
            return ()
        methods = self.journey.steps[1].methods
        if self.found_ticket is not None:
            methods = self.found_ticket.ticket.allowed(methods)
        return self.snapshot.workable(self.journey, methods)

    @property
    def weaker(self) -> list[JourneyConfig]:
        """Return the journeys whose weaker proof the chat accepts as well, the weakest first (R35)."""
        return weaker_twins(self.journey, (now.config for now in self.snapshot.journeys.values()))

    def ticket_facts(self, keyring: Keyring) -> TicketFacts | None:
        """Return what the page shows of the ticket."""
        region = self.snapshot.portal.default_region
        return self.found_ticket.facts(keyring, region) if self.found_ticket is not None else None


class Landings:
    """Looks up what links may open. Changes nothing, so that link previews may come."""

    def __init__(self, transactions: Transactions, journeys: Journeys, tickets: Tickets) -> None:
        self._transactions = transactions
        self._journeys = journeys
        self._tickets = tickets

    def open(self, slug: str | None, ticket_token: str, reference: str) -> Landing:
        """Return what a link may open; ``slug`` is None for the default journey, ``ticket_token`` may be "".

        Raise NotFound for the journey, and Gone for a ticket in the path that is unknown here or past its clock, or for
        any that was changed by someone other than the portal, which alone is put on record.
        """
        snapshot = self._journeys.current()
        current = snapshot.journey(slug)
        journey, found_ticket = current.config, None
        if ticket_token or (reference and journey.finds_ticket_by_reference):
            try:
                found_ticket = self._tickets.find(journey.slug, ticket_token, reference)
            except ChangedTicket as changed:
                with self._transactions.write() as work:
                    limits.note_broken(work, "tickets", changed.row)
                raise
        lacks_ticket = journey.defence.demands_ticket and found_ticket is None
        is_closed = lacks_ticket or not snapshot.is_open(journey)
        return Landing(snapshot, journey, current.version_id, found_ticket, lacks_ticket, is_closed)


@dataclass(frozen=True)
class LandingForm:
    """What a landing form sent, already parsed."""

    slug: str | None
    reference: str
    address: str
    identifier: str = ""
    made_at: datetime | None = None  # when the page was made, UTC
    visit_tokens: tuple[str, ...] = ()  # of the visits that this browser has, the newest first
    declines: str = ""  # the outcome of a link that is refused: ``not_me`` or ``cancelled``
    again: bool = False
    dropped_parameters: str = ""
    ticket_token: str = ""  # in the link's path, if any
    locale: str = ""  # that the link or the customer chose
    has_script: bool = False  # script filled a field of the form
    method: str = ""  # what the button named: a method to begin with, ``choose`` for a choice, "" where it named none


@dataclass(frozen=True)
class BeginResult:
    """What a landing form led to: a visit, a verification that is over, or a field to correct."""

    visit: VisitKey | None = None
    is_over: bool = False
    has_ended_before: bool = False
    fault: str = ""
    chat_seconds: int = 0


@dataclass(frozen=True)
class BeginRequest:
    """A landing form with all that was worked out before its transaction."""

    form: LandingForm
    landing: Landing
    ticket: Ticket | None
    times: ChatClock
    address_key: str
    reference_hash: bytes  # a reference is found by it, and stored encrypted
    identifier: Identifier | None


class LostRace(Exception):
    """Another request began the same reference in between."""


class Beginnings:
    """Turns a landing form into a visit."""

    def __init__(
        self,
        transactions: Transactions,
        journeys: Journeys,
        landings: Landings,
        endings: Endings,
        wake: Callable[[], None],
    ) -> None:
        self._transactions = transactions
        self._journeys = journeys
        self._landings = landings
        self._endings = endings
        self._wake = wake

    def start_visit(self, form: LandingForm) -> BeginResult:
        """Begin a verification of a reference, or a visit of the one that is live.

        Raise NotFound for the journey, Gone for a form or a ticket older than its clock and for a ticket that serves
        another reference, TooMany for the address or for naming too many people.
        """
        landing = self._landings.open(form.slug, form.ticket_token, form.reference)
        ticket, typed = None, form.identifier
        now, keyring = self._transactions.clock(), self._transactions.keyring
        if landing.found_ticket is not None:
            ticket, times = landing.found_ticket.ticket, landing.found_ticket.times
        else:
            times = ChatClock.from_landing(min(form.made_at or now, now), landing.journey.chat_seconds)
        if now >= times.proofs_until:
            raise Gone("form_expired")
        names_first = landing.journey.naming_step == 0
        identifier = None
        if names_first and ticket is not None and ticket.names_customer and not typed.strip():
            identifier = ticket.identifier(keyring)
        elif names_first:
            region = landing.snapshot.portal.default_region
            identifier = read_identifier(typed, landing.journey.identifiers, region, keyring)
        if identifier is None and names_first and not (form.declines or landing.is_closed):
            return BeginResult(fault=identifier_fault(typed))
        address_key = limits.address_key(form.address, keyring)
        request = BeginRequest(form, landing, ticket, times, address_key, token_hash(form.reference), identifier)
        for _ in range(RACES):
            try:
                with self._transactions.write() as work:
                    result = self._begin_or_join(work, request)
            except LostRace:
                continue
            self._wake()
            return replace(result, chat_seconds=landing.journey.chat_seconds)
        raise Problem("unavailable", status=503)

    def _begin_or_join(self, work: Work, request: BeginRequest) -> BeginResult:
        landing, ticket, address = request.landing, request.ticket, request.address_key
        begins = Limit(f"begins:{address}", landing.snapshot.portal.limits.begins_per_minute, MINUTE)
        by = {
            "reference": request.reference_hash,
            "server": landing.journey.callback.server,
            "slowed_key": limits.slowed_key(address),
            "now": work.now,
        }
        limits.take_or_refuse(work, begins, "too_many_begins")
        row = work.row(_LATEST, by)
        if row.slowed is not None:
            slow_begins = Limit(f"slow-begins:{address}", 1, limits.SLOWED_SECONDS)
            limits.take_or_refuse(work, slow_begins, "too_many_begins")
        if ticket is not None:
            assert landing.found_ticket is not None, "it is where the ticket comes from"
            tickets.bind(work, landing.found_ticket, request.reference_hash)
        if row.verification_id is None:
            return self._begin_verification(work, request)
        newest, given = row.ticket_id or "", ticket.id if ticket is not None else ""
        if given and given < newest:
            raise Gone("ticket_gone")
        is_new_question = given > newest
        if row.outcome is None:
            is_live = work.now < row.proofs_until
            latest = unvisited_case(work, _locked(work, row.verification_id) if is_live else row, self._journeys)
            is_live = is_live and not latest.is_broken
            if is_live and not is_new_question:
                return self._join_verification(work, request, latest)
            self._endings.end(work, latest, "cancelled" if is_live else "expired", why="asked_anew" if is_live else "")
        if not (request.form.again or is_new_question):
            return BeginResult(has_ended_before=True)
        outbox.supersede(work, request.reference_hash, landing.journey.callback.server)
        return self._begin_verification(work, request)

    def _begin_verification(self, work: Work, request: BeginRequest) -> BeginResult:
        form, landing, outcome, why = request.form, request.landing, "", ""
        case = _new_case(work, request)
        if form.declines or landing.is_closed:
            outcome = form.declines or "unavailable"
            why = landing.snapshot.why_closed(landing.journey) if outcome == "unavailable" else ""
            if landing.lacks_ticket:
                why = "ticket_missing"
                work.log("ticket_missing", level=logging.WARNING, journey=case.journey.slug)
        else:
            case = first_page(work, case, request.identifier, landing.snapshot, form.method)
            # A ticket must leave something to prove, and its number a person to prove it. Otherwise, and by customer
            # ID, a stranger goes on (R24, R52).
            if case.ticket is not None and request.identifier is not None:
                is_no_one = case.is_named_by_ticket and not case.ticket.is_by_id and case.person.row is None
                if is_no_one or (case.present.proves and not case.offered(landing.snapshot)):
                    outcome, why = "unavailable", "ticket_without_way"
        is_sent = not outcome and case.needs_message
        if is_sent:  # counted in the row as it is inserted: ``codes.issue`` would need another statement
            case = replace(case, sends=1, sent_at=work.now)
        started_at, dropped = request.times.started_at, form.dropped_parameters
        visit = insert_both(work, case, started_at=started_at, dropped=dropped, has_script=form.has_script)
        if visit is None:
            raise LostRace  # the second beginning of a race
        if outcome:
            work.count("verifications_began", case.journey.slug, since=work.now)
            self._endings.end(work, case, outcome, why=why)
            return BeginResult(visit, is_over=True)
        if is_sent:
            codes.send_new(work, case, landing.snapshot)
        work.record(
            "verification_began",
            verification_id=case.verification_id,
            subject_id=case.person.subject_id,
            journey=case.journey.slug,
        )
        work.count("verifications_began", case.journey.slug, since=work.now)
        return BeginResult(visit)

    def _join_verification(self, work: Work, request: BeginRequest, case: Case) -> BeginResult:
        """Add a visit to a live verification: another browser, a reopened link, or a double tap.

        Without an identifier the journey was closed meanwhile: then only a browser that is under way goes on.
        """
        form, landing, identifier = request.form, request.landing, request.identifier
        case = replace(case, visit_locale=form.locale or None)
        mine = None if form.declines else _visit_of_browser(work, form.visit_tokens, case, identifier)
        if mine is not None:
            if form.locale:
                set_language(work, mine.token, form.locale)
            joined = with_person(work, case, identifier) if identifier is not None else case
            record_move(work, joined, "verification_joined", visit=mine.id, is_new_visit=False)
            if form.method and not landing.is_closed:
                self._choose_again(work, mine.token, form.method, landing.snapshot)
            return BeginResult(VisitKey(mine.token, visit_label(mine.token)))
        if form.declines or (identifier is None and landing.is_closed):
            visit = insert_visit(work, case, has_script=form.has_script)
            outcome = form.declines or "unavailable"
            why = "" if form.declines else landing.snapshot.why_closed(landing.journey)
            self._endings.end(work, case, outcome, why=why)
            return BeginResult(visit, is_over=True)
        joined = first_page(work, case, identifier, landing.snapshot, form.method)
        visit = insert_visit(work, joined, has_script=form.has_script)
        code = codes.issue(work, joined, landing.snapshot)
        is_other = joined.identifier_key is not None and case.last_identifier_key != joined.identifier_key
        record_move(
            work, joined, "verification_joined", visit=case.visit_id, is_new_visit=True, is_other=is_other, **code
        )
        return BeginResult(visit)

    def _choose_again(self, work: Work, visit_token: str, wanted: str, snapshot: Snapshot) -> None:
        """Take what the landing form asks for in a visit that its browser has already, as the pages of the visit would.

        It asks about the first step. A visit that is past it, or whose last try is being judged, stays where it is.
        """
        case = load_case(work, self._journeys, visit_token, locked=True)
        if not case.is_at_first_step or not case.allows(case.prompt, "choose"):
            return
        if wanted == case.method:
            codes.issue(work, case, snapshot)
        elif wanted in case.offered(snapshot):
            codes.take_method(work, case, wanted, snapshot)
        elif case.method is not None:
            update_visit(work, replace(case, method=None, prompt=new_prompt()))


# The live or else the newest verification of a reference, and whether its address is slowed down.
_LATEST = Compiled(
    select(*UNVISITED_COLUMNS, Counter.key.label("slowed"))
    .select_from(Portal)
    .outerjoin(
        Verification,
        and_(Verification.reference_hash == bindparam("reference"), Verification.server == bindparam("server")),
    )
    .outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
    .outerjoin(Counter, and_(Counter.key == bindparam("slowed_key"), Counter.ends_at > bindparam("now")))
    .where(Portal.id == PORTAL_ROW)
    .order_by(Verification.outcome.is_(None).desc(), Verification.began_at.desc())
    .limit(1)
)


def _locked(work: Work, verification_id: str) -> Any:
    """Return a live verification as it is now and stays until this transaction ends: browsers join one after another.

    ``_LATEST`` cannot lock it: PostgreSQL locks nothing on the far side of an outer join.
    """
    found = select(*UNVISITED_COLUMNS).outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
    found = found.where(Verification.id == verification_id, Verification.outcome.is_(None))
    row = work.execute(found.with_for_update(of=Verification)).one_or_none()
    if row is None:
        raise LostRace
    return row


def _new_case(work: Work, request: BeginRequest) -> Case:
    landing, verification_id = request.landing, new_id(work.now)
    return Case(
        visit_id=new_id(work.now),
        verification_id=verification_id,
        version_id=landing.version_id,
        server=landing.journey.callback.server,
        reference_hash=request.reference_hash,
        reference_sealed=work.keyring.seal(request.form.reference, VERIFICATION_REFERENCE, verification_id),
        address_key=request.address_key,
        proofs_until=request.times.proofs_until,
        chat_ends_at=request.times.ends_at,
        # The first identifier is no change of one: the row is inserted with it.
        last_identifier_key=request.identifier.key if request.identifier else None,
        journey=landing.journey,
        ticket=request.ticket,
        visit_locale=request.form.locale or None,
    )


class VisitOfBrowser(NamedTuple):
    """A visit of this verification that the browser has already."""

    id: str
    token: str


def _visit_of_browser(
    work: Work, visit_tokens: Sequence[str], case: Case, identifier: Identifier | None
) -> VisitOfBrowser | None:
    """Return the newest visit that a browser has in this verification, if any.

    Where the landing page asks for an identifier it is past naming and for the same one.

    One that was changed by someone other than the portal is none: the browser gets another (R54).
    """
    if not visit_tokens:
        return None
    hashes = {token_hash(token): token for token in visit_tokens}
    found = select(*signed_columns(Visit)).where(
        Visit.token_hash.in_(hashes), Visit.verification_id == case.verification_id
    )
    names_first = case.journey.naming_step == 0
    found = found.where(Visit.step > stored_step(case.journey, 0)) if names_first else found
    if identifier is not None and names_first:
        found = found.where(Visit.identifier_key == identifier.key)
    rows = {hashes[row.token_hash]: row for row in work.execute(found)}
    for token in filter(rows.__contains__, visit_tokens):
        if work.keyring.holds("visits", rows[token]._mapping):
            return VisitOfBrowser(rows[token].id, token)
        limits.note_broken(work, "visits", rows[token].id)
    return None
