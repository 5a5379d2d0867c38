"""How it goes: the funnel of the last hour, day or week, and what an installation still lacks. Reads only.

The figures of a longer period are kept for a while in this process, because they are counted from the rows
themselves: nothing on the customer's way writes a statistic.
"""

from __future__ import annotations

import statistics
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, select, text

from auth_portal.clock import Clock
from auth_portal.methods import CARRIES
from auth_portal.services.config.journey import JourneyLimits
from auth_portal.services.journeys import Journeys
from auth_portal.services.outbox import CALLBACK, State
from auth_portal.services.setup.drives import PASSED
from auth_portal.store.db import Database, first_id
from auth_portal.store.models import MANY_TRIES, RARE_KIND, AuditEvent, CustomerRow, Delivery, Tries, Verification

PERIODS: Mapping[str, timedelta] = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
}
KEPT_SECONDS = {"hour": 5.0, "day": 60.0, "week": 600.0}  # how old a figure may be
SAMPLE = 2000  # verifications, the newest, from which durations are told
LOCKED_LISTED = 20
# Upper ends in seconds of what durations are counted in; the last one is open.
PROOF_SECONDS = (10, 30, 60, 120, 300)
CALLBACK_SECONDS = (0.1, 0.5, 1, 5, 60)
_VERIFIED = select(Verification.id).where(Verification.outcome == "verified")
_DRIVEN = select(AuditEvent.id).where(text(RARE_KIND), AuditEvent.kind == PASSED)  # RARE_KIND names the index


@dataclass(frozen=True)
class Funnel:
    """How many got how far, of those that began in a period."""

    began: int = 0
    named: int = 0
    sent: int = 0  # those that needed a message, and were sent one
    verified: int = 0
    told: int = 0  # of the verified ones, Flow has accepted the result

    @property
    def stages(self) -> tuple[tuple[str, int], ...]:
        """The stages in order, by name."""
        names = ("began", "named", "sent", "verified", "told")
        return tuple((name, getattr(self, name)) for name in names)


@dataclass(frozen=True)
class Duration:
    """A median and a 95th percentile, in seconds, and how many of the sample took up to each of ``ends`` or longer."""

    median: float
    p95: float
    ends: tuple[float, ...]
    counts: tuple[int, ...]  # one more than ends


@dataclass(frozen=True)
class Figures:
    """One period."""

    period: str
    at: datetime
    whole: Funnel
    by_journey: Mapping[str, Funnel]
    outcomes: Mapping[str, int]
    methods: Mapping[str, int]  # of the verified ones, the last method proved
    to_proof: Duration | None
    to_callback: Duration | None


@dataclass(frozen=True)
class Checklist:
    """What a portal needs before it can verify anybody, in the order in which one does it."""

    has_channel: bool
    has_customers: bool
    has_journey: bool
    has_verified: bool

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.has_channel and self.has_customers and self.has_journey and self.has_verified


@dataclass(frozen=True)
class Locked:
    """A customer whom too many wrong tries have shut out of a method."""

    row: str
    customer_id: str
    method: str
    until: datetime | None  # none: until support unlocks it


