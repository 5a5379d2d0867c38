"""What left and what did not: every delivery with its attempts, and sending again what came to nothing.

A retry puts the identical bytes back into the outbox, by D6: refused where the reference has been asked anew since, for
``verified`` once the chat is over, and for a code that no longer counts. What was accepted or withdrawn never leaves
again. Each retry has a reason and is audited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, exists, select
from sqlalchemy.orm import aliased

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.errors import NotFound
from auth_portal.services import audit, outbox
from auth_portal.services.outbox import CALLBACK, MESSAGE, State
from auth_portal.services.results import VERIFIED
from auth_portal.services.stories.lists import PAGE, Condition, Listing, as_written, listed, made_between
from auth_portal.store.db import Database
from auth_portal.store.models import NOT_ACCEPTED, Attempt, Challenge, Delivery, Verification
from auth_portal.telemetry import mask

KINDS = (CALLBACK, MESSAGE)
FAILED = "failed"  # in a filter: every state that can be retried
RETRIABLE = (State.REFUSED, State.GIVEN_UP, State.UNCONFIRMED)
RETRY_MOST = 100  # deliveries of one request
RETRY_SECONDS = 60  # how long a retried result is tried where its chat is over; a first try and one last one
NOTICE_SECONDS = 3600  # and a notice, which no clock of a chat bounds

# Why a retry does not happen; each a sentence of the pages and the API.
REFUSALS = {
    "unknown": "There is no such delivery.",
    "under_way": "It is still under way; nothing has to be done.",
    "accepted": "It was accepted. Sending it again could answer a question twice.",
    "withdrawn": "It was withdrawn because the link was begun again. A stale answer must not answer a new question.",
    "not_sent": "It was not meant to leave: see its reason. Sending it again would change nothing.",
    "asked_anew": "The same link has been begun again since. A stale answer must not answer a new question.",
    "chat_over": "The chat is over, and this says that somebody was verified. They have to begin again in the chat.",
    "code_over": "Its code no longer counts: it was used or replaced, or its time is over. Ask the customer to have a "
    "new one sent.",
    "erased": "What it said was erased with the customer.",
    "changed": "It changed while you were looking. Look at it again.",
    "unconfirmed": "The chat is over by the clock, so it will probably be refused. Confirm that it should be sent.",
}


@dataclass(frozen=True)
class DeliveryFilter:
    """Which deliveries are wanted; what is empty does not count. Times are UTC."""

    kind: str = ""
    state: str = ""  # one of State, or FAILED
    target: str = ""
    verification_id: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class DeliveryLine:
    """A delivery as a list shows it."""

    id: str
    kind: str
    verification_id: str | None
    challenge_id: str | None
    target: str
    contract: str
    state: str
    reason: str
    attempts: int
    is_unclear: bool
    created_at: datetime
    next_at: datetime
    give_up_at: datetime
    ended_at: datetime | None

    @property
    def may_be_retried(self) -> bool:
        """Whether its state allows a retry; more may speak against it."""
        return self.state in RETRIABLE


@dataclass(frozen=True)
class AttemptLine:
    """One try to send it. Without ``ended_at`` its fate is unknown."""

    number: int
    began_at: datetime
    ended_at: datetime | None
    milliseconds: int | None
    fate: str
    status: int | None
    detail: str


@dataclass(frozen=True)
class DeliveryStory:
    """A delivery with every attempt. ``refusal`` is a key of REFUSALS: why it cannot be retried, if it cannot."""

    line: DeliveryLine
    tries: tuple[AttemptLine, ...]
    outcome: str
    slug: str
    refusal: str
    needs_confirmation: bool


@dataclass(frozen=True)
class Retried:
    """What came of one delivery of a retry; without a ``refusal`` (a key of REFUSALS) it is under way again."""

    id: str
    refusal: str = ""

    @property
    def is_under_way(self) -> bool:
        """Whether it was put back into the outbox."""
        return not self.refusal

    @property
    def text(self) -> str:
        """The refusal in words."""
        return REFUSALS.get(self.refusal, "")


LINE_COLUMNS = tuple(getattr(Delivery, name) for name in DeliveryLine.__dataclass_fields__)
_ATTEMPT = tuple(getattr(Attempt, name) for name in AttemptLine.__dataclass_fields__)
_Newer = aliased(Verification)
_JUDGED = (
    select(
        *LINE_COLUMNS,
        Delivery.body_sealed.is_not(None).label("has_body"),
        Verification.outcome,
        Verification.slug,
        Verification.chat_ends_at,
        exists()
        .where(
            _Newer.reference_hash == Verification.reference_hash,
            _Newer.began_at >= Verification.began_at,
            _Newer.id != Verification.id,
        )
        .label("is_asked_anew"),
        Challenge.used_at,
        Challenge.replaced_at,
        Challenge.expires_at,
    )
    .outerjoin(Verification, Verification.id == Delivery.verification_id)
    .outerjoin(Challenge, Challenge.id == Delivery.challenge_id)
)


class DeliveryLists:
    """Lists deliveries, tells one with its attempts, and retries."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, wake: Callable[[], None]) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._wake = wake

    def page(self, wanted: DeliveryFilter, *, after: str = "", most: int = PAGE) -> Listing[DeliveryLine]:
        """A page of deliveries, newest first."""
        with self._database.read() as connection:
            found_by, filtered_by = _found_by(wanted), _filtered_by(wanted)
            found = listed(
                connection, select(*LINE_COLUMNS), Delivery.id, found_by=found_by, filtered_by=filtered_by, after=after,
                most=most,
            )  # fmt: skip
        return found.of(line_from)

    def get(self, delivery_id: str) -> DeliveryStory:
        """A delivery with its attempts. Raises NotFound("delivery_unknown")."""
        with self._database.read() as connection:
            row = connection.execute(_JUDGED.where(Delivery.id == delivery_id)).one_or_none()
            if row is None:
                raise NotFound("delivery_unknown")
            tries = attempts_of(connection, [delivery_id])
        refusal = _refusal(row, self._clock(), is_confirmed=False)
        needs_confirmation = refusal == "unconfirmed"
        return DeliveryStory(
            line_from(row),
            tuple(tries[delivery_id]),
            row.outcome or "",
            row.slug or "",
            "" if needs_confirmation else refusal,
            needs_confirmation,
        )

    def retry(
        self, delivery_ids: Sequence[str], *, reason: str, is_confirmed: bool = False, admin_id: str | None = None,
        **facts: Any,
    ) -> list[Retried]:  # fmt: skip
        """Puts deliveries back into the outbox, each in a transaction of its own; tells what came of each.

        ``is_confirmed`` says that results whose chat is over by the clock are meant too (never ``verified``).
        ``facts`` go into the audit beside the masked reason, such as which API key acted.
        """
        told = {"reason": mask(reason), **facts}
        done = [self._retry_one(one, admin_id, told, is_confirmed) for one in delivery_ids[:RETRY_MOST]]
        if any(retried.is_under_way for retried in done):
            self._wake()
        return done

    def _retry_one(self, delivery_id: str, admin_id: str | None, facts: dict[str, Any], is_confirmed: bool) -> Retried:
        now = self._clock()
        with self._database.write() as connection:
            # Locked before it is judged: whoever begins the reference again comes wholly before or wholly after this.
            connection.execute(select(Delivery.id).where(Delivery.id == delivery_id).with_for_update())
            row = connection.execute(_JUDGED.where(Delivery.id == delivery_id)).one_or_none()
            refusal = "unknown" if row is None else _refusal(row, now, is_confirmed=is_confirmed)
            if refusal or row is None:
                return Retried(delivery_id, refusal)
            if not outbox.put_back(connection, now, delivery_id, RETRIABLE, _give_up_at(row, now)):
                return Retried(delivery_id, "changed")
            audit.record(
                connection, self._keyring, now, "delivery_retried", verification_id=row.verification_id,
                admin_id=admin_id, delivery=delivery_id, what=row.kind, **facts,
            )  # fmt: skip
        return Retried(delivery_id)


