"""A case: one visit of one verification with its journey, person, ticket and codes, read whole in one statement.

Every move looks at it before it decides. Read without a lock it serves a page. Read inside a writing transaction it
locks its verification and visit, so that two moves on one verification follow each other on PostgreSQL too (on SQLite
the write gate sees to that).

Each of these rows carries a MAC of what it says of the person, of the steps proved and of the chat (R54), and whatever
changes one of those columns signs the row again. A case whose verification or visit was changed by someone other than
the portal is over: nothing is proved in it, and its page is that of a visit that does not exist. A code that was
changed does not exist, and a ticket that was changed means no one. What was given in steps without a proof is sealed
for its visit together with the step and the person, so that what belongs to another state of the visit counts for
nothing; a visit that is past such a step without having given anything was changed by someone else.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache, cached_property, partial
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import ClauseElement, ColumnElement, and_, bindparam, func, insert, select, update

from auth_portal.crypto import KeyFault, Keyring, label_of, new_token, token_hash
from auth_portal.errors import Problem, TooMany
from auth_portal.methods import CARRIES, ON_FILE, Evidence, IssuedCode, OnFile, ProofResult, Verdict
from auth_portal.services import limits
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.snapshot import Journeys, Snapshot
from auth_portal.services.directory.person import (
    PERSON_COLUMNS,
    Identifier,
    Person,
    find_person,
    is_trusted,
    mask_contact,
    person_from,
    person_of_row,
    stranger,
    trusted,
)
from auth_portal.services.steps import AnyStep, Given
from auth_portal.services.verification.tickets import CASE_COLUMNS, Ticket, ticket_for_no_one, ticket_of
from auth_portal.services.verification.tickets import PREFIX as _TICKET
from auth_portal.store.db import Compiled, Work, dialect_insert
from auth_portal.store.models import (
    HIDDEN_STEPS,
    VISIT_GIVEN,
    VISIT_IDENTIFIER,
    AuditEvent,
    Challenge,
    CustomerRow,
    TicketRow,
    Verification,
    Visit,
    signed_columns,
    table_of,
)

# An honest person at every limit of a journey (5 tries, 5 sends, 5 changes, each method chosen again) makes about 35.
MOST_EVENTS = 50
CHANGED_LATELY = "the contact was changed lately and would be the only proof"  # why its code is not sent (R45)
JUST_NOW = timedelta(seconds=60)  # how long a page may say that a message was sent again just now
PROMPT_BYTES = 12  # enough to tell the prompts of one visit apart


class Stage(StrEnum):
    """Where a visit stands."""

    NAMING = "naming"
    CHOOSING = "choosing"
    PROVING = "proving"
    TERMS = "terms"
    QUESTIONS = "questions"
    HANDOVER = "handover"
    ENDED = "ended"


MOVES: Mapping[Stage, frozenset[str]] = {
    Stage.NAMING: frozenset({"name", "cancel"}),
    Stage.CHOOSING: frozenset({"choose", "change", "cancel"}),
    Stage.PROVING: frozenset({"prove", "resend", "choose", "change", "cancel"}),
    **dict.fromkeys((Stage.TERMS, Stage.QUESTIONS, Stage.HANDOVER), frozenset({"answer", "cancel"})),
    Stage.ENDED: frozenset(),
}


def stored_step(journey: JourneyConfig, step: int) -> int:
    """Return the number of a step as visits and codes store it.

    In place of a journey with steps that it does not know, 0.1.0 reads another one. There the same number would be
    another step, perhaps its last; a number that is none keeps that release from passing it.
    """
    return step + HIDDEN_STEPS if journey.is_closed_before else step


new_prompt = partial(secrets.token_urlsafe, PROMPT_BYTES)
"""Returns a new name for a prompt: a form made for an older one counts nothing. It is no secret."""


class SentCode(NamedTuple):
    """A challenge of the present step, method and identifier."""

    id: str
    destination_key: str
    key_id: int
    digits: int
    issued_at: datetime
    expires_at: datetime
    used_at: datetime | None
    replaced_at: datetime | None

    def is_valid(self, now: datetime) -> bool:
        """Report whether this code would be accepted."""
        return self.used_at is None and self.replaced_at is None and now < self.expires_at


class Voice(NamedTuple):
    """What a page speaks: languages, the most wanted first, in the words of a journey."""

    locales: tuple[str, ...]
    journey: JourneyConfig


@dataclass(frozen=True, kw_only=True)
class Case:
    """A visit with its verification, journey and person, as they stood when read.

    The defaults are those of a visit before anyone is named in it, and of a verification that begins.
    """

    visit_id: str
    verification_id: str
    version_id: str
    server: str
    reference_hash: bytes
    reference_sealed: bytes
    address_key: str
    proofs_until: datetime
    chat_ends_at: datetime
    journey: JourneyConfig = field(repr=False)
    prompt: str = field(default_factory=new_prompt)
    step: int = 0
    method: str | None = None
    identifier_sealed: bytes | None = None
    identifier_key: str | None = None  # of this visit
    customer_row: str | None = None  # that this visit has named; ``person`` is a stranger if they may not prove here
    visit_locale: str | None = None  # that its link or its customer chose
    token_hash: bytes = b""  # of this visit, once it has one
    label: str = ""  # and then its public name, which tells it from the others of its browser
    proved: tuple[str, ...] = ()
    given: Mapping[str, Given] = field(default_factory=dict, repr=False)  # by the number of the step
    wrong_tries: int = 0
    sends: int = 0
    sent_at: datetime | None = None
    identity_changes: int = 0
    last_identifier_key: str | None = None  # of the verification: the last one that was given in any visit
    outcome: str | None = None
    person: Person = field(default=stranger(""), repr=False)
    changed: frozenset[str] = frozenset()  # the kinds of message to contacts of this person that changed lately (R45)
    codes: tuple[SentCode, ...] = ()  # the newest first
    ticket: Ticket | None = None
    is_broken: bool = False  # someone other than the portal has changed the verification or the visit
    is_misrouted: bool = False  # and so it is unknown where its result goes, what that says, or until when

    @property
    def stage(self) -> Stage:
        """Return where this visit stands."""
        if self.outcome is not None or self.is_broken:
            return Stage.ENDED
        step = self.present
        if not step.proves:
            return Stage.NAMING if step.names_customer else Stage(step.stage)
        return Stage.CHOOSING if self.method is None else Stage.PROVING

    @property
    def present(self) -> AnyStep:
        """Return the step where this visit stands."""
        return self.journey.steps[self.step]

    @cached_property
    def stored_step(self) -> int:
        """Return the number of this step as rows have it."""
        return stored_step(self.journey, self.step)

    @property
    def given_here(self) -> Given:
        """Return what was given in this step so far."""
        return self.given.get(str(self.step), {})

    def with_given(self, given: Given) -> Case:
        """Return the case with what was given in this step."""
        return replace(self, given={**self.given, str(self.step): given})

    @property
    def has_whole_past(self) -> bool:
        """Report whether every step before this one was finished, as far as this visit shows it."""
        if self.step < 0:  # written by 0.1.0, which does not know where this journey is
            return False
        past = self.journey.steps[: self.step]
        proofs = [step.methods for step in past if step.proves]
        if len(proofs) != len(self.proved) or not all(map(lambda one, step: one in step, self.proved, proofs)):
            return False
        return all(str(number) in self.given for number, step in enumerate(past) if step.stage)

    def allows(self, prompt: str, *moves: str) -> bool:
        """Report whether one of these moves counts, made by a form for this prompt.

        While the verification's last try is being judged only ``cancel`` does.
        """
        is_last_try_judged_now = self.tries_left == 0 and "cancel" not in moves
        return self.prompt == prompt and not is_last_try_judged_now and not MOVES[self.stage].isdisjoint(moves)

    @property
    def had_wrong_proof(self) -> bool:
        """Report whether this is a page for a proof, after a wrong one, perhaps with another method."""
        return self.stage is Stage.PROVING and self.wrong_tries > 0

    @property
    def tries_left(self) -> int:
        """Return the wrong tries that this verification still has, over all methods and visits."""
        return max(0, self.journey.limits.wrong_tries - self.wrong_tries)

    @property
    def sends_left(self) -> int:
        """Return how many messages this verification may still send."""
        return max(0, self.journey.limits.sends - self.sends)

    @property
    def changes_left(self) -> int:
        """Return how often another identifier may still be given."""
        return max(0, self.journey.limits.identity_changes - self.identity_changes)

    @property
    def needs_message(self) -> bool:
        """Report whether the method is proved with a code that is sent."""
        return self.method in CARRIES

    @property
    def code_digits(self) -> int:
        """Return how many digits a sent code has: those of the newest one, else those of the journey."""
        return self.codes[0].digits if self.codes else self.journey.limits.code_digits

    @property
    def is_named_by_ticket(self) -> bool:
        """Report whether the ticket names the person, so that no identifier was typed."""
        return self.ticket is not None and self.identifier_sealed is None

    @property
    def shows_contact(self) -> bool:
        """Report whether the page may show a contact, masked.

        That is after a first proof (R24), or where the ticket names the chat's own number: its holder knows it.
        """
        return bool(self.proved) or (self.ticket is not None and self.is_named_by_ticket and not self.ticket.is_by_id)

    def is_just_sent(self, now: datetime) -> bool:
        """Report whether a message was sent again within the last minute."""
        return self.sends > 1 and self.sent_at is not None and now - self.sent_at < JUST_NOW

    def shown_contact(self, carries: str, keyring: Keyring) -> str:
        """Return where a kind of message goes, masked; "" if the page may not show it."""
        if not (carries and self.shows_contact and self.person.has_contact(carries)):
            return ""
        return mask_contact(self.person.contact(carries, keyring))

    @property
    def is_at_first_step(self) -> bool:
        """Report whether a first proof is asked for now: what a landing page asks for is of this step."""
        return self.step > 0 and self.journey.steps[self.step - 1].names_customer and self.present.proves

    @property
    def locales(self) -> tuple[str, ...]:
        """Return the languages for its page, the most wanted first: the person's own only after a proof (R24)."""
        chosen = (self.visit_locale or "", self.ticket.locale if self.ticket is not None else "")
        return (*chosen, self.person.locale) if self.proved else chosen

    @property
    def voice(self) -> Voice:
        """Return what its page speaks."""
        return Voice(self.locales, self.journey)

    @property
    def is_alone(self) -> bool:
        """Report whether one proof is all that this journey asks for."""
        return len(self.journey.verify_steps) == 1

    def is_due(self, now: datetime) -> bool:
        """Report whether the time for proofs is over while the verification is still live."""
        return self.stage is not Stage.ENDED and now >= self.proofs_until

    def valid_code(self, now: datetime) -> SentCode | None:
        """Return the code that would be accepted now, if there is one for this step, method and identifier."""
        for code in self.codes:
            if code.is_valid(now):
                return code
        return None

    def resend_in_seconds(self, now: datetime) -> int:
        """Return how long until a message may be sent again, counted from the last one (R12)."""
        if self.sent_at is None or self.sends == 0:
            return 0
        waits = self.journey.limits.resend_waits
        wait = waits[min(self.sends, len(waits)) - 1]
        return max(0, int(wait - (now - self.sent_at).total_seconds() + 0.999))

    def offered(self, snapshot: Snapshot) -> tuple[str, ...]:
        """Return the methods that can be used at this step, none of them twice in one visit (R37).

        Before a first proof they depend on the journey alone, never on the person (R24).
        """
        unused = [method for method in self.journey.steps[self.step].methods if method not in self.proved]
        methods = snapshot.workable(self.journey, unused)
        if self.ticket is not None:
            methods = self.ticket.allowed(methods)
        if not self.proved:
            return methods
        return tuple(method for method in methods if self.counts(method))

    def counts(self, method: str) -> bool:
        """Report whether a right proof by a method would count for this person. Shown only after a first proof (R24).

        Contacts that were changed lately must not be all that is proved: another method has been used before, or is
        there in a later step (R45).
        """
        if not can_prove(self.person, method, alone=self.is_alone):
            return False
        if not self._is_changed(method) or not all(map(self._is_changed, self.proved)):
            return True
        used = (*self.proved, method)
        later = {method for step in self.journey.steps[self.step + 1 :] for method in step.methods} - set(used)
        return any(
            not self._is_changed(other) and can_prove(self.person, other, alone=self.is_alone) for other in later
        )

    def _is_changed(self, method: str) -> bool:
        return CARRIES.get(method) in self.changed

    def at_step(self, step: int, snapshot: Snapshot, wanted: str = "") -> Case:
        """Return the case at the start of a step, under a new prompt. A single method needs no choice.

        ``wanted`` is the method that the customer has asked for already. If it is not one that the step offers, they
        choose, even from a single one: nothing is sent by a method that their button did not name.
        """
        case = replace(self, step=step, codes=())
        methods = case.offered(snapshot)
        method = methods[0] if len(methods) == 1 and not wanted else None
        return replace(case, method=wanted if wanted in methods else method, prompt=new_prompt())

    def evidence(self, now: datetime, keyring: Keyring) -> Evidence:
        """Return what a proof by the visit's method is compared with."""
        held = ON_FILE.get(self.method or "")
        if self.method in CARRIES:
            codes = [
                IssuedCode(
                    keyring.code(code.id, code.digits, code.key_id),
                    code.expires_at,
                    code.replaced_at is not None,
                    code.used_at is not None,
                )
                for code in self.codes
            ]
            return Evidence(now, codes=tuple(codes))
        if held is OnFile.TOTP:
            return Evidence(now, secret=self.person.totp_seed(keyring), last_step=self.person.totp_last_step)
        if held is OnFile.SUPPORT_CODE:
            return Evidence(now, codes=(self.person.support_code(keyring),))
        return Evidence(now, secret=self.person.password_hash(keyring, alone=self.is_alone))

    def why_wrong(self, verdict: Verdict, *, has_tries: bool) -> str:
        """Return why a proof counted as wrong where only the admin may learn it (R24); "" for one that was wrong."""
        if not has_tries:
            return "spent"
        if self.person.row is None:
            return "nobody"
        if not self.person.is_active:
            return "disabled"
        if not can_prove(self.person, self.method or "", alone=self.is_alone):
            return "nothing_on_file"
        if self.changed and not self.counts(self.method or ""):
            return "changed_lately"
        return "not_in_force" if verdict.result is ProofResult.RIGHT else ""


