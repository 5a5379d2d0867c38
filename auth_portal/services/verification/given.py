"""What is given in the steps without a proof: what comes after a step, and what stays of it once all are finished.

Terms that were accepted and answers that are stored get their rows in the transaction that decides the verification. Of
one that ends otherwise only the audit trail says what was accepted.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, insert, select, update

from auth_portal.i18n import matched, spoken
from auth_portal.services.config.journey import COMPLETED, SUCCESSES, JourneyConfig
from auth_portal.services.config.snapshot import Snapshot
from auth_portal.services.steps import FormData, Given, HandOver, HandoverOption, PageTime, Questions, Terms
from auth_portal.services.verification.case import Case, name_person, update_visit
from auth_portal.store.db import Work
from auth_portal.store.models import ANSWER_ANSWERS, VERIFIED, Acceptance, AnswerRow, Visit, signed_columns, table_of

StepForm = FormData  # what the page of a step sends
HANDOVER_KEY = "handover"  # what the keys of options are derived for
_VISITS = table_of(Visit)
_INSERT_ACCEPTANCE = insert(table_of(Acceptance))
_INSERT_ANSWERS = insert(table_of(AnswerRow))
_ACCEPTED = (
    select(*signed_columns(Acceptance))
    .where(
        Acceptance.customer_row == bindparam("customer"),
        Acceptance.slug == bindparam("slug"),
        Acceptance.version == bindparam("version"),
    )
    .order_by(Acceptance.id.desc())
)


def moment(work: Work, case: Case, snapshot: Snapshot) -> PageTime:
    """Return when a page is shown or its form read, and in which language: see ``web.edge.speak_for_customer``."""
    wanted = (matched(tag, snapshot.portal.offered) for tag in case.locales if tag)
    return PageTime(work.now, snapshot.portal.default_region, next(filter(None, wanted), spoken.get()))


@dataclass(frozen=True)
class NextStep:
    """Where a case goes on, or with an ``outcome`` how it ends; ``why`` is for the admin."""

    case: Case
    outcome: str = ""
    why: str = ""


def next_step(work: Work, case: Case, step: int, snapshot: Snapshot) -> NextStep:
    """Return the case at a step, or at the first one after it that asks for something.

    A ticket that names the customer takes the place of naming, and terms that they have accepted before, of reading
    them again. Raise TooMany if a name may not be given again.
    """
    steps = case.journey.steps
    while step < len(steps):
        ticket = case.ticket
        if steps[step].names_customer and ticket is not None and ticket.names_customer:
            identifier = ticket.identifier(work.keyring)
            assert identifier is not None, "the ticket names a customer"
            case = name_person(work, case, identifier, snapshot)
            if not ticket.is_by_id and case.person.row is None:
                return NextStep(case, "unavailable", "ticket_without_way")
            step += 1
            continue
        case = case.at_step(step, snapshot)
        if steps[step].proves and not case.offered(snapshot):
            return NextStep(case, "unavailable", "no_next_step" if case.proved else "ticket_without_way")
        accepted = _accepted_before(work, case)
        if accepted is None:
            return NextStep(case)
        case = case.with_given(accepted)
        step += 1
    return NextStep(case, outcome_of(case))


def outcome_of(case: Case) -> str:
    """Return how a case ends whose every step is finished."""
    if case.journey.verify_steps:
        return VERIFIED
    *_before, last = enumerate(case.journey.steps)
    number, step = last
    return step.ending(case.given.get(str(number), {})) if step.stage else COMPLETED


def _accepted_before(work: Work, case: Case) -> Given | None:
    """Return what this customer gave when they accepted these terms, if they need not do it again.

    Asked only after a proof (R24): before, it would show who is a customer.
    """
    step = case.present
    if not isinstance(step, Terms) or step.again != "changed" or not case.proved or case.person.row is None:
        return None
    wanted = {"customer": case.person.row, "slug": case.journey.slug, "version": step.version}
    for row in work.execute(_ACCEPTED, wanted):
        boxes = row.boxes.split()
        if step.is_met_by(row.digest, boxes) and work.keyring.holds("acceptances", row._mapping):
            return step.given_before(row.accepted_at, boxes)
    return None


# --- What stays


def values_of(case: Case) -> Mapping[str, str]:
    """Return the flow's variables of the finished steps."""
    found: dict[str, str] = {}
    for number, step in enumerate(case.journey.steps):
        if str(number) in case.given:
            found |= step.values(case.given[str(number)])
    return found


