"""The moves of a visit other than a proof: look, choose a method, resend, change, cancel.

A visit's stages and the moves they allow (``case.MOVES``)::

    NAMING ──name──▶ CHOOSING ──choose──▶ PROVING ──prove──▶ next step, or ENDED verified
       ▲                │                    │ ▲ │
       └─────change─────┴────────change──────┘ └─┘ resend, choose another method

A step with a single method skips CHOOSING. Steps without a proof (TERMS, QUESTIONS, HANDOVER) may come before naming,
between and after the proofs; ``answer`` stays at one or goes on to the next step.

From any visit, what ends the verification for all of them::

    prove or answer the last step ── verified, completed, handed_over        decline the terms ── declined
    spend the tries ── wrong        the chat clock ── expired
    cancel ── cancelled, not_me, no_code                     nothing can work ── unavailable

A move whose form was made for another prompt counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from auth_portal.errors import Problem, TooMany
from auth_portal.methods import Method
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.verification import codes
from auth_portal.services.verification.case import (
    HeldVisit,
    Stage,
    Voice,
    held_visits,
    load_case,
    new_prompt,
    record_move,
    set_language,
    update_visit,
    visit_label,
)
from auth_portal.services.verification.end import Endings
from auth_portal.services.verification.page import CURRENT_PROMPT, OVER, RESENT, KnownVisit, MoveResult, known_by, stay
from auth_portal.services.verification.prove import Gate
from auth_portal.store.db import Transactions

CANCEL_REASONS = frozenset({"cancelled", "not_me", "no_code"})


class VisitMoves:
    """Moves visits. Each method is one request of one browser, known by its visit's token."""

    def __init__(
        self,
        transactions: Transactions,
        journeys: Journeys,
        methods: Mapping[str, Method],
        gate: Gate,
        endings: Endings,
        wake: Callable[[], None],
    ) -> None:
        self._transactions = transactions
        self._journeys = journeys
        self._methods = methods
        self._gate = gate
        self._endings = endings
        self._wake = wake

    def held(self, visit_tokens: Sequence[str]) -> list[HeldVisit]:
        """Return the visits that a browser holds, in the order of its tokens. Change nothing."""
        with self._transactions.read() as work:
            return held_visits(work, visit_tokens)

    def known(self, held: Sequence[HeldVisit], reference: str, server: str, ticket_id: str) -> KnownVisit | None:
        """Return the newest visit that a browser holds of a link, or None. Change nothing.

        Nothing in it depends on who was found: it says what this browser's own pages have said (R24).
        """
        mine = [one for one in held if one.is_of(reference, server, ticket_id)]
        if not mine:
            return None
        token = max(mine, key=lambda one: one.began_at).token
        with suppress(Problem):  # changed by someone other than the portal: then it is no visit (R54)
            page = self.look(token).page
            return self._known_done(token) if page is None else known_by(page)
        return None

    def _known_done(self, visit_token: str) -> KnownVisit | None:
        ending, now = self._endings.done(visit_token), self._transactions.clock()
        if ending is None:
            return None
        ended_at = ending.ended_at or now
        shown = self._journeys.current().portal.shown_time(ended_at, now)
        return KnownVisit(
            "done",
            visit_label(visit_token),
            outcome=ending.outcome,
            delivery=ending.delivery,
            is_chat_over=ending.is_chat_over,
            return_url=ending.return_url,
            ended_at=ended_at,
            ended_time=shown.time,
            is_today=not shown.date,
        )

    def look(self, visit_token: str, *, after_resend: bool = False) -> MoveResult:
        """Return the current prompt. Change nothing. Raise Problem("no_visit").

        ``after_resend`` is what the address claims: the page says so only if a message was sent again lately.
        """
        with self._transactions.read() as work:
            case = load_case(work, self._journeys, visit_token, locked=False)
            if case.is_broken:
                raise Problem("no_visit")
            if case.stage is Stage.ENDED or case.is_due(work.now):
                return OVER
            result = stay(work, case, self._journeys.current(), self._methods)
            if after_resend and result.page is not None and case.is_just_sent(work.now):
                result = replace(result, page=replace(result.page, just_sent=True))
            return result

    def speak(self, visit_token: str, locale: str) -> None:
        """Show a visit in a language from now on. Raise Problem("no_visit")."""
        with self._transactions.write() as work:
            if not set_language(work, visit_token, locale):
                raise Problem("no_visit")

    def voice(self, visit_token: str) -> Voice:
        """Return what a page about a visit speaks. Raise Problem("no_visit")."""
        with self._transactions.read() as work:
            return load_case(work, self._journeys, visit_token, locked=False).voice

    def choose(self, visit_token: str, prompt: str, method: str) -> MoveResult:
        """Take one of the methods that the step offers; use a valid code of it, else send one."""
        with self._transactions.write() as work:
            case, result = self._gate.admit(work, visit_token, prompt, "choose")
            if result is not None:
                return result
            snapshot = self._journeys.current()
            if method not in case.offered(snapshot):
                return stay(work, case, snapshot, self._methods, "method_missing")
            codes.take_method(work, case, method, snapshot)
        self._wake()
        return CURRENT_PROMPT

    def resend(self, visit_token: str, prompt: str) -> MoveResult:
        """Send the code once more, or return how long to wait."""
        with self._transactions.write() as work:
            case, result = self._gate.admit(work, visit_token, prompt, "resend")
            if result is not None:
                return result
            snapshot = self._journeys.current()
            try:
                note = codes.resend(work, case, snapshot)
            except TooMany as refused:
                stayed = stay(work, case, snapshot, self._methods, refused.code)
                return replace(stayed, retry_after_seconds=refused.retry_after_seconds)
            result = stay(work, case, snapshot, self._methods, note) if note else RESENT
        self._wake()
        return result

    def change(self, visit_token: str, prompt: str) -> MoveResult:
        """Go back to naming. Send Flow nothing and reset no count. What another person gave after naming is dropped."""
        with self._transactions.write() as work:
            case, result = self._gate.admit(work, visit_token, prompt, "change")
            if result is not None:
                return result
            if case.changes_left == 0:
                return stay(work, case, self._journeys.current(), self._methods, "too_many_changes")
            naming = case.journey.naming_step or 0
            given = {number: what for number, what in case.given.items() if int(number) < naming}
            update_visit(work, replace(case, prompt=new_prompt(), step=naming, method=None, proved=(), given=given))
            record_move(work, case, "name_taken_back", visit=case.visit_id)
        return CURRENT_PROMPT

    def cancel(self, visit_token: str, prompt: str, reason: str) -> MoveResult:
        """End the verification at the customer's request. Raise Problem for an unknown reason."""
        if reason not in CANCEL_REASONS:
            raise Problem("bad_request")
        with self._transactions.write() as work:
            case, result = self._gate.admit(work, visit_token, prompt, "cancel")
            if result is not None:
                return result
            if reason not in case.journey.results:  # no code is sent in a journey without a proof
                raise Problem("bad_request")
            self._endings.end(work, case, reason)
        return OVER
