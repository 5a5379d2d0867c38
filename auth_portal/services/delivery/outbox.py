"""The outbox: what has to leave is a row that commits with the fact it reports; then it is claimed, sent and recorded.

A result is sent until it is accepted, refused for good, or the chat is over; the bytes never change. A message is sent
until it may have been taken, and then once more at most (D13). Claiming counts the attempt first and takes a lease, so
that the attempt is on record whatever happens to its sender: an attempt that was never recorded has an unknown fate,
and the same bytes go out again. Nothing is sent while a transaction is open.

A sender may be suspended for longer than its lease, and another one take over. So it sends only with enough of the
lease left for a whole attempt, and it records only what the next holder has not overtaken (D7). A callback also has a
deadline that was taken before that look at the lease; a message that is suspended after it may leave twice.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import product
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from sqlalchemy import ColumnElement, and_, bindparam, case, exists, insert, literal, null, or_, select, true, update
from sqlalchemy.exc import InternalError, NoResultFound, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from auth_portal.clock import iso
from auth_portal.crypto import KeyFault, Keyring, token_hash
from auth_portal.gateways.way_out import MAIL_SECONDS, TOTAL_SECONDS
from auth_portal.services.config.snapshot import UNOPENED_SECONDS, Program
from auth_portal.services.delivery.queues import ALL_PRIORITIES, CLAIM, CLAIM_ALERTS, due_queues, waiting
from auth_portal.store.db import Compiled, GivenRows, Transactions, Work
from auth_portal.store.models import (
    CALLBACK,
    DELIVERY_ABOUT,
    DELIVERY_BODY,
    EVENT,
    MESSAGE,
    Attempt,
    Delivery,
    DeliveryState,
    Verification,
    WebhookEndpoint,
    signed_columns,
    table_of,
)
from auth_portal.telemetry import log_event, request_id, some_tries

# The contract of a callback is Flow's; that of a message says what is special about it.
WEBHOOK = "webhook"  # it goes to a program of the business
TEST = "test"  # an admin tries a channel with it
ALERT = "alert"  # a mail about an alert
# What programs of the business hear of, if they ask.
VERIFICATION_ENDED, DELIVERY_GIVEN_UP = "verification.ended", "delivery.given_up"
CUSTOMER_CHANGED = "customer.changed"
EVENT_LIFETIME = timedelta(hours=24)  # how long an event is tried
PAUSED = "the webhook is paused"  # the detail of an event that waits for an owner
AS_WAS = "as_was"  # a notice that carries its channel with it, as that was before it was changed

CODE_PRIORITY, NOTICE_PRIORITY, BULK_PRIORITY = ALL_PRIORITIES  # of messages: a customer is waiting for a code
PRIORITIES = {"verified": 0, "expired": 2}  # of callbacks; what a customer ended comes in between (R12a)
ATTEMPT_SECONDS = max(TOTAL_SECONDS, MAIL_SECONDS)  # the longest attempt; a sender needs that much of its lease
LEASE_SECONDS = 15  # longer than any attempt may take; how long the delivery of a killed sender waits
WAITS = (0, 1, 2, 5, 10, 20, 40)  # seconds before each retry; then every minute (D3)
LATER_SECONDS = 60
CODE_WAIT_SECONDS = 15  # at most, before a code is tried again: a customer waits for it
REPEAT_SECONDS = 15  # before what may have been taken is repeated: meanwhile a code that did arrive is used
TIME_WAS_OVER = "its time was over"  # the detail of a delivery that was claimed too late
MAY_HAVE_LEFT_TWICE = "it may have been sent twice already"  # the detail of a message that was claimed once more
CHANGED = "changed in the database, not by the portal"  # the detail of a result that is not sent (R54)
LAST_CHANCE_SECONDS = 5  # before the end of the chat, one last try
CODE_LEFT_SECONDS = 45  # of a code that still leaves: its text says "Valid 1 min", and a customer has to type it
LATE_SECONDS = UNOPENED_SECONDS  # for a first try after the end: the chat may have begun that much later than assumed
NOT_SENT = "not_sent"  # the fate of an attempt that was not made, and which counts nothing
OVERDUE_SECONDS = 10  # from then on any process sends what reports an alert
MOST_ALERTS = 10  # at a time
RECORD_SECONDS = 30  # how long a sender tries to record what it has sent
SENDER_WAS_HELD_UP = "the sender was held up"  # the detail of an attempt that was not made
# What is raised while the database is away, or its write gate or pool is held: the same may succeed a moment later.
DATABASE_FAULTS = (OperationalError, InternalError, PoolTimeout, TimeoutError)
ROW_FAULTS = (KeyFault, NoResultFound)  # of one delivery alone: what it was made from was changed or erased
_AFTERTHOUGHTS = (
    DeliveryState.PENDING,
    DeliveryState.REFUSED,
    DeliveryState.UNCONFIRMED,
    DeliveryState.GIVEN_UP,
)
"""States that an acceptance still changes when it is recorded late: the other side has it, whatever came after."""


@dataclass(frozen=True, kw_only=True)
class NewDelivery:
    """Something to send, tried until ``give_up_at``. A lower ``priority`` leaves first.

    ``body`` is sealed in its row; the message of a code has none, it is made when it is sent. ``withheld`` names why a
    message will not leave, if it will not: its row is written all the same, so that a stranger costs as much as a
    customer (R24). With ``given_up``, the reason, it is not tried until an admin retries it.
    """

    kind: str
    target: str  # a server of Flow, a channel, or the host of a webhook
    priority: int
    give_up_at: datetime
    contract: str = ""
    verification_id: str | None = None
    challenge_id: str | None = None
    lane: bytes | None = None  # deliveries to one target with the same lane leave one after another
    body: str = ""
    about: str = ""  # what lists show of a message once its body is gone: JSON with ``subject`` and a masked ``to``
    withheld: str = ""
    given_up: str = ""
    locale: str = ""  # of the message of a code


@dataclass(frozen=True)
class ClaimedDelivery:
    """A delivery that this process may send now, once. ``number`` counts its attempts from 1."""

    id: str
    kind: str
    verification_id: str | None
    challenge_id: str | None
    target: str
    contract: str
    body_sealed: bytes | None
    reason: str
    number: int
    is_unclear: bool
    give_up_at: datetime
    leased_until: datetime
    attempt_id: str
    began_at: datetime
    request_id: str | None = None  # of the request that caused it
    locale: str | None = None  # that its message is in
    lane: bytes | None = field(default=None, repr=False)  # as of a NewDelivery
    is_changed: bool = False  # by someone other than the portal (R54)
    opened: str = field(default="", repr=False)  # its text, where that was opened to claim it

    def body(self, keyring: Keyring) -> str:
        """Return the text that is to be sent."""
        if self.opened:
            return self.opened
        assert self.body_sealed is not None, "all but the messages of codes have a body"
        return keyring.open(self.body_sealed, DELIVERY_BODY, self.id)

    def within_lease(self, now: datetime) -> datetime:
        """Return the time, or the end of the lease that it is beyond: either it is lost, or the clock has jumped.

        One that jumps during an attempt would end or delay the result (D8).
        """
        return max(self.began_at, min(now, self.began_at + timedelta(seconds=LEASE_SECONDS)))

    def why_not(self, now: datetime) -> AttemptReport | None:
        """Return the report of an attempt that must not be made, None for any other.

        It must not if the database was changed by someone else, without enough of the lease for a whole attempt, after
        its time is over, or with a code that expires in a moment. A result that was never tried gets one try even then,
        while the chat may still be open (D15).
        """
        now = self.within_lease(now)
        if self.is_changed:
            state = DeliveryState.UNCONFIRMED if self.is_unclear else DeliveryState.REFUSED
            return AttemptReport(state, "changed", detail=CHANGED, is_unclear=self.is_unclear)
        if now + timedelta(seconds=ATTEMPT_SECONDS) > self.leased_until:
            detail = SENDER_WAS_HELD_UP
            return AttemptReport(DeliveryState.PENDING, NOT_SENT, detail=detail, is_unclear=self.is_unclear)
        was_never_tried = self.kind == CALLBACK and self.number == 1
        late_seconds = LATE_SECONDS if was_never_tried else -CODE_LEFT_SECONDS if self.challenge_id else 0
        if now < self.give_up_at + timedelta(seconds=late_seconds):
            return None
        if self.kind == MESSAGE and self.is_unclear and self.give_up_at == self.began_at:
            return AttemptReport(DeliveryState.UNCONFIRMED, "dropped", detail=MAY_HAVE_LEFT_TWICE, is_unclear=True)
        state = DeliveryState.UNCONFIRMED if self.is_unclear else DeliveryState.GIVEN_UP
        return AttemptReport(state, "too_late", detail=TIME_WAS_OVER, is_unclear=self.is_unclear)


@dataclass(frozen=True)
class AttemptReport:
    """What an attempt came to. A state other than pending is final; pending means try again."""

    state: DeliveryState
    fate: str
    status: int | None = None
    detail: str = ""
    is_unclear: bool = False
    retry_after_seconds: float | None = None


@dataclass(frozen=True)
class FinishedAttempt:
    """An attempt that was made, and is not on record yet."""

    delivery: ClaimedDelivery
    report: AttemptReport
    milliseconds: int

    def row(self, now: datetime) -> tuple[Recording, DeliveryState, tuple[Any, ...]]:
        """Return how it is recorded, what its delivery is then if its lease still holds, and its row of FINISHED."""
        delivery, report = self.delivery, self.report
        within = delivery.within_lease(now)
        state, next_at = what_follows(delivery, report, within)
        is_accepted = state is DeliveryState.ACCEPTED
        # Once a notice has left, the portal forgets its text and recipient; likewise a channel that was replaced.
        is_over = is_accepted or (delivery.contract == AS_WAS and state is not DeliveryState.PENDING)
        how = Recording(is_accepted, report.fate == NOT_SENT, delivery.kind != CALLBACK and is_over)
        given = (
            *(delivery.id, delivery.number, state, None if next_at else now, report.detail, report.is_unclear),
            *(next_at or within, delivery.attempt_id, max(now, delivery.began_at), self.milliseconds),
            *(report.fate, report.status),
        )
        return how, state, given


LOST = (DeliveryState.REFUSED, DeliveryState.GIVEN_UP, DeliveryState.UNCONFIRMED)
"""States of what was to be accepted and will not be, unless it is sent again."""

# Reports an event to the programs that ask for it, in the caller's transaction; ``row`` is the customer it is about.
ToPrograms = Callable[[Work, str, Mapping[str, Any], str], None]

Recorded = Sequence[tuple[FinishedAttempt, DeliveryState]]
"""Attempts, each with the state of its delivery then."""

Note = Callable[[Work, Recorded], None]
"""Writes what else follows from attempts of one kind of delivery, in the transaction that records them."""


class Sender(Protocol):
    """What sends one kind of delivery."""

    def send(self, claimed: ClaimedDelivery) -> FinishedAttempt:
        """Send one claimed delivery once, with no transaction open."""

    def note(self, work: Work, recorded: Recorded) -> None:
        """Write what else follows from attempts, in the transaction that records them."""


Room = Callable[[str, Counter[str]], int]
"""Returns how many more deliveries a target may have on their way, given those that the same claim took so far."""


class Courier(Protocol):
    """The threads of this process that send results."""

    def reserve(self, target: str) -> bool:
        """Keep a thread for a result to a target; return False if none is free. ``take`` or ``release`` follows."""

    def release(self, target: str) -> None:
        """Give a reserved thread back."""

    def take(self, claimed: ClaimedDelivery) -> None:
        """Send, with a reserved thread, a result that this process has just committed as claimed. Never raise."""

    def wake(self) -> None:
        """Look for what this process has committed."""


_INSERT = Compiled(insert(table_of(Delivery)))
_INSERT_CLAIMED = Compiled(insert(table_of(Delivery)))
_INSERT_GIVEN_UP = Compiled(insert(table_of(Delivery)))
_VERIFICATION = "verification__"  # the names of a verification's columns in a wider row begin so
_BEGUN = GivenRows(**{name: table_of(Attempt).c[name].type for name in ("id", "delivery_id", "number", "began_at")})
_CLAIMED = GivenRows(of_id=Delivery.id.type, of_verification=Verification.id.type)


def _beginning(dialect: str) -> Any:
    begun = _BEGUN.table(dialect)
    rows = select(*begun.c, literal("unknown")).where(true())
    return insert(table_of(Attempt)).from_select([*begun.c.keys(), "fate"], rows)


def _claimed_for(dialect: str) -> Any:
    """Return what finds the verifications of claimed results that no one has accepted yet."""
    claimed = _CLAIMED.table(dialect).c
    # Not as NOT EXISTS, which PostgreSQL joins: with statistics of an empty table it would read all attempts each time.
    accepted = (
        select(Attempt.id)
        .where(Attempt.delivery_id == claimed.of_id, Attempt.fate == DeliveryState.ACCEPTED.value)
        .limit(1)
        .scalar_subquery()
    )
    found = select(claimed.of_id, *signed_columns(Verification, _VERIFICATION))
    return found.join(Verification, Verification.id == claimed.of_verification).where(accepted.is_(None))


_BEGIN_ATTEMPTS = Compiled(_beginning)
_CLAIMED_FOR = Compiled(_claimed_for)
_IN_LANE = Compiled(
    select(Delivery.id)
    .where(
        Delivery.lane == bindparam("in_lane"),
        Delivery.target == bindparam("of_target"),
        Delivery.leased_until > bindparam("now"),
    )
    .limit(1)
)


def add(work: Work, new: NewDelivery) -> str:
    """Put a delivery into the outbox, in the caller's transaction; return its id."""
    values = _values(work, new)
    if new.given_up:
        ended = {"state": DeliveryState.GIVEN_UP, "reason": new.given_up, "ended_at": work.now}
        work.insert(_INSERT_GIVEN_UP, {**values, **ended})
    else:
        work.insert(_INSERT, values)
    return str(values["id"])


