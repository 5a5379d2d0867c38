"""The outbox: what has to leave is a row that commits with the fact it tells of; then it is claimed, sent, recorded.

A result is sent until it is accepted, refused for good, or the chat is over; the bytes never change. Claiming counts
the attempt first and takes a lease, so that whatever happens to the sender the attempt is on record: one that was
never recorded has an unknown fate, and the same bytes go out again. Nothing is sent while a transaction is open.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, exists, func, insert, null, or_, select, update
from sqlalchemy.orm import aliased

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.store.db import Database, new_id
from auth_portal.store.models import Attempt, Delivery, table_of

CALLBACK = "callback"
MESSAGE = "message"
WEBHOOK = "webhook"  # the contract of a message that goes to a program of the business
TEST = "test"  # that of one by which an admin tries a channel
AS_WAS = "as_was"  # that of a notice which carries its channel with it, as that was before it was changed
NOTICE_PRIORITY, BULK_PRIORITY = 1, 2  # of messages; a code has 0, because somebody waits for it
LEASE_SECONDS = 15  # longer than any attempt may take; how long a killed sender's delivery waits
WAITS = (0, 1, 2, 5, 10, 20, 40)  # seconds before each retry; then every minute (D3)
LATER_SECONDS = 60
LAST_CHANCE_SECONDS = 5  # before the end of the chat, one last try
PRIORITIES = {"verified": 0, "expired": 2}  # what a person ended comes between (R12a)


_INSERT = insert(table_of(Delivery))


class State(StrEnum):
    """Where a delivery stands. Only ``pending`` ever changes."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNCONFIRMED = "unconfirmed"  # refused or out of time after an attempt whose fate is unknown
    GIVEN_UP = "given_up"
    SUPERSEDED = "superseded"  # the reference was begun again before this was accepted
    DROPPED = "dropped"  # a message that must not or cannot be sent


@dataclass(frozen=True)
class Claimed:
    """A delivery that this process may send now, once."""

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
    attempt_id: str
    began_at: datetime


@dataclass(frozen=True)
class Report:
    """What came of an attempt. A state other than pending is final; pending means try again."""

    state: State
    fate: str
    status: int | None = None
    detail: str = ""
    is_unclear: bool = False
    retry_after_seconds: float | None = None


def add_callback(
    connection: Connection, keyring: Keyring, now: datetime, verification_id: str, server: str, contract: str,
    lane: bytes, body: str, outcome: str, chat_ends_at: datetime,
) -> None:  # fmt: skip
    """Puts a verification's one result into the outbox, in the caller's transaction."""
    delivery_id = new_id(now)
    values = {
        "id": delivery_id,
        "kind": CALLBACK,
        "verification_id": verification_id,
        "target": server,
        "contract": contract,
        "lane": lane,
        "body_sealed": keyring.seal(body, "deliveries", delivery_id, "body"),
        "priority": PRIORITIES.get(outcome, 1),
        "state": State.PENDING,
        "created_at": now,
        "next_at": now,
        "give_up_at": chat_ends_at,
    }
    connection.execute(_INSERT, values)


def add_message(
    connection: Connection, now: datetime, verification_id: str, challenge_id: str, channel: str, expires_at: datetime,
    withheld: str,
) -> None:  # fmt: skip
    """Puts a code's message into the outbox; ``withheld`` names why it will not leave, if it will not.

    The row is written for strangers too, so that naming one takes the same road (R24).
    """
    values = {
        "id": new_id(now),
        "kind": MESSAGE,
        "verification_id": verification_id,
        "challenge_id": challenge_id,
        "target": channel,
        "priority": 0,
        "state": State.PENDING,
        "reason": withheld,
        "created_at": now,
        "next_at": now,
        "give_up_at": expires_at,
    }
    connection.execute(_INSERT, values)


def notice_lane(keyring: Keyring, customer_row: str) -> bytes:
    """What the notices to one customer are found by; by one channel they leave one after another."""
    return keyring.index("notice", customer_row).encode()


def add_notice(
    connection: Connection, keyring: Keyring, now: datetime, channel: str, body: str, give_up_at: datetime, *,
    contract: str = "", lane: bytes | None = None, priority: int = NOTICE_PRIORITY,
) -> str:  # fmt: skip
    """Puts a message that belongs to no verification into the outbox; ``body`` says to whom and what, as JSON.

    Codes leave first: somebody waits for them. Gives its id.
    """
    delivery_id = new_id(now)
    values = {
        "id": delivery_id,
        "kind": MESSAGE,
        "target": channel,
        "contract": contract,
        "lane": lane,
        "body_sealed": keyring.seal(body, "deliveries", delivery_id, "body"),
        "priority": priority,
        "state": State.PENDING,
        "created_at": now,
        "next_at": now,
        "give_up_at": give_up_at,
    }
    connection.execute(_INSERT, values)
    return delivery_id


def bulk_waiting(connection: Connection, most: int) -> int:
    """How many notices of many are under way, counted up to ``most``."""
    waiting = (
        select(Delivery.id)
        .where(Delivery.kind == MESSAGE, Delivery.state == State.PENDING, Delivery.priority == BULK_PRIORITY)
        .limit(most)
    )
    return connection.execute(select(func.count()).select_from(waiting.subquery())).scalar_one()


def supersede(connection: Connection, now: datetime, lane: bytes, server: str) -> None:
    """Withdraws every result of this reference that is under way: the question is being asked anew.

    It writes all rows of the lane, so that it waits for whoever is putting one of them back at this moment.
    """
    is_pending = Delivery.state == State.PENDING
    connection.execute(
        update(Delivery)
        .where(Delivery.lane == lane, Delivery.target == server)
        .values(
            state=case((is_pending, State.SUPERSEDED), else_=Delivery.state),
            ended_at=case((is_pending, now), else_=Delivery.ended_at),
        )
    )


