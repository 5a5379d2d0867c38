"""Retry a delivery that failed (D6): the identical bytes go back into the outbox, with a reason and an audit event.

A retry is refused if the link was started again later, for ``verified`` once the chat is over, and for a code that
is no longer valid. What was accepted or withdrawn never leaves again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import exists, select

from auth_portal.services.delivery import outbox
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import CALLBACK, VERIFIED, Challenge, Delivery, DeliveryState, Verification, table_of
from auth_portal.telemetry import mask

RETRIABLE = outbox.LOST
RETRY_MOST = 100  # deliveries of one request
RETRY_SECONDS = 60  # how long a retried result is tried if its chat is over: a first try and one last one
NOTICE_SECONDS = 3600  # the same for a notice, which no chat clock bounds

# Why a retry does not happen: each a sentence of the pages and the API.
REFUSALS = {
    "unknown": "There is no such delivery.",
    "under_way": "It is still being sent. You don't need to do anything.",
    "accepted": "It was accepted. Sending it again would deliver it twice.",
    "withdrawn": "It was withdrawn because the link was started again. An old answer must not answer a new question.",
    "not_sent": "It was stopped before it was sent: “Last answer” says why. Sending it again would change nothing.",
    "asked_anew": "The same link was started again later. An old answer must not answer a new question.",
    "chat_over": "The chat has ended, and this result says that a customer was verified. Ask the customer to start "
    "again in the chat.",
    "code_over": "Its code is no longer valid: it was used, replaced, or has expired or is about to. Ask the customer "
    "to request a new one.",
    "webhook_off": "Its webhook is off, so it would be dropped. Switch it on first, under API keys.",
    "erased": "Its text was erased with the customer.",
    "changed": "It changed while you were looking. Check it again.",
    "unconfirmed": "The chat has ended, so Flow will probably refuse it. Confirm that you want to send it.",
}


@dataclass(frozen=True)
class RetryResult:
    """What a retry did with one delivery; without a ``refusal`` (a key of REFUSALS) it is under way again."""

    id: str
    refusal: str = ""

    @property
    def is_under_way(self) -> bool:
        """Report whether the delivery was put back into the outbox."""
        return not self.refusal

    @property
    def text(self) -> str:
        """Return the refusal in words."""
        return REFUSALS.get(self.refusal, "")


class Retries:
    """Put failed deliveries back into the outbox."""

    def __init__(self, transactions: Transactions, wake: Callable[[], None]) -> None:
        self._transactions = transactions
        self._wake = wake

    def retry(
        self,
        delivery_ids: Sequence[str],
        *,
        reason: str,
        is_confirmed: bool = False,
        admin_id: str | None = None,
        **facts: Any,
    ) -> list[RetryResult]:
        """Put deliveries back into the outbox, each in its own transaction; return a result for each.

        ``is_confirmed`` includes results whose chat is over by the clock (never ``verified``). ``facts``, such as the
        API key that acted, go into the audit event together with the masked reason.
        """
        facts = {"reason": mask(reason), **facts}
        results = [self._retry_one(one, is_confirmed, admin_id, facts) for one in delivery_ids[:RETRY_MOST]]
        if any(result.is_under_way for result in results):
            self._wake()
        return results

    def preview(self, delivery_ids: Sequence[str]) -> list[RetryResult]:
        """Return what a retry that is not confirmed would do with each delivery now. Changes nothing."""
        chosen = list(dict.fromkeys(delivery_ids))[:RETRY_MOST]
        with self._transactions.read() as work:
            found = work.execute(_JUDGED.add_columns(Delivery.id).where(Delivery.id.in_(chosen))).all()
            refusals = {row.id: _refusal(row, work.now, is_confirmed=False) for row in found}
        return [RetryResult(one, refusals.get(one, "unknown")) for one in chosen]

    def _retry_one(
        self, delivery_id: str, is_confirmed: bool, admin_id: str | None, facts: dict[str, Any]
    ) -> RetryResult:
        with self._transactions.write() as work:
            # Locked before it is judged: opening the link again comes wholly before or wholly after this.
            work.execute(select(Delivery.id).where(Delivery.id == delivery_id).with_for_update())
            row = work.execute(_JUDGED.where(Delivery.id == delivery_id)).one_or_none()
            if refusal := "unknown" if row is None else _refusal(row, work.now, is_confirmed=is_confirmed):
                return RetryResult(delivery_id, refusal)
            assert row is not None, "an unknown one is refused"
            if not outbox.put_back(work, delivery_id, RETRIABLE, _until(row, work.now)):
                return RetryResult(delivery_id, "changed")
            work.record(
                "delivery_retried",
                verification_id=row.verification_id,
                admin_id=admin_id,
                delivery=delivery_id,
                what=row.kind,
                **facts,
            )
        return RetryResult(delivery_id)


def refusals_of(work: Work, delivery_ids: Sequence[str]) -> list[str]:
    """Return for each of some deliveries why it cannot be retried, as a key of REFUSALS: an empty text if it can."""
    rows = work.execute(_JUDGED.where(Delivery.id.in_(delivery_ids)))
    return [_refusal(row, work.now, is_confirmed=False) for row in rows]


def retry_of(work: Work, delivery_id: str) -> tuple[str, datetime]:
    """Return why a delivery cannot be retried, a key of REFUSALS or "", and until when a retry would be tried."""
    row = work.execute(_JUDGED.where(Delivery.id == delivery_id)).one()
    return _refusal(row, work.now, is_confirmed=False), _until(row, work.now)


_NEWER = table_of(Verification).alias().c
_JUDGED = (
    select(
        Delivery.kind,
        Delivery.state,
        Delivery.verification_id,
        Delivery.challenge_id,
        Delivery.give_up_at,
        Delivery.body_sealed.is_not(None).label("has_body"),
        outbox.is_for_a_webhook_that_is_off().label("is_off"),
        Verification.outcome,
        Verification.chat_ends_at,
        exists()
        .where(
            _NEWER.reference_hash == Verification.reference_hash,
            _NEWER.began_at >= Verification.began_at,
            _NEWER.id != Verification.id,
        )
        .label("is_asked_again"),
        Challenge.used_at,
        Challenge.replaced_at,
        Challenge.expires_at,
    )
    .outerjoin(Verification, Verification.id == Delivery.verification_id)
    .outerjoin(Challenge, Challenge.id == Delivery.challenge_id)
)
_WHY_NOT = {
    DeliveryState.PENDING: "under_way",
    DeliveryState.ACCEPTED: "accepted",
    DeliveryState.SUPERSEDED: "withdrawn",
}


def _until(row: Any, now: datetime) -> datetime:
    """Return until when a row of _JUDGED is tried if it is put back now: some beyond their own clock."""
    give_up_at: datetime = row.give_up_at
    if row.outcome == VERIFIED or row.challenge_id is not None:
        return give_up_at
    return max(give_up_at, now + timedelta(seconds=RETRY_SECONDS if row.kind == CALLBACK else NOTICE_SECONDS))


def _refusal(row: Any, now: datetime, *, is_confirmed: bool) -> str:
    """Return why a row of _JUDGED is not sent again, as a key of REFUSALS, or an empty text."""
    if row.state not in RETRIABLE:
        return _WHY_NOT.get(row.state, "not_sent")
    if row.challenge_id is not None:
        is_valid = row.expires_at is not None and row.used_at is None and row.replaced_at is None
        latest = now + timedelta(seconds=outbox.CODE_LEFT_SECONDS)
        return "" if is_valid and row.outcome is None and latest < row.expires_at else "code_over"
    if not row.has_body:
        return "erased"
    if row.kind != CALLBACK:
        return "webhook_off" if row.is_off else ""
    if row.is_asked_again:
        return "asked_anew"
    if now < row.chat_ends_at or (is_confirmed and row.outcome != VERIFIED):
        return ""
    return "chat_over" if row.outcome == VERIFIED else "unconfirmed"