def hand_over(work: Work, new: NewDelivery, courier: Courier) -> None:
    """Put a result into the outbox, as claimed for a thread of this process if one is free, which then sends it.

    It is on record and leased as after any claim, before anything is sent; only the look for it is saved. While another
    result of the same reference is on its way it has to wait for that.
    """
    values, now = _values(work, new), work.now
    lane = {"in_lane": new.lane, "of_target": new.target, "now": now}
    is_reserved = courier.reserve(new.target)
    if is_reserved:
        work.if_undone(partial(courier.release, new.target))
    if not is_reserved or work.row(_IN_LANE, lane) is not None:
        work.insert(_INSERT, values)
        if is_reserved:
            work.after(partial(courier.release, new.target))
        work.after(courier.wake)
        return
    leased_until = now + timedelta(seconds=LEASE_SECONDS)
    known = {name: values[name] for name in _KNOWN}
    claimed = ClaimedDelivery(
        **known,
        number=1,
        is_unclear=False,
        leased_until=leased_until,
        attempt_id=work.new_id(),
        began_at=now,
        opened=new.body,
    )
    leased = {"attempts": claimed.number, "leased_until": leased_until, "next_at": leased_until}
    work.write(_INSERT_CLAIMED, {**values, **leased})
    _begin_attempts(work, [claimed])
    work.after(partial(courier.take, claimed))