def can_prove(person: Person, method: str, *, alone: bool) -> bool:
    """Report whether the directory holds what this method needs. Asked only after a first proof, never before (R24)."""
    held = ON_FILE[method]
    if method in CARRIES:
        return person.has_contact(CARRIES[method])
    if held is OnFile.TOTP:
        return person.is_active and person.totp_sealed is not None
    if held is OnFile.SUPPORT_CODE:
        return person.is_active  # a person who has none yet can call support and ask for one
    return person.is_active and person.password_sealed is not None and (person.password_is_long or not alone)


# Statements of the hot path are made once: building one costs more than running it.
_VERIFICATIONS, _VISITS = table_of(Verification), table_of(Visit)
_VERIFICATION_COLUMNS = (
    Verification.id.label("verification_id"),
    Verification.version_id,
    Verification.server,
    Verification.reference_hash,
    Verification.reference_sealed,
    Verification.address_key,
    Verification.proofs_until,
    Verification.chat_ends_at,
    Verification.wrong_tries,
    Verification.sends,
    Verification.sent_at,
    Verification.identity_changes,
    Verification.identifier_key.label("last_identifier_key"),
    Verification.outcome,
)
_VISIT_COLUMNS = (
    Visit.id.label("visit_id"),
    Visit.prompt,
    Visit.step,
    Visit.method,
    Visit.identifier_sealed,
    Visit.identifier_key,
    Visit.customer_row,
    Visit.token_hash,
    Visit.locale.label("visit_locale"),
)
_HAS_GIVEN = Visit.given_sealed.label("given_sealed")
_CODE = "code__"  # the names of a challenge's columns in a wider row begin so, and likewise of the other two
_CODE_COLUMNS = (
    *signed_columns(Challenge, _CODE),
    *(getattr(Challenge, name).label(f"{_CODE}{name}") for name in ("used_at", "replaced_at")),
)
_CODE_OF = attrgetter(*(f"{_CODE}{name}" for name in SentCode._fields))
_CHALLENGE_OF = attrgetter(f"{_CODE}id")
_VISIT, _VERIFICATION = "visit__", "verification__"
_VERIFICATION_SIGNED = signed_columns(Verification, _VERIFICATION)
_SELECT_CASE = (
    select(
        *_VISIT_COLUMNS,
        _HAS_GIVEN,
        *signed_columns(Visit, _VISIT),
        *_VERIFICATION_COLUMNS,
        *_VERIFICATION_SIGNED,
        Verification.ticket_id,
        *CASE_COLUMNS,
        *PERSON_COLUMNS,
        *_CODE_COLUMNS,
    )
    .join(Verification, Verification.id == Visit.verification_id)
    .outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
    .outerjoin(CustomerRow, CustomerRow.id == Visit.customer_row)
    .outerjoin(
        Challenge,
        and_(
            Challenge.verification_id == Visit.verification_id,
            Challenge.identifier_key == Visit.identifier_key,
            Challenge.step == Visit.step,
            Challenge.method == Visit.method,
        ),
    )
    .where(Visit.token_hash == bindparam("token"))
    .order_by(Challenge.issued_at.desc())
)
_CASE = Compiled(_SELECT_CASE)
_LOCKED_CASE = Compiled(_SELECT_CASE.with_for_update(of=[Visit, Verification]))


