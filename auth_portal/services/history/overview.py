"""The home page: the funnel of the last hour, day or week, and what an installation still lacks. Reads only.

The figures of a longer period are cached for a while in this process, because they are counted from the rows
themselves: no customer's request writes a statistic.
"""

from __future__ import annotations

import statistics
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, select, text

from auth_portal.methods import CARRIES
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.verification import tries
from auth_portal.store.db import Transactions, Work, first_id
from auth_portal.store.models import (
    CALLBACK,
    RARE_KIND,
    VERIFIED,
    AuditEvent,
    CustomerRow,
    Delivery,
    DeliveryState,
    Verification,
)

PERIODS: Mapping[str, timedelta] = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
}
CACHE_SECONDS = {"hour": 5.0, "day": 60.0, "week": 600.0}
SAMPLE = 2000  # the newest verifications, from which durations are computed
LOCKED_LISTED = 20
# Upper ends, in seconds, of the bars of a chart; after the last one comes an open bar.
PROOF_SECONDS = (10, 30, 60, 120, 300)
CALLBACK_SECONDS = (0.1, 0.5, 1, 5, 60)
_VERIFIED = select(Verification.id).where(Verification.outcome == VERIFIED)
# A test drive whose chat continued, by its audit event; RARE_KIND names the index.
_DRIVEN = select(AuditEvent.id).where(text(RARE_KIND), AuditEvent.kind == "drive_passed")


@dataclass(frozen=True)
class Funnel:
    """How many verifications got how far, of those that began in a period."""

    began: int = 0
    named: int = 0
    sent: int = 0  # those that needed a message, and for which one was sent
    verified: int = 0
    answered: int = 0  # of the verified ones, Flow has accepted the result

    @property
    def stages(self) -> tuple[tuple[str, int], ...]:
        """Return the stages in order, by name."""
        names = ("began", "named", "sent", "verified", "answered")
        return tuple((name, getattr(self, name)) for name in names)


@dataclass(frozen=True)
class Duration:
    """The median and the 95th percentile in seconds, and how many of the sample took up to each of ``ends``."""

    median: float
    p95: float
    ends: tuple[float, ...]
    counts: tuple[int, ...]  # one more than ends: the last counts what took longer


@dataclass(frozen=True)
class Figures:
    """The figures of one period."""

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
    """What a portal needs before it can verify a customer, in the order in which it is set up."""

    has_channel: bool
    has_customers: bool
    has_journey: bool
    has_verified: bool

    @property
    def is_done(self) -> bool:
        """Report whether every step is done."""
        return self.has_channel and self.has_customers and self.has_journey and self.has_verified


@dataclass(frozen=True)
class LockedCustomer:
    """A customer who cannot use a method because of too many wrong tries."""

    row: str
    customer_id: str
    method: str
    until: datetime | None  # None: until support unlocks it


