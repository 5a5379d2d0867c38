"""How a verification begins, and how another browser joins the one that is live.

At most one verification of a reference and server is live, by a partial unique index. Beginning a finished reference
again withdraws, in the same transaction, every earlier result that was not yet accepted. A ticket that is newer than
what is live asks a new question: what it replaces is ended and withdrawn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, select

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, token_hash
from auth_portal.errors import Gone, Problem, TooMany
from auth_portal.services import audit, limits, outbox, tickets
from auth_portal.services.cases import (
    HEADLESS_COLUMNS,
    Case,
    challenges_of,
    entered,
    headless_case,
    insert_visit,
    new_prompt,
    offered,
    update_verification,
)
from auth_portal.services.codes import Codes, sent_once
from auth_portal.services.directory import customers
from auth_portal.services.directory.customers import Identifier, Person, read_identifier
from auth_portal.services.endings import Endings
from auth_portal.services.journeys import ChatClock, JourneyNow, Journeys, Snapshot
from auth_portal.services.limits import MINUTE, Limit
from auth_portal.services.references import reference_hash
from auth_portal.services.tickets import Presented, Tickets
from auth_portal.store.db import Database, new_id, upsert
from auth_portal.store.models import Counter, Portal, Verification, Visit, table_of
from auth_portal.telemetry import log_event

RACES = 3  # how often a beginning looks again when somebody else was faster


@dataclass(frozen=True)
class Landing:
    """What a landing form sent, already parsed."""

    slug: str | None
    reference: str
    address: str
    identifier: str = ""
    made_at: datetime | None = None  # when the page was made, UTC
    token: str = ""  # of the visit that this browser has, if any
    declines: bool = False
    again: bool = False
    dropped_parameters: str = ""
    ticket: str = ""  # the token in the link's path


@dataclass(frozen=True)
class Begun:
    """What a landing form led to: a visit's token, a verification that is over, or a field to correct."""

    token: str = ""
    is_over: bool = False
    has_ended_before: bool = False
    fault: str = ""
    chat_seconds: int = 0


@dataclass(frozen=True)
class _Beginning:
    """All that was worked out before the transaction."""

    landing: Landing
    snapshot: Snapshot
    journey: JourneyNow
    times: ChatClock
    identifier: Identifier | None
    address: str
    now: datetime
    reference_hash: bytes
    presented: Presented | None

    @property
    def server(self) -> str:
        return self.journey.config.callback.server

    @property
    def is_closed(self) -> bool:
        return not self.snapshot.is_open(self.journey.config)

    @property
    def why_closed(self) -> str:
        return self.snapshot.why_closed(self.journey.config)

    @property
    def lacks_ticket(self) -> bool:
        """Whether the journey demands a ticket and this link has none."""
        return self.journey.config.relay_defence == "phone_match" and self.presented is None

    @property
    def outcome_at_once(self) -> str:
        """How a verification ends as it begins, or nothing."""
        if self.landing.declines:
            return "not_me"
        return "unavailable" if self.is_closed or self.lacks_ticket else ""

    @property
    def ticket_id(self) -> str:
        """Of the ticket that the link brought, or nothing."""
        return self.presented.ticket.id if self.presented is not None else ""


class _Raced(Exception):
    """Somebody else began the same reference in between."""


_LATEST = (
    select(*HEADLESS_COLUMNS, Counter.key.label("slowed"))
    .select_from(Portal)
    .outerjoin(
        Verification,
        and_(Verification.reference_hash == bindparam("reference"), Verification.server == bindparam("server")),
    )
    .outerjoin(Counter, and_(Counter.key == bindparam("slowed_key"), Counter.ends_at > bindparam("now")))
    .where(Portal.id == 1)
    .order_by(Verification.outcome.is_(None).desc(), Verification.began_at.desc())
    .limit(1)
)