@dataclass(frozen=True)
class HeldVisit:
    """A visit that a browser holds the token of, as far as it tells this one from the browser's others."""

    token: str = field(repr=False)
    prompt: str
    reference_hash: bytes
    server: str
    ticket_id: str | None
    began_at: datetime
    chat_ends_at: datetime

    def is_of(self, reference: str, server: str, ticket_id: str) -> bool:
        """Report whether it answers what a link asks. A ticket that is newer than its own asks something else."""
        is_asked = self.reference_hash == token_hash(reference) and self.server == server
        return is_asked and ticket_id <= (self.ticket_id or "")


_HELD = (
    select(
        *(Visit.token_hash, Visit.prompt, Verification.reference_hash, Verification.server, Verification.ticket_id),
        *(Verification.began_at, Verification.chat_ends_at),
    )
    .join(Verification, Verification.id == Visit.verification_id)
    .where(Visit.token_hash.in_(bindparam("tokens", expanding=True)))
)


def held_visits(work: Work, visit_tokens: Sequence[str]) -> list[HeldVisit]:
    """Return the visits of these tokens in their order, those that exist."""
    hashes = {token_hash(token): token for token in visit_tokens}
    rows = work.execute(_HELD, {"tokens": list(hashes)}).all() if hashes else []
    found = {row.token_hash: HeldVisit(hashes[row.token_hash], *row[1:]) for row in rows}
    return [found[hashed] for hashed in hashes if hashed in found]