_KNOWN = (
    *("id", "kind", "verification_id", "challenge_id", "target", "contract"),
    *("body_sealed", "reason", "give_up_at", "request_id", "locale"),
)


def _values(work: Work, new: NewDelivery) -> dict[str, Any]:
    """Return the row of a new delivery, before any claim."""
    delivery_id = work.new_id()
    return {
        "id": delivery_id,
        "kind": new.kind,
        "verification_id": new.verification_id,
        "challenge_id": new.challenge_id,
        "target": new.target,
        "contract": new.contract,
        "lane": new.lane,
        "body_sealed": work.seal(new.body, DELIVERY_BODY, delivery_id) if new.body else None,
        "priority": new.priority,
        "state": DeliveryState.PENDING,
        "reason": new.withheld,
        "created_at": work.now,
        "next_at": work.now,
        "give_up_at": new.give_up_at,
        "request_id": request_id.get() or None,
        "locale": new.locale or None,
        "about_sealed": work.seal(new.about, DELIVERY_ABOUT, delivery_id) if new.about else None,
    }


def about_notice(subject: object, masked_contact: str) -> str:
    """Return what stays on record of a notice."""
    return json.dumps({"subject": subject, "to": masked_contact})


def new_event(work: Work, program: Program, event: str, data: Mapping[str, object], row: str = "") -> NewDelivery:
    """Return an event for a program, as it goes into the outbox; while the program is paused it waits for an owner.

    Erasing the customer of ``row`` erases it, and withdraws it if it has not left.
    """
    content = {"type": event, "timestamp": iso(work.now), "data": data}
    return NewDelivery(
        kind=EVENT,
        target=program.queue,
        contract=WEBHOOK,
        lane=notice_lane(work.keyring, row) if row else None,
        body=json.dumps({"endpoint": program.endpoint, "content": content}),
        about=about_notice(f"event {event}", ""),
        priority=NOTICE_PRIORITY,
        give_up_at=work.now + EVENT_LIFETIME,
        given_up=PAUSED if program.is_paused else "",
    )


