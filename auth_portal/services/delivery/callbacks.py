"""Deliver a callback: the one result of a verification, to the chat that waits for it."""

from __future__ import annotations

import json
import time

from sqlalchemy import select, update

from auth_portal.gateways.flow import CallbackAnswer, Fate, FlowGateway
from auth_portal.services import limits
from auth_portal.services.delivery.outbox import (
    ATTEMPT_SECONDS,
    LOST,
    AttemptReport,
    ClaimedDelivery,
    FinishedAttempt,
    Recorded,
)
from auth_portal.store.db import Compiled, GivenRows, Transactions, Work, moment_of
from auth_portal.store.models import VERIFIED, CustomerRow, Delivery, DeliveryState, TicketRow, Verification

_OF = GivenRows(of_id=Verification.id.type)
# Where results come from: the address, the customer and the country of their phone, and whether a ticket by phone
# counts them (R48).
_SOURCES = Compiled(
    lambda dialect: (
        select(
            Verification.id,
            Verification.address_key,
            Verification.outcome,
            Verification.methods,
            Verification.slug,
            Verification.customer_row,
            CustomerRow.phone_country,
            TicketRow.phone_key.is_not(None).label("is_ticketed"),
        )
        .where(Verification.id.in_(select(_OF.table(dialect).c.of_id)))
        .outerjoin(CustomerRow, CustomerRow.id == Verification.customer_row)
        .outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
    )
)
NO_MATCH = 400  # what Flow answers for a reference that no chat is waiting with


class CallbackDelivery:
    """Posts claimed callbacks to Flow, and counts its answers."""

    def __init__(self, transactions: Transactions, flow: FlowGateway) -> None:
        self._transactions = transactions
        self._flow = flow

    def send(self, claimed: ClaimedDelivery) -> FinishedAttempt:
        """Post one callback once."""
        began = time.monotonic()  # before the look at the lease: if this thread is suspended after it, nothing leaves
        if (report := claimed.why_not(self._transactions.clock())) is None:
            body, now = claimed.body(self._transactions.keyring), self._transactions.clock()
            answer = self._flow.send(
                claimed.target,
                claimed.contract,
                json.loads(body)["reference"],
                body.encode(),
                now=now,
                deadline=began + ATTEMPT_SECONDS,
            )
            report = callback_report(claimed, answer)
        return FinishedAttempt(claimed, report, int((time.monotonic() - began) * 1000))

    def note(self, work: Work, recorded: Recorded) -> None:
        """Count what Flow answered to results, for the addresses that they come from.

        A result that outlived its customer, who was erased while it was on its way, is forgotten once it has ended.
        """
        asked = []
        for one, state in recorded:
            work.count("callback_attempts", str(one.report.fate))
            created_at, seconds = moment_of(one.delivery.id), 0.0
            if state is DeliveryState.ACCEPTED and one.report.state is state and created_at is not None:
                seconds = (work.now - created_at).total_seconds()
                work.count("callback_seconds", value=seconds)
            if one.delivery.is_changed:  # nothing left, and whose result it was is not known
                limits.note_broken(work, "deliveries", one.delivery.id)
            elif one.delivery.number == 1 or one.report.state is not DeliveryState.PENDING or state in LOST:
                asked.append((one, state, seconds))
        given = [(one.delivery.verification_id,) for one, _state, _seconds in asked]
        found = {row.id: row for row in work.rows(_SOURCES, {"given": given})} if asked else {}
        people, answers = [], []
        for one, state, seconds in asked:
            row, report = found[one.delivery.verification_id], one.report
            is_proved = row.outcome == VERIFIED and limits.SMS_METHOD in row.methods
            if state is DeliveryState.ACCEPTED and row.methods:
                work.count("answer_seconds", row.slug, row.outcome, value=seconds, since=moment_of(row.id))
            if one.delivery.number == 1 and is_proved and not row.is_ticketed:
                people.append((row.address_key, row.phone_country or "", row.customer_row))
            if report.status is not None and report.state is not DeliveryState.PENDING:
                was_unmatched = report.status == NO_MATCH and report.state is DeliveryState.REFUSED
                answers.append((row.address_key, was_unmatched))
        limits.note_successes(work, people)
        limits.note_answers(work, answers)
        gone = {row.id for row in found.values() if row.outcome == VERIFIED and row.customer_row is None}
        ended = [one.delivery for one, state, _seconds in asked if state is not DeliveryState.PENDING]
        if outlived := [delivery.id for delivery in ended if delivery.verification_id in gone]:
            work.execute(update(Delivery).where(Delivery.id.in_(outlived)).values(body_sealed=None))


def callback_report(claimed: ClaimedDelivery, answer: CallbackAnswer) -> AttemptReport:
    """Return what Flow's answer means for the result."""
    is_unclear = claimed.is_unclear or answer.fate is Fate.UNCLEAR
    state = DeliveryState.PENDING
    if answer.fate is Fate.ACCEPTED:
        state = DeliveryState.ACCEPTED
    elif answer.fate is Fate.REFUSED:
        # A 400 after an attempt of unknown fate may only say that the first one was taken.
        state = DeliveryState.UNCONFIRMED if claimed.is_unclear else DeliveryState.REFUSED
    return AttemptReport(state, answer.fate, answer.status, answer.reason, is_unclear, answer.retry_after_seconds)