def visit_label(visit_token: str) -> str:
    """Return the public name of the visit of a token, as ``Case.label``."""
    return label_of(token_hash(visit_token))


def load_case(work: Work, journeys: Journeys, visit_token: str, *, locked: bool) -> Case:
    """Return the case of a visit. Raise Problem("no_visit") if no visit of ours has it.

    Raise NotFound if the version of the journey was changed by someone other than the portal.
    """
    hashed = token_hash(visit_token)
    label = label_of(hashed)
    rows = work.rows(_LOCKED_CASE if locked else _CASE, {"token": hashed})
    if not rows:
        raise Problem("no_visit")
    row, key = rows[0], rows[0].visit__person_key or ""
    person = person_from(row, key)
    ticket = _ticket(work, row, is_writing=locked) if row.ticket_id is not None else None
    person = person if is_trusted(work.keyring, person) else stranger(key)
    values: dict[str, Any] = {}
    for column in (*_VISIT_COLUMNS, *_VERIFICATION_COLUMNS):
        values[column.key] = getattr(row, column.key)
    found = row._mapping
    whole = work.keyring.holds("verifications", found, _VERIFICATION) and work.keyring.holds("visits", found, _VISIT)
    codes = list(filter(_CHALLENGE_OF, rows))
    valid = work.keyring.held("challenges", codes, _CODE)
    if not whole or len(valid) < len(codes):
        _note_broken(work, row, codes, is_writing=locked)
    journey = journeys.served_version(row.version_id)
    if row.step >= HIDDEN_STEPS:
        values["step"] -= HIDDEN_STEPS
    person = ticket.limited_to(person, key) if ticket is not None else person
    hours = journey.limits.changed_contact_hours
    case = Case(
        **values,
        label=label,
        journey=journey,
        proved=tuple(row.visit__proved.split("+")) if row.visit__proved else (),
        given=_opened(work, row) if row.given_sealed is not None else {},
        person=person,
        changed=person.changed_lately(hours, work.now) if hours else frozenset(),
        codes=tuple(map(SentCode._make, map(_CODE_OF, valid))),
        ticket=ticket,
        is_broken=not whole,
        is_misrouted=not whole and _is_misrouted(work, row),
    )
    if journey.has_forms and whole and case.outcome is None and not case.has_whole_past:
        limits.note_broken(work, "visits", case.visit_id, is_writing=locked)
        return replace(case, is_broken=True)
    return case


