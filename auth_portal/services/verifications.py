"""The heart: what moves a verification, and what each move counts.

A visit's stages and the moves they allow (``MOVES``)::

    NAMING ──name──▶ CHOOSING ──choose──▶ PROVING ──prove──▶ next step, or ENDED verified
       ▲                │      ◀──choose──   │ ▲ │
       └─────change─────┴────────change──────┘ └─┘ resend

From any visit, what ends the verification for all of them (``ENDINGS``)::

    prove the last step ── verified        spend the tries ── wrong        the chat clock ── expired
    cancel ── cancelled, not_me, no_code                     nothing can work ── unavailable

A move whose form was made for another prompt counts nothing. Codes and TOTP are reserved, judged and settled in one
transaction; only a password splits them, because its hash takes milliseconds and must not be inside one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords, token_hash
from auth_portal.errors import Problem, TooMany
from auth_portal.methods import CARRIES, ON_FILE
from auth_portal.methods.contract import Method, OnFile, Reading, Verdict
from auth_portal.methods.password import is_long
from auth_portal.services import audit, limits
from auth_portal.services.beginnings import Beginnings
from auth_portal.services.cases import (
    Case,
    Stage,
    can_prove,
    challenges_of,
    entered,
    load_case,
    naming_values,
    new_prompt,
    offered,
    update_verification,
    update_visit,
)
from auth_portal.services.codes import Codes
from auth_portal.services.directory.customers import read_identifier
from auth_portal.services.endings import Endings
from auth_portal.services.journeys import Journeys
from auth_portal.services.limits import HOUR, MINUTE, Limit
from auth_portal.services.pages import Page, is_in_trouble, page_of
from auth_portal.services.results import VERIFIED
from auth_portal.services.tickets import Tickets
from auth_portal.store.db import Database
from auth_portal.store.models import Challenge, CustomerRow, Verification, table_of
from auth_portal.telemetry import log_event

MOVES: Mapping[Stage, frozenset[str]] = {
    Stage.NAMING: frozenset({"name", "cancel"}),
    Stage.CHOOSING: frozenset({"choose", "change", "cancel"}),
    Stage.PROVING: frozenset({"prove", "resend", "choose", "change", "cancel"}),
    Stage.ENDED: frozenset(),
}
CANCEL_REASONS = frozenset({"cancelled", "not_me", "no_code"})
ENDINGS = CANCEL_REASONS | {VERIFIED, "wrong", "expired", "unavailable"}

# Statements of the hot path are made once: building one costs more than running it.
_VERIFICATIONS, _CUSTOMERS, _CHALLENGES = table_of(Verification), table_of(CustomerRow), table_of(Challenge)
_USE_CODE = (
    update(_CHALLENGES)
    .where(_CHALLENGES.c.id == bindparam("of"), _CHALLENGES.c.used_at.is_(None), _CHALLENGES.c.replaced_at.is_(None))
    .values(used_at=bindparam("used_at"))
)
_USE_STEP = (
    update(_CUSTOMERS)
    .where(_CUSTOMERS.c.id == bindparam("of"), _CUSTOMERS.c.totp_last_step < bindparam("totp_last_step"))
    .values(totp_last_step=bindparam("totp_last_step"))
)
_USE_SUPPORT_CODE = (
    update(_CUSTOMERS)
    .where(_CUSTOMERS.c.id == bindparam("of"), _CUSTOMERS.c.support_code_id == bindparam("code"))
    .values(support_code_id=None, support_code_key_id=None, support_code_expires_at=None)
)
_TAKE_TRY = (
    update(_VERIFICATIONS)
    .where(
        _VERIFICATIONS.c.id == bindparam("of"),
        _VERIFICATIONS.c.outcome.is_(None),
        _VERIFICATIONS.c.wrong_tries < bindparam("bound"),
    )
    .values(wrong_tries=_VERIFICATIONS.c.wrong_tries + 1)
    .returning(_VERIFICATIONS.c.wrong_tries)
)


@dataclass(frozen=True)
class Answer:
    """What came of a move: on to the next page, over, or the same ``page`` again with a ``note``."""

    page: Page | None = None
    note: str = ""
    is_over: bool = False
    retry_after_seconds: int = 0


GO_ON = Answer()
OVER = Answer(is_over=True)


class Verifications:
    """Moves verifications. Each public method is one request of one browser, known by its visit's token."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        clock: Clock,
        journeys: Journeys,
        methods: Mapping[str, Method],
        passwords: Passwords,
        tickets: Tickets,
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._journeys = journeys
        self._methods = methods
        self._passwords = passwords
        self._wake = wake
        self._codes = Codes(keyring)
        self.endings = Endings(database, keyring, clock, journeys, wake)
        self.beginnings = Beginnings(database, keyring, clock, journeys, self._codes, self.endings, tickets, wake)

    def look(self, token: str) -> Answer:
        """The current prompt. Changes nothing. Raises Problem("no_visit")."""
        now = self._clock()
        with self._database.read() as connection:
            case = load_case(connection, self._journeys, token_hash(token), locked=False)
            if case.outcome is not None or case.is_due(now):
                return OVER
            return Answer(self._page(connection, case))

    def prove(self, token: str, prompt: str, form: Mapping[str, str], address: str) -> Answer:
        """Takes what was typed for the current prompt: a name, a code or a password.

        Raises Busy when hashing is full and TooMany for the address, both before anything was counted.
        """
        with self._database.write() as connection:
            case, early = self._open(connection, token, prompt, "name", "prove")
            if early is not None:
                answer: Answer | None = early
            elif case.stage is Stage.NAMING:
                answer = self._name(connection, case, form.get("identifier", ""))
            else:
                answer = self._prove_at_once(connection, case, form)
        if answer is None:
            answer = self._prove_slowly(token, prompt, form, address)
        self._wake()
        return answer

    def _name(self, connection: Connection, case: Case, typed: str) -> Answer:
        snapshot, now = self._journeys.current(), self._clock()
        kinds, region = case.journey.first_step.by, snapshot.portal.default_region
        identifier = read_identifier(typed, kinds, region, self._keyring)
        if identifier is None:
            return self._stay(connection, case, "identifier_invalid" if typed.strip() else "identifier_missing")
        try:
            named = self.beginnings.name(connection, case, identifier, snapshot)
        except TooMany as refused:
            return self._stay(connection, case, refused.code)
        update_visit(connection, named, **naming_values(named))
        code = self._codes.issue(connection, named, snapshot, now)
        is_other = case.last_identifier_key != named.identifier_key
        self._record_move(connection, named, now, "named_again", visit=case.visit_id, is_other=is_other, **code)
        return GO_ON

    def _prove_at_once(self, connection: Connection, case: Case, form: Mapping[str, str]) -> Answer | None:
        """Judges a cheap proof in the caller's transaction; None for a costly one."""
        method, now = self._method(case), self._clock()
        typed = form.get(method.field, "")
        proof = method.parse(typed, case.code_digits)
        if proof is None:
            return self._stay(connection, case, f"{method.field}_unreadable" if typed else f"{method.field}_missing")
        if method.is_costly:
            return None
        return self._settle(connection, case, method.check(proof, case.evidence(now, self._keyring)), now)

    def _settle(self, connection: Connection, case: Case, verdict: Verdict, now: datetime) -> Answer:
        """Counts a judged proof, and moves on or stays."""
        if verdict.reading in (Reading.REPLACED, Reading.STALE):
            return self._stay(connection, case, f"code_{verdict.reading}")
        is_right = verdict.reading is Reading.RIGHT and _is_still_theirs(case, now)
        has_budget = self._count_try(connection, case, now, succeeded=is_right)
        if has_budget and is_right and _spend(connection, case, verdict, now):
            return self._proved(connection, case, now)
        why = _why_wrong(case, verdict, has_budget=has_budget)
        return self._after_wrong(connection, _count_wrong(connection, case), now, why)

    def _prove_slowly(self, token: str, prompt: str, form: Mapping[str, str], address: str) -> Answer:
        """Reserves a try and commits, checks with no transaction open, settles."""
        with self._passwords.slot():
            with self._database.write() as connection:
                case, early = self._open(connection, token, prompt, "prove")
                if early is not None:
                    return early
                case, is_judged = self._reserve(connection, case, address)
            method, now = self._method(case), self._clock()
            typed = form.get(method.field, "")
            verdict = method.check(typed, case.evidence(now, self._keyring))
        with self._database.write() as connection:
            return self._settle_reserved(
                connection, token, case, verdict if is_judged else Verdict(Reading.WRONG), typed, has_budget=is_judged
            )

    def _reserve(self, connection: Connection, case: Case, address: str) -> tuple[Case, bool]:
        """Counts the try ahead of its check. Says whether the person's budget had room for it."""
        now, bound = self._clock(), self._journeys.current().portal.limits.password_checks_per_minute
        key = f"checks:{limits.address_key(address, self._keyring)}"
        limits.take_or_refuse(connection, now, Limit(key, bound, MINUTE), "too_many_checks")
        is_judged = self._count_try(connection, case, now, succeeded=False)
        return _count_wrong(connection, case), is_judged

    def _settle_reserved(
        self, connection: Connection, token: str, case: Case, verdict: Verdict, typed: str, *, has_budget: bool
    ) -> Answer:
        """A right password counts only if everything still is as it was when its try was reserved."""
        now = self._clock()
        fresh = load_case(connection, self._journeys, token_hash(token), locked=True)
        if fresh.is_due(now):
            self.endings.end(connection, fresh, "expired", now)
        if fresh.stage is Stage.ENDED or fresh.is_due(now):
            return OVER
        if fresh.prompt != case.prompt and fresh.tries_left:  # gone on to another page; the try stays counted
            self._record(connection, case, now, "proof_failed", method=case.method)
            return GO_ON
        is_theirs = fresh.prompt == case.prompt and fresh.person == case.person and fresh.person.is_active
        if verdict.reading is not Reading.RIGHT or not is_theirs:
            return self._after_wrong(connection, fresh, now, _why_wrong(fresh, verdict, has_budget=has_budget))
        limits.clear_tries(connection, fresh.person.key, fresh.method or "", is_ticketed=fresh.ticket is not None)
        update_verification(connection, fresh, wrong_tries=Verification.wrong_tries - 1)
        self._keep_password(connection, fresh, verdict, typed)
        return self._proved(connection, replace(fresh, wrong_tries=fresh.wrong_tries - 1), now)

    def _keep_password(self, connection: Connection, case: Case, verdict: Verdict, typed: str) -> None:
        """After a right password: hashed anew where its parameters are old, and its length where it was unknown."""
        values: dict[str, object] = {}
        if verdict.new_secret is not None and case.person.row is not None:
            values["password_hash"] = self._keyring.seal(verdict.new_secret, "customers", case.person.row, "password")
        if is_long(typed) and not case.person.password_is_long:
            values["password_is_long"] = True
        if values:
            same = and_(CustomerRow.id == case.person.row, CustomerRow.password_hash == case.person.password_sealed)
            connection.execute(update(CustomerRow).where(same).values(**values))

    def _count_try(self, connection: Connection, case: Case, now: datetime, *, succeeded: bool) -> bool:
        """Counts one judged proof for the person and method; False where their budget is spent (R6, R7)."""
        bounds = case.journey.limits
        count = limits.count_try(
            connection, now, case.person.key, case.method or "",
            per_day=bounds.credential_tries_day, in_total=bounds.credential_tries_total, succeeded=succeeded,
            is_ticketed=case.ticket is not None,
        )  # fmt: skip
        if count == bounds.credential_tries_day:
            # Many credentials at their daily limit within the hour is an attack on the directory.
            (taken,) = limits.take(
                connection, now, [Limit(limits.SPENT_CREDENTIALS, limits.SPENT_CREDENTIALS_ALARM, HOUR)]
            )
            if taken.is_over:
                log_event("many_credentials_spent", level=logging.WARNING, within_the_hour=taken.count)
        return count is not None

    def _proved(self, connection: Connection, case: Case, now: datetime) -> Answer:
        """A step is passed: on to the next one, or the verification is decided."""
        proved, snapshot = (*case.proved, case.method or ""), self._journeys.current()
        case, step = replace(case, proved=proved), case.step + 1
        if step == len(case.journey.steps):
            self.endings.end(connection, case, VERIFIED, now)
            return OVER
        if not offered(case, snapshot, step, proved):
            self._record(connection, case, now, "step_passed", method=proved[-1])
            self.endings.end(connection, case, "unavailable", now, why="no_next_step")
            return OVER
        case = entered(case, snapshot, step, proved)
        case = replace(case, challenges=challenges_of(connection, case))
        update_visit(connection, case, step=step, method=case.method, proved="+".join(proved))
        code = self._codes.issue(connection, case, snapshot, now)
        self._record(connection, case, now, "step_passed", method=proved[-1], **code)
        return GO_ON

    def _after_wrong(self, connection: Connection, case: Case, now: datetime, why: str) -> Answer:
        facts = {"why": why} if why else {}
        self._record(connection, case, now, "proof_failed", method=case.method, **facts)
        if case.tries_left == 0:
            self.endings.end(connection, case, "wrong", now)
            return OVER
        return self._stay(connection, case, f"{self._method(case).field}_wrong")

    def choose(self, token: str, prompt: str, method: str) -> Answer:
        """Takes one of the methods that the step offers; a live code of it is taken up, else one is sent."""
        with self._database.write() as connection:
            case, early = self._open(connection, token, prompt, "choose")
            if early is not None:
                return early
            snapshot, now = self._journeys.current(), self._clock()
            if method not in offered(case, snapshot):
                return self._stay(connection, case, "method_missing")
            case = replace(case, method=method, prompt=new_prompt())
            case = replace(case, challenges=challenges_of(connection, case))
            update_visit(connection, case, method=method)
            code = self._codes.issue(connection, case, snapshot, now)
            self._record_move(connection, case, now, "method_chosen", method=method, **code)
        self._wake()
        return GO_ON

    def resend(self, token: str, prompt: str) -> Answer:
        """Sends the code once more, or says how long to wait."""
        with self._database.write() as connection:
            case, early = self._open(connection, token, prompt, "resend")
            if early is not None:
                return early
            try:
                note = self._codes.resend(connection, case, self._journeys.current(), self._clock())
            except TooMany as refused:
                stayed = self._stay(connection, case, refused.code)
                return replace(stayed, retry_after_seconds=refused.retry_after_seconds)
            answer = self._stay(connection, case, note) if note else GO_ON
        self._wake()
        return answer

    def change(self, token: str, prompt: str) -> Answer:
        """Back to naming oneself. Tells Flow nothing and resets no count."""
        with self._database.write() as connection:
            case, early = self._open(connection, token, prompt, "change")
            if early is not None:
                return early
            if case.changes_left == 0:
                return self._stay(connection, case, "too_many_changes")
            update_visit(connection, replace(case, prompt=new_prompt()), step=0, method=None, proved="")
            self._record_move(connection, case, self._clock(), "name_taken_back", visit=case.visit_id)
        return GO_ON

    def cancel(self, token: str, prompt: str, reason: str) -> Answer:
        """Ends the verification because the person said so. Raises Problem for a reason that is none."""
        if reason not in CANCEL_REASONS:
            raise Problem("bad_request")
        with self._database.write() as connection:
            case, early = self._open(connection, token, prompt, "cancel")
            if early is not None:
                return early
            self.endings.end(connection, case, reason, self._clock())
        self._wake()
        return OVER

    def _open(self, connection: Connection, token: str, prompt: str, *moves: str) -> tuple[Case, Answer | None]:
        """The case, locked, and an answer where the move counts nothing: it is over, or made for another prompt."""
        case, now = load_case(connection, self._journeys, token_hash(token), locked=True), self._clock()
        if case.is_due(now):
            self.endings.end(connection, case, "expired", now)
            return case, OVER
        if case.stage is Stage.ENDED:
            return case, OVER
        is_last_try_judged_now = case.tries_left == 0 and "cancel" not in moves
        if case.prompt != prompt or not MOVES[case.stage] & set(moves) or is_last_try_judged_now:
            return case, GO_ON
        return case, None

    def _method(self, case: Case) -> Method:
        return self._methods[case.method or ""]

    def _record(self, connection: Connection, case: Case, now: datetime, kind: str, **facts: Any) -> None:
        verification_id, subject_id = case.verification_id, case.person.subject_id
        audit.record(
            connection, self._keyring, now, kind, verification_id=verification_id, subject_id=subject_id, **facts
        )

    def _record_move(self, connection: Connection, case: Case, now: datetime, kind: str, **facts: Any) -> None:
        subject_id = case.person.subject_id
        audit.record_move(connection, self._keyring, now, kind, case.verification_id, subject_id=subject_id, **facts)

    def _stay(self, connection: Connection, case: Case, note: str) -> Answer:
        return Answer(self._page(connection, case), note=note)

    def _page(self, connection: Connection, case: Case) -> Page:
        snapshot, now = self._journeys.current(), self._clock()
        has_trouble = is_in_trouble(connection, case, snapshot, now)
        return page_of(case, snapshot, self._methods, self._keyring, now, has_trouble=has_trouble)