def put_back(
    connection: Connection, now: datetime, delivery_id: str, states: Collection[State], give_up_at: datetime
) -> bool:
    """Makes a delivery pending again with the bytes it has; False where it is in none of ``states`` any more.

    Whether it may be is for the caller to judge. Attempts that were made stay, and go on being counted.
    """
    again = (
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.state.in_(states))
        .values(state=State.PENDING, next_at=now, give_up_at=give_up_at, ended_at=None, leased_until=None)
    )
    return connection.execute(again).rowcount == 1


def next_try_at(number: int, now: datetime, give_up_at: datetime, retry_after_seconds: float | None) -> datetime | None:
    """When attempt ``number`` is to be followed by another, or None where there is no time left (D3)."""
    wait = WAITS[number - 1] if number <= len(WAITS) else LATER_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311
    planned = now + timedelta(seconds=max(wait, retry_after_seconds or 0))
    last_chance = give_up_at - timedelta(seconds=LAST_CHANCE_SECONDS)
    if planned <= last_chance:
        return planned
    return last_chance if now < last_chance else None


_Other = aliased(Delivery)
_CLAIMED = (
    Delivery.id, Delivery.kind, Delivery.verification_id, Delivery.challenge_id, Delivery.target, Delivery.contract,
    Delivery.body_sealed, Delivery.reason, Delivery.attempts, Delivery.is_unclear, Delivery.give_up_at,
)  # fmt: skip


class Outbox:
    """Claims and records, for any number of dispatchers side by side."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def has_due(self, kind: str) -> bool:
        """Whether a look is worth a writing transaction."""
        with self._database.read() as connection:
            due = select(Delivery.id).where(*_due(kind, self._clock())).limit(1)
            return connection.execute(due).first() is not None

    def claim(self, kind: str, most: int, busy_targets: Collection[str] = ()) -> list[Claimed]:
        """Takes up to ``most`` due deliveries, the most wanted first, and counts an attempt of each."""
        now = self._clock()
        chosen = (
            select(Delivery.id)
            .where(*_due(kind, now), Delivery.target.not_in(list(busy_targets)), ~_lane_is_busy(now))
            .order_by(Delivery.priority, Delivery.next_at)
            .limit(most)
            .with_for_update(skip_locked=True)
            .cte("chosen")  # read once; PostgreSQL may run a plain subquery anew for each row, and so take too many
        )
        leased_until = now + timedelta(seconds=LEASE_SECONDS)
        claim = (
            update(Delivery)
            .where(Delivery.id.in_(select(chosen.c.id)), Delivery.state == State.PENDING)
            .values(
                attempts=Delivery.attempts + 1,
                is_unclear=or_(
                    Delivery.is_unclear, and_(Delivery.leased_until.is_not(None), Delivery.kind == CALLBACK)
                ),
                leased_until=leased_until,
                next_at=leased_until,
            )
            .returning(*_CLAIMED)
        )
        with self._database.write() as connection:
            claimed = [_claimed(row, now) for row in connection.execute(claim)]
            if claimed:
                connection.execute(insert(Attempt), [_attempt(delivery) for delivery in claimed])
        return claimed

    def record(self, connection: Connection, delivery: Claimed, report: Report, milliseconds: int) -> State:
        """Writes what came of an attempt, in the caller's transaction. Gives where the delivery stands now."""
        now = self._clock()
        state, next_at = report.state, None
        if state is State.PENDING:
            next_at = next_try_at(delivery.number, now, delivery.give_up_at, report.retry_after_seconds)
            if next_at is None:
                state = State.UNCONFIRMED if report.is_unclear else State.GIVEN_UP
        # What a notice said, and to whom, is nobody's business once it has left; nor is a channel that is no more.
        is_over = state is State.ACCEPTED or (delivery.contract == AS_WAS and state is not State.PENDING)
        forgotten = {"body_sealed": None} if delivery.kind == MESSAGE and is_over else {}
        connection.execute(
            update(Delivery)
            .where(Delivery.id == delivery.id)
            .values(
                **forgotten,
                leased_until=None,
                is_unclear=report.is_unclear,
                reason=report.detail,
                next_at=next_at or now,
                # A result that was withdrawn while it was on its way stays withdrawn.
                state=case((Delivery.state == State.PENDING, state), else_=Delivery.state),
                ended_at=case((Delivery.state == State.PENDING, null() if next_at else now), else_=Delivery.ended_at),
            )
        )
        connection.execute(
            update(Attempt)
            .where(Attempt.id == delivery.attempt_id)
            .values(
                ended_at=now, milliseconds=milliseconds, fate=report.fate, status=report.status, detail=report.detail
            )
        )
        return state


def _due(kind: str, now: datetime) -> tuple[ColumnElement[bool], ...]:
    return Delivery.kind == kind, Delivery.state == State.PENDING, Delivery.next_at <= now


def _lane_is_busy(now: datetime) -> ColumnElement[bool]:
    # Begin-again leaves at most one pending result per reference and server; the one it withdrew may be on its way.
    return exists().where(
        _Other.lane == Delivery.lane,
        _Other.target == Delivery.target,
        _Other.id != Delivery.id,
        _Other.leased_until > now,
    )


def _claimed(row: Any, now: datetime) -> Claimed:
    values = row._asdict()
    return Claimed(number=values.pop("attempts"), **values, attempt_id=new_id(now), began_at=now)


def _attempt(delivery: Claimed) -> dict[str, object]:
    return {
        "id": delivery.attempt_id,
        "delivery_id": delivery.id,
        "number": delivery.number,
        "began_at": delivery.began_at,
        "fate": "unknown",
    }