def _opened(work: Work, row: Any) -> Mapping[str, Given]:
    """Return what a visit has given, if it was sealed at the step where the visit is and for the person it names."""
    try:
        sealed = json.loads(work.keyring.open(row.given_sealed, VISIT_GIVEN, row.visit__id))
    except KeyFault:
        return {}
    is_now = [row.visit__step, row.visit__person_key or "", row.visit__proved] == sealed["at"]
    given: Mapping[str, Given] = sealed["given"] if is_now else {}
    return given


def given_of_row(work: Work, row: Any) -> Mapping[str, Given]:
    """Return what the visit of a row of ENDED_COLUMNS has given."""
    return _opened(work, row) if row.given_sealed is not None else {}


def _is_misrouted(work: Work, row: Any) -> bool:
    return not work.keyring.has_mac("verifications", "route_mac", row._mapping, _VERIFICATION)


def _note_broken(work: Work, row: Any, codes: Sequence[Any], *, is_writing: bool) -> None:
    """Put on record which parts of a case someone other than the portal has changed (R54)."""
    for table, prefix, rows in (
        ("visits", _VISIT, [row]),
        ("verifications", _VERIFICATION, [row]),
        ("challenges", _CODE, codes),
    ):
        for one in rows:
            _is_whole(work, one, table, prefix, is_writing=is_writing)