def _is_still_theirs(case: Case, now: datetime) -> bool:
    """A code counts only for a customer who is active and still has the contact it was sent to."""
    carries = CARRIES.get(case.method or "")
    if carries is None:
        return case.person.is_active
    issued = case.in_force(now)
    sent_to = issued.destination_key if issued is not None else None
    return case.person.has_contact(carries) and case.person.destination_key(carries, "") == sent_to


def _why_wrong(case: Case, verdict: Verdict, *, has_budget: bool) -> str:
    """Why a proof counted as wrong, where the person must not learn it and the admin must (R24); "" for a wrong one."""
    person = case.person
    if not has_budget:
        return "spent"
    if person.row is None:
        return "nobody"
    if not person.is_active:
        return "disabled"
    if not can_prove(person, case.method or "", alone=case.is_alone):
        return "nothing_on_file"
    return "not_in_force" if verdict.reading is Reading.RIGHT else ""


def _spend(connection: Connection, case: Case, verdict: Verdict, now: datetime) -> bool:
    """Uses up what was proved with, once. False where somebody was faster (R3, R17)."""
    if verdict.used_step is not None:
        step = {"of": case.person.row, "totp_last_step": verdict.used_step}
        return connection.execute(_USE_STEP, step).rowcount == 1
    if ON_FILE.get(case.method or "") is OnFile.SUPPORT_CODE:
        code = {"of": case.person.row, "code": case.person.support_code_id}
        return connection.execute(_USE_SUPPORT_CODE, code).rowcount == 1
    issued = case.in_force(now)
    return connection.execute(_USE_CODE, {"of": issued.id if issued else "", "used_at": now}).rowcount == 1


def _count_wrong(connection: Connection, case: Case) -> Case:
    """Takes one of the verification's tries (R8); a new prompt, so that a double tap costs one and not two."""
    bound = case.journey.limits.wrong_tries
    count = connection.execute(_TAKE_TRY, {"of": case.verification_id, "bound": bound}).scalar_one_or_none()
    case = replace(case, wrong_tries=bound if count is None else count, prompt=new_prompt())
    update_visit(connection, case)
    return case