class Overview:
    """Count what the home page shows."""

    def __init__(self, transactions: Transactions, journeys: Journeys) -> None:
        self._transactions = transactions
        self._journeys = journeys
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[float, Figures]] = {}

    def figures(self, period: str) -> Figures:
        """Return the figures of "hour", "day" or "week", at most CACHE_SECONDS old. Raise KeyError for others."""
        cache_seconds = CACHE_SECONDS[period]
        with self._lock:  # one count at a time: the second request finds the count of the first
            counted_at, figures = self._cache.get(period, (0.0, None))
            if figures is None or time.monotonic() - counted_at >= cache_seconds:
                figures = self._count(period)
                self._cache[period] = time.monotonic(), figures
            return figures

    def _count(self, period: str) -> Figures:
        with self._transactions.read() as work:
            now, since = work.now, first_id(work.now - PERIODS[period])
            by_journey = _funnels(work, since)
            ended = work.execute(
                select(Verification.outcome, Verification.methods, func.count().label("number"))
                .where(Verification.id >= since, Verification.outcome.is_not(None))
                .group_by(Verification.outcome, Verification.methods)
            ).all()
            to_proof = duration(_seconds(work, since, *_PROOF), PROOF_SECONDS)
            to_callback = duration(_seconds(work, since, *_CALLBACK), CALLBACK_SECONDS)
        outcomes, methods = Counter[str](), Counter[str]()
        for row in ended:
            outcomes[row.outcome] += row.number
            if row.outcome == VERIFIED:
                methods[row.methods.rpartition("+")[2]] += row.number
        whole = Funnel(*(sum(getattr(one, name) for one in by_journey.values()) for name, _count in Funnel().stages))
        return Figures(
            period,
            now,
            whole,
            by_journey,
            dict(sorted(outcomes.items())),
            dict(sorted(methods.items())),
            to_proof,
            to_callback,
        )

    def checklist(self) -> Checklist:
        """Report what is already set up."""
        snapshot = self._journeys.current()
        journeys = [now.config for now in snapshot.journeys.values()]
        needs_channel = not journeys or any(
            method in CARRIES for journey in journeys for step in journey.verify_steps for method in step.methods
        )
        with self._transactions.read() as work:
            has_customers = work.execute(select(CustomerRow.id).limit(1)).first() is not None
            has_verified = any(work.execute(one.limit(1)).first() for one in (_VERIFIED, _DRIVEN))
        return Checklist(
            has_channel=any(map(snapshot.may_use, snapshot.channels.values())) or not needs_channel,
            has_customers=has_customers,
            has_journey=any(map(snapshot.is_open, journeys)),
            has_verified=has_verified,
        )

    def locked(self) -> list[LockedCustomer]:
        """Return the first twenty customers who cannot use a method now because of wrong tries."""
        with self._transactions.read() as work:
            found = tries.locked_customers(work, self._journeys.current(), LOCKED_LISTED)
        return [LockedCustomer(row, customer_id, count.method, until) for row, customer_id, count, until in found]


def _funnels(work: Work, since: str) -> dict[str, Funnel]:
    is_verified = Verification.outcome == VERIFIED
    is_answered = and_(is_verified, Delivery.state == DeliveryState.ACCEPTED)

    def count(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.sum(case((condition, 1), else_=0))

    rows = work.execute(
        select(
            Verification.slug,
            func.count().label("began"),
            func.count(Verification.identifier_key).label("named"),
            count(Verification.sends > 0).label("sent"),
            count(is_verified).label("verified"),
            count(is_answered).label("answered"),
        )
        .outerjoin(Delivery, and_(Delivery.verification_id == Verification.id, Delivery.kind == CALLBACK))
        .where(Verification.id >= since)
        .group_by(Verification.slug)
        .order_by(Verification.slug)
    )
    return {row.slug: Funnel(row.began, row.named, row.sent, row.verified, row.answered) for row in rows}


_PROOF = (Verification.began_at, Verification.ended_at, Verification.id, Verification.outcome == VERIFIED)
_ACCEPTED = and_(Delivery.kind == CALLBACK, Delivery.state == DeliveryState.ACCEPTED)
_CALLBACK = (Delivery.created_at, Delivery.ended_at, Delivery.id, _ACCEPTED)


def _seconds(work: Work, since: str, begin: Any, end: Any, key: Any, when: Any) -> list[float]:
    spans = select(begin.label("begin"), end.label("end")).where(key >= since, when).order_by(key.desc())
    rows = work.execute(spans.limit(SAMPLE))
    return [(row.end - row.begin).total_seconds() for row in rows if row.end is not None]


def duration(seconds: Sequence[float], ends: Sequence[float]) -> Duration | None:
    """Return the median and 95th percentile of a sample, and its counts by ``ends``; None for an empty sample."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    counts = [0] * (len(ends) + 1)
    for one in ordered:
        counts[bisect_left(ends, one)] += 1
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Duration(statistics.median(ordered), p95, tuple(ends), tuple(counts))