def _ticket(work: Work, row: Any, *, is_writing: bool) -> Ticket:
    is_deleted = row._mapping[f"{_TICKET}id"] is None
    if is_deleted or not _is_whole(work, row, "tickets", _TICKET, is_writing=is_writing):
        return ticket_for_no_one(row.ticket_id)
    return ticket_of(row._mapping, _TICKET)


def _is_whole(work: Work, row: Any, table: str, prefix: str, *, is_writing: bool) -> bool:
    """Report whether this part of a wider row is as the portal wrote it; put on record that it is not (R54)."""
    found = row._mapping
    if work.keyring.holds(table, found, prefix):
        return True
    limits.note_broken(work, table, found[f"{prefix}id"], is_writing=is_writing)
    return False


# A verification without a visit, as part of a statement that joins its ticket.
UNVISITED_COLUMNS = (*_VERIFICATION_COLUMNS, *_VERIFICATION_SIGNED, Verification.ticket_id, *CASE_COLUMNS)


def unvisited_case(work: Work, row: Any, journeys: Journeys) -> Case:
    """Return the case of a row of UNVISITED_COLUMNS: with no person named, and the id of a visit to come.

    Raise NotFound if the version of the journey was changed by someone other than the portal.
    """
    is_whole = _is_whole(work, row, "verifications", _VERIFICATION, is_writing=True)
    return Case(
        visit_id=work.new_id(),
        **{column.key: getattr(row, column.key) for column in _VERIFICATION_COLUMNS},
        journey=journeys.served_version(row.version_id),
        ticket=_ticket(work, row, is_writing=True) if row.ticket_id is not None else None,
        is_broken=not is_whole,
        is_misrouted=not is_whole and _is_misrouted(work, row),
    )


# An ended verification with one of its visits, as part of a statement that joins its ticket.
ENDED_COLUMNS = (
    *signed_columns(Visit, _VISIT),
    _HAS_GIVEN,
    *_VERIFICATION_SIGNED,
    Verification.ticket_id,
    *CASE_COLUMNS,
)


def ended_whole(work: Work, row: Any) -> tuple[bool, Ticket | None]:
    """Report whether a row of ENDED_COLUMNS is as the portal wrote it, and return its ticket, if it has one."""
    parts = (("visits", _VISIT), ("verifications", _VERIFICATION))
    if not all(_is_whole(work, row, *part, is_writing=False) for part in parts):
        return False, None
    return True, _ticket(work, row, is_writing=False) if row.ticket_id is not None else None


def challenged(case: Case) -> ColumnElement[bool]:
    """Return the condition for the codes of this verification for the case's identifier, step and method."""
    return and_(
        Challenge.verification_id == case.verification_id,
        Challenge.identifier_key == case.identifier_key,
        Challenge.step == case.stored_step,
        Challenge.method == case.method,
    )


def with_codes(work: Work, case: Case) -> Case:
    """Return the case with the codes that were sent for its identifier, step and method, perhaps in another visit."""
    found = select(*_CODE_COLUMNS).where(challenged(case)).order_by(Challenge.issued_at.desc())
    valid = work.keyring.held("challenges", work.execute(found).all(), _CODE)
    return replace(case, codes=tuple(map(SentCode._make, map(_CODE_OF, valid))))


def update_verification(work: Work, case: Case, *only_if: Any, **values: object) -> bool:
    """Change a live verification. Return False if it has ended, or if a condition does not hold."""
    if only_if or any(isinstance(value, ClauseElement) for value in values.values()):
        live = _VERIFICATIONS.c.id == case.verification_id, _VERIFICATIONS.c.outcome.is_(None), *only_if
        return work.execute(update(_VERIFICATIONS).where(*live).values(**values)).rowcount == 1
    return work.change(_live_update(tuple(values)), {"of": case.verification_id, **values}) == 1