def is_for_a_webhook_that_is_off() -> ColumnElement[bool]:
    """Return the condition for a delivery that would be dropped. Events of 0.1.0 and alerts name no endpoint."""
    endpoint = table_of(WebhookEndpoint).c
    ending = literal("%").concat(Program.end_of_queue(endpoint.id))
    is_on = exists().where(endpoint.is_active, Delivery.target.like(ending))
    return and_(Delivery.kind == EVENT, Delivery.target.contains(" #"), ~is_on)


def priority_of(outcome: str) -> int:
    """Return the priority of the callback that reports this outcome."""
    return PRIORITIES.get(outcome, 1)


def notice_lane(keyring: Keyring, customer_row: str) -> bytes:
    """Return the lane of all notices to one customer, by which they are found again."""
    return keyring.index("notice", customer_row).encode()


def bulk_waiting(work: Work, most: int) -> int:
    """Return how many notices of an import are under way, counted up to ``most``."""
    return waiting(work, MESSAGE, BULK_PRIORITY, most)


def supersede(work: Work, lane: bytes, server: str) -> None:
    """Withdraw every result of this reference that is under way: the question is being asked again.

    It writes all rows of the lane, so that it waits for a retry that is putting one of them back at this moment.
    """
    is_pending = Delivery.state == DeliveryState.PENDING
    work.execute(
        update(Delivery)
        .where(Delivery.lane == lane, Delivery.target == server)
        .values(
            state=case((is_pending, DeliveryState.SUPERSEDED), else_=Delivery.state),
            ended_at=case((is_pending, work.now), else_=Delivery.ended_at),
        )
    )