class Overview:
    """Counts."""

    def __init__(self, database: Database, clock: Clock, journeys: Journeys) -> None:
        self._database = database
        self._clock = clock
        self._journeys = journeys
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Figures]] = {}

    def figures(self, period: str) -> Figures:
        """The figures of "hour", "day" or "week", as old as KEPT_SECONDS at most. Raises KeyError for others."""
        kept_seconds = KEPT_SECONDS[period]
        with self._lock:  # one count at a time: the second asker finds the first one's
            counted_at, figures = self._kept.get(period, (0.0, None))
            if figures is None or time.monotonic() - counted_at >= kept_seconds:
                figures = self._count(period)
                self._kept[period] = time.monotonic(), figures
            return figures

    def _count(self, period: str) -> Figures:
        now = self._clock()
        since = first_id(now - PERIODS[period])
        with self._database.read() as connection:
            by_journey = _funnels(connection, since)
            outcomes, methods = _endings(connection, since)
            to_proof = duration(_seconds(connection, since, *_PROOF), PROOF_SECONDS)
            to_callback = duration(_seconds(connection, since, *_CALLBACK), CALLBACK_SECONDS)
        whole = Funnel(*(sum(getattr(one, name) for one in by_journey.values()) for name, _count in Funnel().stages))
        return Figures(period, now, whole, by_journey, outcomes, methods, to_proof, to_callback)

    def checklist(self) -> Checklist:
        """What is there already."""
        snapshot = self._journeys.current()
        journeys = [now.config for now in snapshot.journeys.values()]
        needs_channel = not journeys or any(
            method in CARRIES for journey in journeys for step in journey.verify_steps for method in step.any_of
        )
        with self._database.read() as connection:
            has_customers = connection.execute(select(CustomerRow.id).limit(1)).first() is not None
            has_verified = any(connection.execute(one.limit(1)).first() for one in (_VERIFIED, _DRIVEN))
        return Checklist(
            has_channel=any(map(snapshot.may_use, snapshot.channels.values())) or not needs_channel,
            has_customers=has_customers,
            has_journey=any(map(snapshot.is_open, journeys)),
            has_verified=has_verified,
        )

    def locked(self) -> list[Locked]:
        """Customers who cannot use a method now because of wrong tries; the first twenty."""
        now, journeys = self._clock(), self._journeys.current().journeys.values()
        limits = [found.config.limits for found in journeys] or [JourneyLimits()]
        a_day = min(bound.credential_tries_day for bound in limits)
        in_all = min(bound.credential_tries_total for bound in limits)
        of_day = and_(Tries.day_ends_at > now, Tries.day_count >= a_day)
        found = (
            select(CustomerRow.id, CustomerRow.customer_id, Tries.method, Tries.total, Tries.day_ends_at)
            .join(CustomerRow, CustomerRow.id == Tries.person_key)
            .where(text(MANY_TRIES), of_day | (Tries.total >= in_all))
            .order_by(CustomerRow.id)
            .limit(LOCKED_LISTED)
        )
        with self._database.read() as connection:
            rows = connection.execute(found).all()
        return [
            Locked(row.id, row.customer_id, row.method, None if row.total >= in_all else row.day_ends_at)
            for row in rows
        ]


def _funnels(connection: Connection, since: str) -> dict[str, Funnel]:
    is_verified = Verification.outcome == "verified"
    told = and_(is_verified, Delivery.state == State.ACCEPTED)

    def count(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.sum(case((condition, 1), else_=0))

    rows = connection.execute(
        select(
            Verification.slug,
            func.count(),
            func.count(Verification.identifier_key),
            count(Verification.sends > 0),
            count(is_verified),
            count(told),
        )
        .outerjoin(Delivery, and_(Delivery.verification_id == Verification.id, Delivery.kind == CALLBACK))
        .where(Verification.id >= since)
        .group_by(Verification.slug)
        .order_by(Verification.slug)
    )
    return {row[0]: Funnel(*row[1:]) for row in rows}


def _endings(connection: Connection, since: str) -> tuple[dict[str, int], dict[str, int]]:
    rows = connection.execute(
        select(Verification.outcome, Verification.methods, func.count())
        .where(Verification.id >= since, Verification.outcome.is_not(None))
        .group_by(Verification.outcome, Verification.methods)
    )
    outcomes: dict[str, int] = defaultdict(int)
    methods: dict[str, int] = defaultdict(int)
    for row in rows:
        outcome, proved, count = str(row[0]), row[1], row[2]
        outcomes[outcome] += count
        if outcome == "verified":
            methods[proved.rpartition("+")[2]] += count
    return dict(sorted(outcomes.items())), dict(sorted(methods.items()))


_PROOF = (Verification.began_at, Verification.ended_at, Verification.id, Verification.outcome == "verified")
_ACCEPTED = and_(Delivery.kind == CALLBACK, Delivery.state == State.ACCEPTED)
_CALLBACK = (Delivery.created_at, Delivery.ended_at, Delivery.id, _ACCEPTED)


def _seconds(connection: Connection, since: str, begin: Any, end: Any, key: Any, when: Any) -> list[float]:
    rows = connection.execute(select(begin, end).where(key >= since, when).order_by(key.desc()).limit(SAMPLE)).all()
    return [(row[1] - row[0]).total_seconds() for row in rows if row[1] is not None]


def duration(seconds: Sequence[float], ends: Sequence[float]) -> Duration | None:
    """The median and 95th percentile of a sample, and its counts by ``ends``; None without one."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    counts = [0] * (len(ends) + 1)
    for one in ordered:
        counts[bisect_left(ends, one)] += 1
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Duration(statistics.median(ordered), p95, tuple(ends), tuple(counts))