@cache
def _live_update(names: tuple[str, ...]) -> Compiled:
    live = _VERIFICATIONS.c.id == bindparam("of"), _VERIFICATIONS.c.outcome.is_(None)
    return Compiled(update(_VERIFICATIONS).where(*live).values({name: bindparam(name) for name in names}))


def end_silently(work: Work, verification_id: str) -> None:
    """End a live verification without a result for Flow: what would be sent, or where to, is not the portal's (R54)."""
    live = _VERIFICATIONS.c.id == verification_id, _VERIFICATIONS.c.outcome.is_(None)
    work.execute(update(_VERIFICATIONS).where(*live).values(outcome="expired", ended_at=work.now, mac=None))
    limits.note_broken(work, "verifications", verification_id)


def verification_mac(work: Work, case: Case, **decided: object) -> str:
    """Return the MAC of a case's verification, once these columns are written."""
    values = {"id": case.verification_id, "ticket_id": case.ticket.id if case.ticket is not None else None}
    mac: str = work.keyring.signed("verifications", {**values, **decided})["mac"]
    return mac


def _verification_values(case: Case) -> dict[str, object]:
    """Return the signed columns of a verification that is live."""
    return {
        "id": case.verification_id,
        "reference_hash": case.reference_hash,
        "server": case.server,
        "version_id": case.version_id,
        "ticket_id": case.ticket.id if case.ticket is not None else None,
        "proofs_until": case.proofs_until,
        "chat_ends_at": case.chat_ends_at,
        "outcome": None,
        "visit_id": None,
        "customer_row": None,
        "methods": "",
    }


def first_page(work: Work, case: Case, identifier: Identifier | None, snapshot: Snapshot, wanted: str = "") -> Case:
    """Return the case where a visit begins: past naming, if the landing page asked for it, else at the first step."""
    if case.journey.naming_step == 0 and identifier is not None:
        return name_person(work, case, identifier, snapshot, wanted)
    return case.at_step(0, snapshot)


def name_person(work: Work, case: Case, identifier: Identifier, snapshot: Snapshot, wanted: str = "") -> Case:
    """Return the case at the step after naming, for the person that an identifier names now. The caller writes it.

    ``wanted`` is the method that was asked for together with the identifier, if any: see ``Case.at_step``.

    Another identifier than the last one, in any visit, costs one of the verification's changes; the first one is no
    change. Raise TooMany if they are spent.
    """
    if case.last_identifier_key is None:
        update_verification(work, case, identifier_key=identifier.key)
    elif case.last_identifier_key != identifier.key:
        has_left = Verification.identity_changes < case.journey.limits.identity_changes
        more = Verification.identity_changes + 1
        if not update_verification(work, case, has_left, identifier_key=identifier.key, identity_changes=more):
            work.counts.add("limits_hit", "too_many_changes")
            raise TooMany("too_many_changes", retry_after_seconds=60)
    return with_person(work, case, identifier).at_step((case.journey.naming_step or 0) + 1, snapshot, wanted)


def with_person(work: Work, case: Case, identifier: Identifier) -> Case:
    """Return the case with the person that an identifier names, and with nothing proved.

    An identifier that matches no customer, or not the one that the ticket means, leads to a stranger, who takes the
    same path as anyone (R24).
    """
    typed, ticket = identifier.typed, case.ticket
    if typed or ticket is None:
        person = find_person(work.connection, identifier)
    else:
        # An ID that no customer has costs the same look-up (R24).
        person = person_of_row(work.connection, ticket.customer_row or "", identifier.key)
    person = trusted(work, person)
    person = person if ticket is None else ticket.limited_to(person, identifier.key)
    hours = case.journey.limits.changed_contact_hours
    return replace(
        case,
        person=person,
        customer_row=person.row,
        changed=person.changed_lately(hours, work.now) if hours else frozenset(),
        identifier_key=identifier.key,
        identifier_sealed=work.keyring.seal(typed, VISIT_IDENTIFIER, case.visit_id) if typed else None,
        proved=(),
    )


def update_visit(work: Work, case: Case) -> None:
    """Write the visit of a case as it is now, and sign it."""
    signed = work.keyring.signed("visits", _visit_values(work, case))
    work.write(_visit_update(_CHANGING), {"of": case.visit_id, **{name: signed[name] for name in _CHANGING}})