def put_back(work: Work, delivery_id: str, states: Collection[DeliveryState], give_up_at: datetime) -> bool:
    """Make a delivery pending again with the bytes it has; return False if it is no longer in any of ``states``.

    Whether it may be is for the caller to judge. The attempts made so far still count, except that a message may be
    repeated again: an admin asked for it.
    """
    again = (
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.state.in_(states))
        # Its text may be erased at this moment; that of a code is made when it is sent.
        .where(or_(Delivery.body_sealed.is_not(None), Delivery.challenge_id.is_not(None)))
        .values(
            state=DeliveryState.PENDING,
            next_at=work.now,
            give_up_at=give_up_at,
            ended_at=None,
            leased_until=None,
            reason=case((Delivery.attempts == 0, ""), else_=Delivery.reason),  # or a first attempt would drop it
            is_unclear=and_(Delivery.is_unclear, Delivery.kind == CALLBACK),
        )
    )
    return work.execute(again).rowcount == 1


def what_follows(
    delivery: ClaimedDelivery, report: AttemptReport, now: datetime
) -> tuple[DeliveryState, datetime | None]:
    """Return the state of a delivery after the report of an attempt, and when the next one is made, if one is."""
    if report.state is not DeliveryState.PENDING:
        return report.state, None
    if report.fate == NOT_SENT:
        return report.state, now + timedelta(seconds=report.retry_after_seconds or 0)
    wait = wait_seconds(delivery.number)
    if delivery.challenge_id:
        wait = min(wait, CODE_WAIT_SECONDS)
    if delivery.kind == MESSAGE and report.is_unclear and not delivery.is_unclear:
        wait = REPEAT_SECONDS
    wait = max(wait, report.retry_after_seconds or 0)
    left_seconds = LAST_CHANCE_SECONDS + (CODE_LEFT_SECONDS if delivery.challenge_id else 0)
    if next_at := next_try_at(wait, now, delivery.give_up_at, left_seconds):
        return report.state, next_at
    return DeliveryState.UNCONFIRMED if report.is_unclear else DeliveryState.GIVEN_UP, None


def wait_seconds(number: int) -> float:
    """Return how long to wait after attempt ``number`` (D3)."""
    return WAITS[number - 1] if number <= len(WAITS) else LATER_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311