def attempts_of(connection: Connection, delivery_ids: Sequence[str]) -> dict[str, list[AttemptLine]]:
    """Every attempt of some deliveries, in order."""
    found: dict[str, list[AttemptLine]] = {delivery_id: [] for delivery_id in delivery_ids}
    query = select(Attempt.delivery_id, *_ATTEMPT).where(Attempt.delivery_id.in_(delivery_ids))
    for row in connection.execute(query.order_by(Attempt.delivery_id, Attempt.number)):
        values = row._asdict()
        found[values.pop("delivery_id")].append(AttemptLine(**values))
    return found


def line_from(row: Any) -> DeliveryLine:
    """The line of a row that has LINE_COLUMNS."""
    return DeliveryLine(**{name: getattr(row, name) for name in DeliveryLine.__dataclass_fields__})


def _found_by(wanted: DeliveryFilter) -> list[list[Condition]]:
    between = made_between(Delivery.id, wanted.since, wanted.until)
    if wanted.verification_id:
        return [[Delivery.verification_id == wanted.verification_id, *between]]
    if wanted.state == State.PENDING:
        return [[as_written("state = 'pending'"), *between]]
    if not _is_rare(wanted):
        return [between]
    kinds = (wanted.kind,) if wanted.kind else KINDS
    return [
        [as_written(NOT_ACCEPTED), Delivery.kind == kind, Delivery.state == state, *between]
        for kind in kinds
        for state in _states(wanted)
    ]