_CHANGING = (
    *("prompt", "step", "method", "identifier_sealed", "identifier_key"),
    *("person_key", "customer_row", "proved", "given_sealed", "mac"),
)


@cache
def _visit_update(names: tuple[str, ...]) -> Compiled:
    values: dict[str, Any] = {name: bindparam(name) for name in names}
    return Compiled(update(_VISITS).where(_VISITS.c.id == bindparam("of")).values(values))


def set_language(work: Work, visit_token: str, locale: str) -> bool:
    """Store the language that a visit is read in; return False if no visit of ours has this token."""
    return work.execute(_SET_LANGUAGE, {"token": token_hash(visit_token), "chosen": locale}).rowcount == 1


_SET_LANGUAGE = update(_VISITS).where(_VISITS.c.token_hash == bindparam("token")).values(locale=bindparam("chosen"))
RENEW_PROMPT = _visit_update(("prompt",))
"""Writes a visit's present prompt, which alone is not signed."""
_INSERT_VISIT = Compiled(insert(_VISITS))


class VisitKey(NamedTuple):
    """What a browser is given of its visit: the token that opens it, and the label that tells it from others."""

    token: str
    label: str


def insert_visit(work: Work, case: Case, *, has_script: bool) -> VisitKey:
    """Insert the visit of a case."""
    values, token = _visit_values(work, case), new_token()
    hashed = token_hash(token)
    key = VisitKey(token, label_of(hashed))
    visit = work.keyring.signed("visits", {**values, "token_hash": hashed})
    work.write(_INSERT_VISIT, {**visit, "created_at": work.now, "has_script": has_script})
    return key


def insert_both(work: Work, case: Case, *, started_at: datetime, dropped: str, has_script: bool) -> VisitKey | None:
    """Insert the verification of a case, and its first visit.

    Return None, and insert nothing, if a verification of the same reference and server is live. ``started_at`` is when
    the chat began, ``dropped`` the names of the link's other parameters.
    """
    values, visit_values, token = _verification_values(case), _visit_values(work, case), new_token()
    hashed = token_hash(token)
    key = VisitKey(token, label_of(hashed))
    visit = work.keyring.signed("visits", {**visit_values, "token_hash": hashed})
    verification = {
        **work.keyring.signed("verifications", values),
        "reference_sealed": case.reference_sealed,
        "slug": case.journey.slug,
        "address_key": case.address_key,
        "began_at": work.now,
        "chat_started_at": started_at,
        "sends": case.sends,
        "sent_at": case.sent_at,
        "identifier_key": case.last_identifier_key,
        "dropped_parameters": dropped,
    }
    if work.row(_insert_unless_live(work.connection.dialect.name), verification) is None:
        return None
    work.write(_INSERT_VISIT, {**visit, "created_at": work.now, "has_script": has_script})
    return key


@cache
def _insert_unless_live(dialect: str) -> Compiled:
    return Compiled(dialect_insert(dialect, _VERIFICATIONS).on_conflict_do_nothing().returning(_VERIFICATIONS.c.id))


def _visit_values(work: Work, case: Case) -> dict[str, object]:
    given, proved = None, "+".join(case.proved)
    if case.given:
        at = [case.stored_step, case.person.key, proved]
        given = work.keyring.seal(json.dumps({"at": at, "given": case.given}), VISIT_GIVEN, case.visit_id)
    return {
        "id": case.visit_id,
        "token_hash": case.token_hash,
        "verification_id": case.verification_id,
        "prompt": case.prompt,
        "step": case.stored_step,
        "method": case.method,
        "identifier_sealed": case.identifier_sealed,
        "identifier_key": case.identifier_key,
        "person_key": case.person.key,
        "customer_row": case.customer_row,
        "proved": proved,
        "given_sealed": given,
        "locale": case.visit_locale,
    }


def record_move(work: Work, case: Case, kind: str, **facts: Any) -> None:
    """Write an audit event of a move that costs its browser nothing, and so could be repeated without end.

    The first ``MOST_EVENTS`` events of a verification are written, however many moves there were. Its proofs, sends and
    endings have bounds of their own and are always recorded.
    """
    found = select(func.count()).where(AuditEvent.verification_id == case.verification_id)
    if work.execute(found).scalar_one() < MOST_EVENTS:
        work.record(kind, verification_id=case.verification_id, subject_id=case.person.subject_id, **facts)