class Beginnings:
    """Turns a landing form into a visit."""

    def __init__(
        self, database: Database, keyring: Keyring, clock: Clock, journeys: Journeys, codes: Codes, endings: Endings,
        tickets: Tickets, wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._journeys = journeys
        self._codes = codes
        self._endings = endings
        self._tickets = tickets
        self._wake = wake

    def begin(self, landing: Landing) -> Begun:
        """Begins a verification of a reference, or a visit of the one that is live.

        Raises NotFound for the journey, Gone for a form or a ticket older than its clock and for a ticket that serves
        another reference, TooMany for the address or for naming too many people.
        """
        beginning = self._worked_out(landing)
        if beginning.identifier is None and not beginning.outcome_at_once:
            return Begun(fault="identifier_invalid" if landing.identifier.strip() else "identifier_missing")
        for _ in range(RACES):
            try:
                with self._database.write() as connection:
                    begun = self._begin(connection, beginning)
            except _Raced:
                continue
            self._wake()
            return replace(begun, chat_seconds=beginning.journey.config.chat_seconds)
        raise Problem("unavailable", status=503)

    def _worked_out(self, landing: Landing) -> _Beginning:
        snapshot = self._journeys.current()
        journey = snapshot.journey(landing.slug)
        now = self._clock()
        presented = self._tickets.find(journey.config, landing.ticket, landing.reference)
        if presented is not None:
            times = presented.times
        else:
            times = ChatClock.from_landing(min(landing.made_at or now, now), journey.config.chat_seconds)
        if now >= times.proofs_until:
            raise Gone("form_expired")
        region, kinds = snapshot.portal.default_region, journey.config.first_step.by
        identifier = read_identifier(landing.identifier, kinds, region, self._keyring)
        if presented is not None and not landing.identifier.strip():
            identifier = presented.ticket.identifier(self._keyring)
        return _Beginning(
            landing,
            snapshot,
            journey,
            times,
            identifier,
            limits.address_key(landing.address, self._keyring),
            now,
            reference_hash(landing.reference),
            presented,
        )

    def _begin(self, connection: Connection, beginning: _Beginning) -> Begun:
        now = beginning.now
        latest = self._latest(connection, beginning)
        if beginning.presented is not None:
            tickets.bind(connection, beginning.presented.ticket, beginning.reference_hash, now)
        if latest is None:
            return self._begin_anew(connection, beginning)
        is_asked_anew = _is_asked_anew(beginning, latest)
        if latest.outcome is None and now < latest.proofs_until:
            live = headless_case(_locked(connection, latest.id), self._journeys, now)
            if not is_asked_anew:
                return self._join(connection, beginning, live, latest.ticket_id)
            self._endings.end(connection, live, "cancelled", now, why="asked_anew")
        elif latest.outcome is None:
            self._endings.end(connection, headless_case(latest, self._journeys, now), "expired", now)
        if not (beginning.landing.again or is_asked_anew):
            return Begun(has_ended_before=True)
        outbox.supersede(connection, now, beginning.reference_hash, beginning.server)
        return self._begin_anew(connection, beginning)

    def _latest(self, connection: Connection, beginning: _Beginning) -> Any:
        """The live or else the newest verification of this reference, after the address's limits were counted."""
        now, address = beginning.now, beginning.address
        per_minute = beginning.snapshot.portal.limits.begins_per_minute
        limits.take_or_refuse(connection, now, Limit(f"begins:{address}", per_minute, MINUTE), "too_many_begins")
        row = connection.execute(
            _LATEST,
            {
                "reference": beginning.reference_hash,
                "server": beginning.server,
                "slowed_key": limits.slowed_key(address),
                "now": now,
            },
        ).one()
        if row.slowed is not None:
            slow = Limit(f"slow-begins:{address}", 1, limits.SLOWED_SECONDS)
            limits.take_or_refuse(connection, now, slow, "too_many_begins")
        return row if row.id is not None else None

    def _begin_anew(self, connection: Connection, beginning: _Beginning) -> Begun:
        now, case = beginning.now, self._new_case(beginning)
        outcome, why = beginning.outcome_at_once, ""
        if not outcome:
            case = entered(self.named(connection, case, beginning.identifier), beginning.snapshot, 1, ())
            if not _has_a_way(case, beginning.snapshot):
                outcome, why = "unavailable", "ticket_without_way"
        elif beginning.lacks_ticket:
            why = "ticket_missing"
            log_event("ticket_missing", level=logging.WARNING, journey=case.journey.slug)
        elif outcome == "unavailable":
            why = beginning.why_closed
        issued = None if outcome else self._codes.new_code(case, now)
        if issued is not None:
            case = sent_once(case, now)
        _insert_verification(connection, beginning, case)
        token = insert_visit(connection, case, now)
        if outcome:
            self._endings.end(connection, case, outcome, now, why=why)
            return Begun(token, is_over=True)
        if issued is not None:
            self._codes.issue_first(connection, case, beginning.snapshot, issued, now)
        audit.record(
            connection, self._keyring, now, "verification_began",
            verification_id=case.verification_id, subject_id=case.person.subject_id, journey=case.journey.slug,
        )  # fmt: skip
        return Begun(token)

    def _new_case(self, beginning: _Beginning) -> Case:
        verification_id = new_id(beginning.now)
        reference = beginning.landing.reference
        return Case(
            visit_id=new_id(beginning.now),
            verification_id=verification_id,
            prompt=new_prompt(),
            step=0,
            method=None,
            identifier_sealed=None,
            identifier_key=None,
            proved=(),
            version_id=beginning.journey.version_id,
            server=beginning.server,
            reference_hash=beginning.reference_hash,
            reference_sealed=self._keyring.seal(reference, "verifications", verification_id, "reference"),
            address_key=beginning.address,
            proofs_until=beginning.times.proofs_until,
            chat_ends_at=beginning.times.ends_at,
            wrong_tries=0,
            sends=0,
            sent_at=None,
            identity_changes=0,
            last_identifier_key=beginning.identifier.key if beginning.identifier else None,
            outcome=None,
            journey=beginning.journey.config,
            person=customers.stranger(""),
            ticket=beginning.presented.ticket if beginning.presented is not None else None,
        )

    def named(self, connection: Connection, case: Case, identifier: Identifier | None) -> Case:
        """The case with whoever is meant; for nobody we know, or whom its ticket does not mean, a stranger."""
        assert identifier is not None, "a name was checked before"
        typed, sealed = identifier.typed, None
        if typed:
            sealed = self._keyring.seal(typed, "visits", case.visit_id, "identifier")
        return replace(
            case,
            person=self._meant(connection, case, identifier),
            identifier_key=identifier.key,
            identifier_sealed=sealed,
        )

    def _meant(self, connection: Connection, case: Case, identifier: Identifier) -> Person:
        ticket = case.ticket
        if ticket is None:
            return customers.find(connection, identifier)
        if identifier.typed:
            return ticket.held_to(customers.find(connection, identifier), identifier.key)
        return ticket.held_to(customers.get_by_row(connection, ticket.customer_row, identifier.key), identifier.key)

    def _join(self, connection: Connection, beginning: _Beginning, case: Case, ticket_id: str | None) -> Begun:
        """Another visit of a live verification: another browser, a reopened link, or a double tap."""
        case = replace(case, ticket=tickets.get(connection, ticket_id))
        now, identifier = beginning.now, beginning.identifier
        if beginning.landing.declines:
            token = insert_visit(connection, case, now)
            self._endings.end(connection, case, "not_me", now)
            return Begun(token, is_over=True)
        if identifier is None:
            return self._join_closed(connection, beginning, case)
        if visit := self._visit_of(connection, beginning.landing.token, case, Visit.identifier_key == identifier.key):
            case = self.named(connection, case, identifier)
            self._record_joined(connection, case, now, visit=visit, is_new_visit=False)
            return Begun(beginning.landing.token)
        joined = self.name(connection, case, identifier, beginning.snapshot)
        token = insert_visit(connection, joined, now)
        code = self._codes.issue(connection, joined, beginning.snapshot, now)
        is_other = case.last_identifier_key != joined.identifier_key
        self._record_joined(connection, joined, now, visit=case.visit_id, is_new_visit=True, is_other=is_other, **code)
        return Begun(token)

    def _record_joined(self, connection: Connection, case: Case, now: datetime, **facts: Any) -> None:
        audit.record_move(
            connection, self._keyring, now, "verification_joined", case.verification_id,
            subject_id=case.person.subject_id, **facts,
        )  # fmt: skip

    def _join_closed(self, connection: Connection, beginning: _Beginning, case: Case) -> Begun:
        """Nobody is named: the journey was closed meanwhile. The browser under way goes on, another tells the chat."""
        token, now = beginning.landing.token, beginning.now
        if visit := self._visit_of(connection, token, case):
            self._record_joined(connection, case, now, visit=visit, is_new_visit=False)
            return Begun(token)
        token = insert_visit(connection, case, now)
        self._endings.end(connection, case, "unavailable", now, why=beginning.why_closed)
        return Begun(token, is_over=True)

    def name(self, connection: Connection, case: Case, identifier: Identifier, snapshot: Snapshot) -> Case:
        """The case at its first proof, for whoever was named now. Raises TooMany when the changes are spent."""
        self._count_change(connection, case, identifier)
        case = entered(self.named(connection, case, identifier), snapshot, 1, ())
        return replace(case, challenges=challenges_of(connection, case))

    def _count_change(self, connection: Connection, case: Case, identifier: Identifier) -> None:
        """Naming somebody else than last time, in any visit, costs one of the verification's changes."""
        if case.last_identifier_key == identifier.key:
            return
        has_left = Verification.identity_changes < case.journey.limits.identity_changes
        changed = update_verification(
            connection,
            case,
            has_left,
            identifier_key=identifier.key,
            identity_changes=Verification.identity_changes + 1,
        )
        if not changed:
            raise TooMany("too_many_changes", retry_after_seconds=60)

    def _visit_of(self, connection: Connection, token: str, case: Case, *only_if: ColumnElement[bool]) -> str | None:
        """The visit of the same verification that this browser has already, past naming: then it keeps it."""
        if not token:
            return None
        found = select(Visit.id).where(
            Visit.token_hash == token_hash(token),
            Visit.verification_id == case.verification_id,
            Visit.step > 0,
            *only_if,
        )
        return connection.execute(found).scalar_one_or_none()


def _is_asked_anew(beginning: _Beginning, latest: Any) -> bool:
    """Whether the link's ticket is newer than the one of the latest verification. Raises Gone for an older one."""
    newest = latest.ticket_id or ""
    if beginning.ticket_id and beginning.ticket_id < newest:
        raise Gone("ticket_gone")
    return beginning.ticket_id > newest


def _has_a_way(case: Case, snapshot: Snapshot) -> bool:
    """Whether a ticket leaves anything to prove and anybody to prove it. Without one a stranger walks on (R24)."""
    if case.ticket is None:
        return True
    is_anybody = case.person.row is not None or not case.is_named_by_ticket
    return is_anybody and bool(offered(case, snapshot))


def _locked(connection: Connection, verification_id: str) -> Any:
    """A live verification as it is now, and stays until this transaction ends: two browsers join one after the other.

    ``_LATEST`` cannot lock it: PostgreSQL locks nothing on the far side of an outer join.
    """
    found = select(*HEADLESS_COLUMNS).where(Verification.id == verification_id, Verification.outcome.is_(None))
    row = connection.execute(found.with_for_update()).one_or_none()
    if row is None:
        raise _Raced
    return row


def _insert_verification(connection: Connection, beginning: _Beginning, case: Case) -> None:
    values = {
        "id": case.verification_id,
        "reference_hash": case.reference_hash,
        "reference_sealed": case.reference_sealed,
        "server": case.server,
        "version_id": case.version_id,
        "slug": case.journey.slug,
        "address_key": case.address_key,
        "began_at": beginning.now,
        "chat_started_at": beginning.times.started_at,
        "proofs_until": case.proofs_until,
        "chat_ends_at": case.chat_ends_at,
        "sends": case.sends,
        "sent_at": case.sent_at,
        "identifier_key": case.last_identifier_key,
        "dropped_parameters": beginning.landing.dropped_parameters,
        "ticket_id": case.ticket.id if case.ticket is not None else None,
    }
    if connection.execute(_inserting(connection.dialect.name), values).first() is None:
        raise _Raced


@cache
def _inserting(dialect: str) -> Any:
    """One live verification per reference and server: the second beginning of a race finds the row taken."""
    return upsert(dialect, table_of(Verification)).on_conflict_do_nothing().returning(Verification.id)