def _filtered_by(wanted: DeliveryFilter) -> list[Condition]:
    found: list[Condition] = []
    is_served = _is_rare(wanted) and not wanted.verification_id
    if wanted.kind and not is_served:
        found.append(Delivery.kind == wanted.kind)
    if wanted.target:
        found.append(Delivery.target == wanted.target)
    if wanted.state and not is_served:
        found.append(Delivery.state.in_(_states(wanted)))
    return found


def _is_rare(wanted: DeliveryFilter) -> bool:
    return wanted.state not in ("", State.PENDING, State.ACCEPTED)


def _states(wanted: DeliveryFilter) -> tuple[str, ...]:
    return RETRIABLE if wanted.state == FAILED else (wanted.state,)


def _refusal(row: Any, now: datetime, *, is_confirmed: bool) -> str:
    """Why this delivery is not sent again, as a key of REFUSALS, or nothing (D6)."""
    if row.state not in RETRIABLE:
        return _WHY_NOT.get(row.state, "not_sent")
    if row.challenge_id is not None:
        is_in_force = row.expires_at is not None and row.used_at is None and row.replaced_at is None
        return "" if is_in_force and row.outcome is None and now < row.expires_at else "code_over"
    if not row.has_body:
        return "erased"
    if row.kind != CALLBACK:
        return ""
    if row.is_asked_anew:
        return "asked_anew"
    if now < row.chat_ends_at or (is_confirmed and row.outcome != VERIFIED):
        return ""
    return "chat_over" if row.outcome == VERIFIED else "unconfirmed"


_WHY_NOT = {State.PENDING: "under_way", State.ACCEPTED: "accepted", State.SUPERSEDED: "withdrawn"}


def _give_up_at(row: Any, now: datetime) -> datetime:
    """Until when a retried delivery is tried: its own clock, or a little while where that is over."""
    own: datetime = row.give_up_at
    if row.outcome == VERIFIED or row.challenge_id is not None:
        return own
    seconds = RETRY_SECONDS if row.kind == CALLBACK else NOTICE_SECONDS
    return max(own, now + timedelta(seconds=seconds))