def store(work: Work, case: Case, outcome: str) -> None:
    """Store what was accepted and answered, and forget the rest; a visit keeps only the hand-over that it chose.

    In the transaction that has just decided the case. Without a proof no row names a customer.
    """
    if not case.journey.has_forms:
        return
    theirs = _VISITS.c.verification_id == case.verification_id, _VISITS.c.given_sealed.is_not(None)
    work.execute(update(_VISITS).where(*theirs).values(given_sealed=None))
    if outcome not in SUCCESSES:
        return
    for number, step in enumerate(case.journey.steps):
        given = case.given.get(str(number))
        if given is None:
            continue
        if isinstance(step, Terms) and not given.get("is_old"):
            store_acceptance(work, case, given)
        elif isinstance(step, Questions) and step.store_days:
            store_answers(work, case, step, given)
        elif isinstance(step, HandOver):
            shares = (option := step.option(given["choice"])) is not None and option.shares_customer
            who = {"customer_id": case.person.customer_id} if shares and outcome == VERIFIED else {}
            update_visit(work, replace(case, given={str(number): {**given, **who}}))


def store_acceptance(work: Work, case: Case, given: Given) -> None:
    """Store that terms were accepted; without a proof no row names a customer."""
    values = {
        "id": work.new_id(),
        "verification_id": case.verification_id,
        "customer_row": case.person.row if case.proved else None,
        "slug": case.journey.slug,
        "version": given["version"],
        "language": given["language"],
        "digest": given["sha256"],
        "boxes": " ".join(given["boxes"]),
        "accepted_at": datetime.fromisoformat(given["accepted_at"]),
    }
    work.execute(_INSERT_ACCEPTANCE, work.keyring.signed("acceptances", values))


def store_answers(work: Work, case: Case, step: Questions, given: Given) -> None:
    """Store answers; anonymous ones under a random id and the day alone, so that no other row says whose they are."""
    day = work.now.replace(hour=0, minute=0, second=0, microsecond=0)
    row = secrets.token_hex(16) if step.anonymous else work.new_id()
    whose = {"verification_id": case.verification_id, "customer_row": case.person.row if case.proved else None}
    values = {
        "id": row,
        "slug": case.journey.slug,
        **(dict.fromkeys(whose) if step.anonymous else whose),
        "answered_at": day if step.anonymous else work.now,
        "expires_at": day + timedelta(days=step.store_days),
        "answers_sealed": work.keyring.seal(json.dumps(given["answers"]), ANSWER_ANSWERS, row),
    }
    work.execute(_INSERT_ANSWERS, values)


# --- The hand-over


def chosen_option(journey: JourneyConfig, given: Mapping[str, Given]) -> HandoverOption | None:
    """Return the option that a visit has chosen, or None."""
    number, last = len(journey.steps) - 1, journey.steps[-1]
    return last.option(given.get(str(number), {}).get("choice", "")) if isinstance(last, HandOver) else None


def handover_address(
    work: Work, journey: JourneyConfig, option: HandoverOption, given: Mapping[str, Given], of: str, methods: str
) -> str:
    """Return the address of a chosen option. Its value names the verification ``of``, and what was proved in it."""
    claims: dict[str, Any] = {"iss": journey.slug, "jti": of, "methods": methods.split("+") if methods else []}
    customer_id = given[str(len(journey.steps) - 1)].get("customer_id")
    if customer_id is not None:
        claims["sub"] = customer_id
    return option.signed_link(work.keyring.shared_key(HANDOVER_KEY, journey.slug, option.key), claims, work.now)