def next_try_at(
    seconds: float, now: datetime, give_up_at: datetime, left_seconds: int = LAST_CHANCE_SECONDS
) -> datetime | None:
    """Return when another attempt follows after a wait, or None if no time is left (D3).

    The last one is made ``left_seconds`` before the end.
    """
    planned = now + timedelta(seconds=seconds)
    last_chance = give_up_at - timedelta(seconds=left_seconds)
    if planned <= last_chance:
        return planned
    return last_chance if now < last_chance else None


def _begin_attempts(work: Work, claimed: Sequence[ClaimedDelivery]) -> None:
    """Write an attempt of each claimed delivery, whose fate is unknown until it is recorded."""
    if claimed:
        work.write(_BEGIN_ATTEMPTS, {"given": [(one.attempt_id, one.id, one.number, one.began_at) for one in claimed]})


def _opened(work: Work, claimed: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of those of these results that are as the portal wrote them (R54), by id.

    Each goes to the server and answers the reference of its verification, which are signed there; its text is sealed
    for its row. One that was accepted is never due again.
    """
    try:
        return _as_written(work, claimed)
    except (TypeError, ValueError):  # SQLite stores a value of any type: it must keep no other result from its chat
        if len(claimed) == 1:
            return {}
        return {row: text for one in claimed.items() for row, text in _opened(work, dict([one])).items()}


def _as_written(work: Work, claimed: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for row in work.rows(_CLAIMED_FOR, {"given": [(of_id, one.verification_id) for of_id, one in claimed.items()]}):
        result = claimed[row.of_id]
        try:
            text = work.open(result.body_sealed or b"", DELIVERY_BODY, result.id)
        except KeyFault:
            continue
        reference = token_hash(json.loads(text)["reference"])
        meant = row.verification__server, row.verification__reference_hash, row.verification__reference_hash
        is_routed = work.keyring.has_mac("verifications", "route_mac", row._mapping, _VERIFICATION)
        if is_routed and (result.target, result.lane, reference) == meant:
            found[result.id] = text
    return found


class Recording(NamedTuple):
    """How the report of an attempt is written: one statement for each kind of report, built once."""

    accepts: bool  # also what has ended meanwhile: the other side has it
    counts_nothing: bool  # the attempt was not made, so the next one is made in its place
    forgets: bool  # what was sent

    def held(self, dialect: str) -> Any:
        """Return the statement for deliveries whose leases these attempts still hold.

        It changes no row that another transaction has locked: one that waits would keep all others waiting.
        """
        given = FINISHED.table(dialect)
        is_held = and_(Delivery.id == given.c.of_id, Delivery.attempts == given.c.of_number)
        mine = select(given).join(Delivery, is_held).with_for_update(of=Delivery, skip_locked=True).cte("mine")
        changes = self._changes(mine.c.to_state, mine.c.to_end, mine.c.to_reason)
        lease = {"leased_until": null(), "is_unclear": mine.c.to_unclear, "next_at": mine.c.to_next}
        if self.counts_nothing:
            lease["attempts"] = Delivery.attempts - 1
        held = update(Delivery).where(Delivery.id == mine.c.of_id).values(**changes, **lease)
        return held.returning(Delivery.id, Delivery.state)

    def overtaken(self) -> Any:
        """Return the one for a delivery that was claimed again meanwhile; only an acceptance changes it."""
        is_this = Delivery.id == bindparam("of_id")
        if not self.accepts:
            return select(Delivery.state).where(is_this)
        end = bindparam("to_end", type_=Delivery.ended_at.type)
        changes = self._changes(bindparam("to_state", type_=Delivery.state.type), end, bindparam("to_reason"))
        return update(Delivery).where(is_this, self._is_news()).values(**changes).returning(Delivery.state)

    def _is_news(self) -> Any:
        # A result that was withdrawn while it was on its way stays withdrawn.
        return or_(*(Delivery.state == one for one in (_AFTERTHOUGHTS if self.accepts else (DeliveryState.PENDING,))))

    def _changes(self, state: Any, ended_at: Any, reason: Any) -> dict[str, Any]:
        is_news = self._is_news()
        changes: dict[str, Any] = {
            "state": case((is_news, state), else_=Delivery.state),
            "ended_at": case((is_news, ended_at), else_=Delivery.ended_at),
        }
        if not self.counts_nothing:  # before a first attempt the reason says why a message is withheld
            changes["reason"] = reason
        if self.forgets:
            changes["body_sealed"] = null()
        return changes


FINISHED = GivenRows(
    of_id=Delivery.id.type,
    of_number=Delivery.attempts.type,
    to_state=Delivery.state.type,
    to_end=Delivery.ended_at.type,
    to_reason=Delivery.reason.type,
    to_unclear=Delivery.is_unclear.type,
    to_next=Delivery.next_at.type,
    of_attempt=Attempt.id.type,
    to_attempt_end=Attempt.ended_at.type,
    to_milliseconds=Attempt.milliseconds.type,
    to_fate=Attempt.fate.type,
    to_status=Attempt.status.type,
)
"""What attempts that ended came to, for the statements that record them."""


_ALL_RECORDINGS = [Recording(*flags) for flags in product((False, True), repeat=3)]
_HELD = {how: Compiled(how.held) for how in _ALL_RECORDINGS}
_OVERTAKEN = {how: Compiled(how.overtaken()) for how in _ALL_RECORDINGS}
_ENDED = {"ended_at": "to_attempt_end", "milliseconds": "to_milliseconds", "fate": "to_fate", "status": "to_status"}
_END_ATTEMPTS = Compiled(
    lambda dialect: (
        update(Attempt)
        .where(Attempt.id == (given := FINISHED.table(dialect)).c.of_attempt)
        .values({name: given.c[of] for name, of in {**_ENDED, "detail": "to_reason"}.items()})
    )
)
_LOCK = Compiled(select(Delivery.id).where(Delivery.id == bindparam("of_id")).with_for_update())


class Outbox:
    """Claim and record, for any number of dispatchers at the same time."""

    def __init__(self, transactions: Transactions, to_programs: ToPrograms) -> None:
        self._transactions = transactions
        self._to_programs = to_programs
        self.is_used_by_customers = transactions.database.is_used_by_customers

    def has_due(self, kind: str, full: Collection[str] = ()) -> bool:
        """Return True if a claim is worth a writing transaction: something is due for a target that is not ``full``."""
        with self._transactions.read() as work:
            return bool(due_queues(work, kind, full))

    def claim(self, kind: str, most: int, room: Room | None = None) -> list[ClaimedDelivery]:
        """Take up to ``most`` due deliveries, the most urgent first, and count an attempt of each.

        ``room`` bounds what each target gets; a target without room costs nothing, however much waits for it (D5).
        """
        rows: list[Any] = []
        taken: Counter[str] = Counter()
        with self._transactions.write() as work:
            now, leased_until = work.now, work.now + timedelta(seconds=LEASE_SECONDS)  # the time that was judged (D8)
            for queue in due_queues(work, kind):
                left = most - len(rows)
                if (limit := min(left, room(queue.target, taken)) if room else left) <= 0:
                    continue
                values = {"of_kind": kind, "for_target": queue.target, "of_priority": queue.priority, "most": limit}
                due = {**values, "now": now, "until": leased_until, "for_programs": WEBHOOK}
                # RETURNING has no order, and each id is later than those before it: what came first leaves first.
                found = sorted(work.rows(CLAIM, due), key=attrgetter("id"))
                rows += found
                taken[queue.target] += len(found)
            is_checked = kind == CALLBACK and work.keyring.requires_macs
            opened = _opened(work, {row.id: row for row in rows}) if rows and is_checked else {}
            claimed = [
                ClaimedDelivery(
                    **row._asdict(),
                    attempt_id=work.new_id(),
                    began_at=now,
                    is_changed=is_checked and row.id not in opened,
                    opened=opened.get(row.id, ""),
                )
                for row in rows
            ]
            _begin_attempts(work, claimed)
        return claimed

    def claim_alerts(self) -> list[ClaimedDelivery]:
        """Take what reports alerts and no dispatcher has taken for a while, on whatever machine this is.

        An alert says that no dispatcher works, or that this machine's clock is wrong; it must not wait for either.
        """
        transactions = self._transactions
        now = transactions.clock()
        values = {
            "of_kind": MESSAGE,
            "of_priority": NOTICE_PRIORITY,
            "of_alerts": [ALERT, WEBHOOK],
            "overdue": (transactions.database.now() or now) - timedelta(seconds=OVERDUE_SECONDS),
            "most": MOST_ALERTS,
            "now": now,
            "until": now + timedelta(seconds=LEASE_SECONDS),
            "for_programs": WEBHOOK,
        }
        with transactions.write() as work:
            rows = work.execute(CLAIM_ALERTS, values).all()
            claimed = [ClaimedDelivery(**row._asdict(), attempt_id=work.new_id(), began_at=now) for row in rows]
            _begin_attempts(work, claimed)
        return claimed

    def record(self, finished: FinishedAttempt, note: Note) -> DeliveryState:
        """Record one attempt, again while the database cannot be written; return where its delivery stands then.

        Otherwise a message that has left would leave again. The fence makes it safe to be late: a report that comes
        after the next claim changes nothing but its own attempt, unless it is an acceptance.
        """
        give_up_at = time.monotonic() + RECORD_SECONDS
        while True:
            try:
                with self._transactions.write() as work:
                    work.rows(_LOCK, {"of_id": finished.delivery.id})
                    return self._write(work, [finished], note, is_alone=True)[finished.delivery.id]
            except DATABASE_FAULTS:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(1)

    def record_together(self, finished: Sequence[FinishedAttempt], note: Note) -> dict[str, DeliveryState]:
        """Record attempts in one transaction; return where their deliveries stand then, by id.

        What is missing there was overtaken by the next claim, or another transaction has locked it: it has to be
        recorded alone. So it is with all of them if this raises: nothing was recorded.
        """
        with self._transactions.write() as work:
            work.wait_briefly()
            return self._write(work, finished, note)

    def _write(
        self, work: Work, finished: Sequence[FinishedAttempt], note: Note, *, is_alone: bool = False
    ) -> dict[str, DeliveryState]:
        by_how: defaultdict[Recording, list[FinishedAttempt]] = defaultdict(list)
        rows, states = {}, {}
        for one in finished:
            how, state, rows[one.delivery.id] = one.row(work.now)
            states[one.delivery.id] = state
            by_how[how].append(one)
        stands: dict[str, DeliveryState] = {}
        for how, some in by_how.items():
            found = work.rows(_HELD[how], {"given": [rows[one.delivery.id] for one in some]})
            stands.update((row.id, DeliveryState(row.state)) for row in found)
            if is_alone and not found:
                of_id, _number, to_state, to_end, to_reason, *_rest = rows[some[0].delivery.id]
                news = {"to_state": to_state, "to_end": to_end, "to_reason": to_reason} if how.accepts else {}
                row = work.row(_OVERTAKEN[how], {"of_id": of_id, **news})
                stands[of_id] = DeliveryState(row.state) if row else to_state
        recorded = [(one, stands[one.delivery.id]) for one in finished if one.delivery.id in stands]
        if recorded:
            work.write(_END_ATTEMPTS, {"given": [rows[one.delivery.id] for one, _state in recorded]})
        for one, state in recorded:
            if state == states[one.delivery.id] is not DeliveryState.PENDING:
                tries = some_tries(one.delivery.number)
                work.count("deliveries_ended", one.delivery.kind, state.value, tries)
                if state in LOST and one.delivery.kind != EVENT:
                    self._to_programs(work, DELIVERY_GIVEN_UP, _given_up(one.delivery, state), "")
            work.after(partial(log_attempt, one, state))
        note(work, recorded)
        return stands


def _given_up(delivery: ClaimedDelivery, state: DeliveryState) -> dict[str, Any]:
    """Return what programs learn of a delivery that is not tried again: no text and no recipient."""
    return {
        "delivery": delivery.id,
        "kind": delivery.kind,
        "target": delivery.target,
        "state": state.value,
        "verification": delivery.verification_id,
    }


def log_attempt(finished: FinishedAttempt, state: DeliveryState) -> None:
    """Log an attempt, for the request that caused it; as a warning if it was the last one and failed."""
    delivery, report = finished.delivery, finished.report
    request_id.set(delivery.request_id or "")
    log_event(
        f"{delivery.kind}_attempted",
        level=logging.WARNING if state in LOST else logging.INFO,
        delivery=delivery.id,
        verification=delivery.verification_id,
        target=delivery.target,
        number=delivery.number,
        fate=report.fate,
        state=state,
        status=report.status,
        detail=report.detail,
        milliseconds=finished.milliseconds,
    )
