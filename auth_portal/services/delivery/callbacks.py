"""Deliver a callback: the one result of a verification, to the chat that waits for it."""

from __future__ import annotations

import json
import time

from sqlalchemy import bindparam, select

from auth_portal.gateways.flow import CallbackAnswer, Fate, FlowGateway
from auth_portal.services import limits
from auth_portal.services.delivery.outbox import ATTEMPT_SECONDS, AttemptReport, ClaimedDelivery, Outbox, log_attempt
from auth_portal.store.db import Compiled, Transactions, Work, moment_of
from auth_portal.store.models import VERIFIED, CustomerRow, DeliveryState, TicketRow, Verification

# Where a result comes from: the address, the customer and the country of their phone, and whether a ticket by phone
# counts it (R48).
_SENDER = Compiled(
    select(
        Verification.address_key,
        Verification.outcome,
        Verification.methods,
        Verification.slug,
        Verification.customer_row,
        CustomerRow.phone_country,
        TicketRow.phone_key.is_not(None).label("is_ticketed"),
    )
    .outerjoin(CustomerRow, CustomerRow.id == Verification.customer_row)
    .outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
    .where(Verification.id == bindparam("of_id"))
)
NO_MATCH = 400  # what Flow answers for a reference that no chat is waiting with


class CallbackDelivery:
    """Post claimed callbacks to Flow, and record its answers."""

    def __init__(self, transactions: Transactions, outbox: Outbox, flow: FlowGateway) -> None:
        self._transactions = transactions
        self._outbox = outbox
        self._flow = flow

    def deliver(self, claimed: ClaimedDelivery) -> DeliveryState:
        """Post one callback and record the answer; return where the delivery stands then."""
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
        milliseconds = int((time.monotonic() - began) * 1000)

        def write(work: Work) -> DeliveryState:
            state = self._outbox.record(work, claimed, report, milliseconds)
            work.count("callback_attempts", str(report.fate))
            created_at, seconds = moment_of(claimed.id), 0.0
            if state is DeliveryState.ACCEPTED and report.state is state and created_at is not None:
                seconds = (work.now - created_at).total_seconds()
                work.count("callback_seconds", value=seconds)
            if claimed.is_changed:  # nothing left, and whose result it was is not known
                limits.note_broken(work, "deliveries", claimed.id)
                return state
            if claimed.number == 1 or report.state is not DeliveryState.PENDING:
                row = work.row(_SENDER, {"of_id": claimed.verification_id})
                is_proved = row.outcome == VERIFIED and limits.SMS_METHOD in row.methods
                if state is DeliveryState.ACCEPTED and row.methods:
                    began_at = moment_of(claimed.verification_id or "")
                    work.count("answer_seconds", row.slug, row.outcome, value=seconds, since=began_at)
                if claimed.number == 1 and is_proved and not row.is_ticketed:
                    limits.note_success(work, row.address_key, row.phone_country or "", row.customer_row)
                if report.status is not None and report.state is not DeliveryState.PENDING:
                    was_unmatched = report.status == NO_MATCH and report.state is DeliveryState.REFUSED
                    limits.note_answer(work, row.address_key, was_unmatched=was_unmatched)
            return state

        state = self._outbox.write_report(write)
        log_attempt(claimed, state, report, milliseconds)
        return state


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
