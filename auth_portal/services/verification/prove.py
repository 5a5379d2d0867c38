"""Proofs: what was typed for the current prompt is checked, counted and acted on.

A code is checked and then counted, in one transaction. A password takes three moves, because its hash takes
milliseconds and must not be inside a transaction: *reserve* a try and commit, *check*, *settle*. Wrong tries are
counted in ``tries``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from sqlalchemy import bindparam, update

from auth_portal.crypto import Passwords
from auth_portal.errors import TooMany
from auth_portal.methods import CARRIES, ON_FILE, Method, OnFile, ProofResult, Verdict
from auth_portal.services import limits
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.directory.person import (
    identifier_fault,
    read_identifier,
    store_password_facts,
    use_support_code,
    use_totp_step,
)
from auth_portal.services.limits import MINUTE, Limit
from auth_portal.services.verification import codes, given, tries
from auth_portal.services.verification.case import (
    Case,
    Stage,
    load_case,
    name_person,
    new_prompt,
    record_move,
    update_visit,
)
from auth_portal.services.verification.end import Endings
from auth_portal.services.verification.page import CURRENT_PROMPT, OVER, MoveResult, stay
from auth_portal.store.db import Compiled, Transactions, Work
from auth_portal.store.models import VERIFIED, Challenge, table_of

_CHALLENGES = table_of(Challenge)
_USE_CODE = Compiled(
    update(_CHALLENGES)
    .where(_CHALLENGES.c.id == bindparam("of"), _CHALLENGES.c.used_at.is_(None), _CHALLENGES.c.replaced_at.is_(None))
    .values(used_at=bindparam("used_at"))
)


class Gate:
    """Lets a move in, or answers at once where it counts nothing."""

    def __init__(self, journeys: Journeys, endings: Endings) -> None:
        self._journeys = journeys
        self._endings = endings

    def admit(self, work: Work, visit_token: str, prompt: str, *moves: str) -> tuple[Case, MoveResult | None]:
        """Return the case, locked, and a result if it is over, or if the form was made for another prompt.

        Raise Problem("no_visit") if no visit of ours has this token.
        """
        case = load_case(work, self._journeys, visit_token, locked=True)
        if case.is_due(work.now):
            self._endings.end(work, case, "expired")
            return case, OVER
        if case.stage is Stage.ENDED:
            return case, OVER
        return case, None if case.allows(prompt, *moves) else CURRENT_PROMPT


class Proofs:
    """Takes proofs. One call is one request of one browser, known by its visit's token."""

    def __init__(
        self,
        transactions: Transactions,
        journeys: Journeys,
        methods: Mapping[str, Method],
        passwords: Passwords,
        gate: Gate,
        endings: Endings,
        wake: Callable[[], None],
    ) -> None:
        self._transactions = transactions
        self._journeys = journeys
        self._methods = methods
        self._passwords = passwords
        self._gate = gate
        self._endings = endings
        self._wake = wake
        self._memory = tries.Memory()

    def prove(self, visit_token: str, prompt: str, form: given.StepForm, address: str) -> MoveResult:
        """Take what was typed for the current prompt: an identifier, a code, a password, or the answers of a step.

        Raise Busy if hashing is full and TooMany for the address, both before anything is counted.
        """
        with ExitStack() as hashing:  # a slot for a password's hash, until it is checked
            with self._transactions.write() as work:
                case, result = self._gate.admit(work, visit_token, prompt, "name", "prove", "answer")
                is_late = result is CURRENT_PROMPT and case.had_wrong_proof
                if is_late and form.getlist(self._methods[case.method or ""].field):
                    # The second of two quick taps: the browser has dropped the page that said what was wrong.
                    result = stay(work, case, self._journeys.current(), self._methods, "tapped_twice")
                elif result is None and case.stage is Stage.NAMING:
                    result = self._take_identifier(
                        work, case, next(iter(form.getlist("identifier")), ""), next(iter(form.getlist("method")), "")
                    )
                elif result is None and case.method is None:
                    result = self._take_answers(work, case, form)
                elif result is None:
                    method = self._methods[case.method or ""]
                    typed = next(iter(form.getlist(method.field)), "")
                    proof = method.parse(typed, case.code_digits)
                    if proof is None:
                        fault = f"{method.field}_unreadable" if typed else f"{method.field}_missing"
                        result = stay(work, case, self._journeys.current(), self._methods, fault)
                    elif method.is_costly:
                        hashing.enter_context(self._passwords.slot())
                        case, has_tries = self._reserve(work, case, address)
                    else:
                        result = self._prove_at_once(work, case, method, proof)
            if result is None:
                evidence = case.evidence(self._transactions.clock(), self._transactions.keyring)
                verdict = method.check(typed, evidence)
        if result is None:
            with self._transactions.write() as work:
                fresh = load_case(work, self._journeys, visit_token, locked=True)
                result = self._settle(work, case, fresh, verdict, has_tries=has_tries)
        if result is CURRENT_PROMPT:  # else no code was put into the outbox
            self._wake()
        return result

    def _take_identifier(self, work: Work, case: Case, typed: str, wanted: str) -> MoveResult:
        snapshot = self._journeys.current()
        identifier = read_identifier(typed, case.journey.identifiers, snapshot.portal.default_region, work.keyring)
        if identifier is None:
            return stay(work, case, snapshot, self._methods, identifier_fault(typed))
        try:
            named = name_person(work, case, identifier, snapshot, wanted)
        except TooMany as refused:
            return stay(work, case, snapshot, self._methods, refused.code)
        update_visit(work, named)
        code = codes.issue(work, named, snapshot)
        record_move(
            work,
            named,
            "named_again",
            visit=case.visit_id,
            is_other=case.last_identifier_key != named.identifier_key,
            **code,
        )
        return CURRENT_PROMPT

    def _take_answers(self, work: Work, case: Case, form: given.StepForm) -> MoveResult:
        """Take the form of a step without a proof: stay at it, go on, or end the verification."""
        snapshot = self._journeys.current()
        taken = case.present.take(form, case.given_here, given.moment(work, case, snapshot))
        if taken.faults:
            return stay(work, case, snapshot, self._methods, next(iter(taken.faults.values())), form, taken.faults)
        if taken.event:
            record_move(work, case, taken.event, visit=case.visit_id, **taken.facts)
        if taken.outcome:
            self._endings.end(work, case, taken.outcome)
            return OVER
        case = case.with_given(taken.given)
        if not taken.is_done:
            update_visit(work, replace(case, prompt=new_prompt()))
            return CURRENT_PROMPT
        following = given.next_step(work, case, case.step + 1, snapshot)
        if following.outcome:
            self._endings.end(work, following.case, following.outcome, why=following.why)
            return OVER
        update_visit(work, following.case)
        codes.issue(work, following.case, snapshot)
        return CURRENT_PROMPT

    def _prove_at_once(self, work: Work, case: Case, method: Method, proof: str) -> MoveResult:
        """Check, count and settle a cheap proof in the caller's transaction."""
        verdict = method.check(proof, case.evidence(work.now, work.keyring))
        if verdict.result in (ProofResult.REPLACED, ProofResult.STALE):  # costs no try
            work.count("checks", case.method or "", str(verdict.result))
            return stay(work, case, self._journeys.current(), self._methods, f"code_{verdict.result}")
        is_right = verdict.result is ProofResult.RIGHT and _is_still_theirs(work, case)
        has_tries = tries.count_for_person(work, case, self._memory, succeeded=is_right)
        if has_tries and is_right and _use_up(work, case, verdict):
            return self._go_on(work, case)
        return self._stay_or_end(work, tries.count_for_verification(work, case), verdict, has_tries=has_tries)

    def _reserve(self, work: Work, case: Case, address: str) -> tuple[Case, bool]:
        """Count a password as wrong before it is checked. Return its case, and False if its tries were spent before."""
        bound = self._journeys.current().portal.limits.password_checks_per_minute
        checks = Limit(f"checks:{limits.address_key(address, work.keyring)}", bound, MINUTE)
        limits.take_or_refuse(work, checks, "too_many_checks")
        has_tries = tries.count_for_person(work, case, self._memory, succeeded=False)
        return tries.count_for_verification(work, case), has_tries

    def _settle(self, work: Work, case: Case, fresh: Case, verdict: Verdict, *, has_tries: bool) -> MoveResult:
        """Count a right password only if everything still is as it was when its try was reserved, in ``case``."""
        if fresh.is_due(work.now):
            self._endings.end(work, fresh, "expired")
            return OVER
        if fresh.stage is Stage.ENDED:
            return OVER
        if fresh.prompt != case.prompt and fresh.tries_left:  # gone on to another page; the try stays counted
            verification_id, subject_id = case.verification_id, case.person.subject_id
            work.record("proof_failed", verification_id=verification_id, subject_id=subject_id, method=case.method)
            return CURRENT_PROMPT
        is_theirs = fresh.prompt == case.prompt and fresh.person == case.person and fresh.person.is_active
        if verdict.result is not ProofResult.RIGHT or not has_tries or not is_theirs:
            return self._stay_or_end(work, fresh, verdict, has_tries=has_tries)
        fresh = tries.give_back(work, fresh, self._memory)
        store_password_facts(work, fresh.person, rehashed=verdict.new_secret, is_long=verdict.is_long)
        return self._go_on(work, fresh)

    def _go_on(self, work: Work, case: Case) -> MoveResult:
        """Go on to the next step after a right proof, or end the verification as verified."""
        method, snapshot = case.method or "", self._journeys.current()
        work.count("checks", method, "right")
        case = replace(case, proved=(*case.proved, method))
        found = given.next_step(work, case, case.step + 1, snapshot)
        following, verification_id, subject_id = found.case, case.verification_id, case.person.subject_id
        if found.outcome:
            if found.outcome != VERIFIED:
                work.record("step_passed", verification_id=verification_id, subject_id=subject_id, method=method)
            self._endings.end(work, following, found.outcome, why=found.why)
            return OVER
        update_visit(work, following)
        code = codes.issue(work, following, snapshot)
        work.record("step_passed", verification_id=verification_id, subject_id=subject_id, method=method, **code)
        return CURRENT_PROMPT

    def _stay_or_end(self, work: Work, case: Case, verdict: Verdict, *, has_tries: bool) -> MoveResult:
        """Show the same page again after a wrong proof, or end the verification once its tries are spent."""
        was_last, why = case.tries_left == 0, case.why_wrong(verdict, has_tries=has_tries)
        verification_id, subject_id, facts = case.verification_id, case.person.subject_id, {"why": why} if why else {}
        work.record("proof_failed", verification_id=verification_id, subject_id=subject_id, method=case.method, **facts)
        work.count("checks", case.method or "", "wrong" if has_tries else "spent")
        if was_last:
            self._endings.end(work, case, "wrong")
            return OVER
        note = f"{self._methods[case.method or ''].field}_wrong"
        return stay(work, case, self._journeys.current(), self._methods, note)


def _is_still_theirs(work: Work, case: Case) -> bool:
    """Report whether the customer is active and, for a code, still has the contact that it was sent to.

    That contact must count here: one that was changed lately may not be the only proof (R45).
    """
    carries = CARRIES.get(case.method or "")
    if carries is None:
        return case.person.is_active
    if case.changed and not case.counts(case.method or ""):
        return False
    code = case.valid_code(work.now)
    sent_to = code.destination_key if code is not None else None
    return case.person.has_contact(carries) and case.person.destination_key(carries, "") == sent_to


def _use_up(work: Work, case: Case, verdict: Verdict) -> bool:
    """Use up what was proved with, once. Return False if another request was faster (R3, R17)."""
    if verdict.used_step is not None:
        return use_totp_step(work, case.person.row, verdict.used_step)
    if ON_FILE.get(case.method or "") is OnFile.SUPPORT_CODE:
        return use_support_code(work, case.person.row, case.person.support_code_id)
    code = case.valid_code(work.now)
    return work.change(_USE_CODE, {"of": code.id if code else "", "used_at": work.now}) == 1
