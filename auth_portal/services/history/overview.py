"""The home page: how verifications went in a day, a week or a month, and what an installation still lacks. Reads only.

The figures are read from the counts of each hour, and so cost the same however many verifications are stored. What is
counted of a verification counts for the hour in which it began, so that its parts add up: of those that began in an
hour, these are the ones that ended, and how. An hour begins with the hour of the clock in UTC, a week with a quarter of
a day there and a month with a day: housekeeping adds up the counts of both once they stand.
"""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from sqlalchemy import JSON, DateTime, Integer, Select, Text, bindparam, case, cast, func, or_, select, text

from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.verification import tries
from auth_portal.store.db import Transactions, Work, first_id, hour_of
from auth_portal.store.models import (
    ALL_HOURS,
    HAS_PHONE,
    RARE_KIND,
    VERIFIED,
    Admin,
    AlertRow,
    ApiKeyRow,
    AuditEvent,
    ChannelState,
    CustomerRow,
    DeliveryState,
    HourlyCount,
    Verification,
    live_ids,
)
from auth_portal.telemetry import BUCKET, BY_POINT, BY_RANGE, METRICS, ONE_HOUR, SUMMED, Block

HOUR = timedelta(hours=1)
KEY_ENDS_SOON = timedelta(days=14)
FEW = 20  # verifications that ended, below which a share says nothing
MOST_COUNTED = 10_000  # rows that a setting touches
LOCKED_LISTED = 20
NEWEST = 5_000  # verifications, among which one is looked for that an older version did not count
# How far a verification got. ``Endings`` counts the furthest one; a verification has passed those before it too.
STAGES = ("began", "named", "chose", "code", "proved")


class Range(NamedTuple):
    """A range of hours up to the present one, drawn in points of several hours, and compared with an earlier one."""

    hours: int
    point: int  # hours
    earlier: int  # hours that the other range lies before it

    def since(self, at: datetime) -> datetime:
        """Return the beginning of the range at a time: where points have several hours, the last is not over yet."""
        hour = hour_of(at)
        return hour + (self.point - hour.hour % self.point - self.hours) * HOUR


RANGES: Mapping[str, Range] = {"day": Range(24, 1, 168), "week": Range(168, 6, 168), "month": Range(720, 24, 720)}
CACHE_SECONDS = {"day": 5.0, "week": 60.0, "month": 600.0}
_MARKED = select(HourlyCount.hour).where(
    HourlyCount.hour.in_(bindparam("hours", expanding=True)),
    HourlyCount.name == bindparam("mark"),
    HourlyCount.labels == "[]",
)
_TOPS = tuple(part * 10**power for power in range(12) for part in (4, 8, 12, 20, 32))
# For how long advice rests that an owner puts off: of a failing channel, an ending key and a cap, not until too late.
ADVICE_RESTS = {"single_channel": timedelta(days=7), "key": timedelta(days=3), "cap": timedelta(days=1)}
ADVICE_RESTS_USUALLY = timedelta(days=30)
_PUT_OFF = "advice_put_off"  # the audit event, which is also the record
SETTLED = frozenset({DeliveryState.ACCEPTED, DeliveryState.REFUSED, DeliveryState.UNCONFIRMED, DeliveryState.GIVEN_UP})
# How many deliveries were accepted and how many failed, by hour, and how long they took.
_SENT_TIMES = ("callback_seconds", "message_seconds")
_IN_RANGE = (HourlyCount.hour >= bindparam("since"), HourlyCount.hour < bindparam("until"))


def _ended_as(*states: str) -> Any:
    """Return the sum of the deliveries that ended in one of these states; the state is the second of three labels."""
    is_one = or_(*(HourlyCount.labels.contains(f', "{state}", ') for state in states))
    return func.sum(case((is_one, HourlyCount.value), else_=0))


_ENDED = (
    select(HourlyCount.hour, _ended_as(DeliveryState.ACCEPTED), _ended_as(*sorted(SETTLED - {DeliveryState.ACCEPTED})))
    .where(*_IN_RANGE, HourlyCount.name == "deliveries_ended")
    .group_by(HourlyCount.hour)
)
_SENT_SUMS = (
    select(HourlyCount.name, HourlyCount.labels, func.sum(HourlyCount.value))
    .where(*_IN_RANGE, HourlyCount.name.in_(bindparam("names", expanding=True)))
    .group_by(HourlyCount.name, HourlyCount.labels)
)
_NEWEST = select(Verification.outcome).order_by(Verification.id.desc()).limit(NEWEST).subquery()
_VERIFIED = select(_NEWEST.c.outcome).where(_NEWEST.c.outcome == VERIFIED)
_EVER = select(HourlyCount.value).where(HourlyCount.hour == ALL_HOURS, HourlyCount.name == "verifications_ended")
_EVER = _EVER.where(HourlyCount.labels.contains(f', "{VERIFIED}", '))
# A test drive whose chat continued, by its audit event; RARE_KIND names the index.
_DRIVEN = select(AuditEvent.id).where(text(RARE_KIND), AuditEvent.kind == "drive_passed")


class Spread(NamedTuple):
    """Within how many seconds half, and 95 of 100, were done: read off the counts of a histogram.

    None stands for longer than its last end, ``longest``.
    """

    half: float | None
    most: float | None
    longest: float


class FunnelStage(NamedTuple):
    """How many verifications got as far as a stage, and how many left before it."""

    name: str
    reached: int
    lost: int


class Point(NamedTuple):
    """A point of the chart: its beginning, and what began then; ``earlier`` is the verified ones of the other range."""

    at: datetime
    begun: int
    verified: int
    earlier: int


class DeliveryPoint(NamedTuple):
    """A point of the chart of deliveries: its beginning, and how many were accepted and how many failed then."""

    at: datetime
    accepted: int
    failed: int


@dataclass(frozen=True)
class DeliveryFigures:
    """What became of the deliveries of a range, of all kinds. One that failed and was retried counts twice.

    ``to_chat`` is from the end of a verification to the acceptance of its result, ``to_provider`` from the request for
    a code to its acceptance; None where none was.
    """

    range: str
    at: datetime
    points: tuple[DeliveryPoint, ...]
    earlier_share: float | None  # of the range that it is compared with
    to_chat: Spread | None
    to_provider: Spread | None

    @property
    def accepted(self) -> int:
        """Return how many were accepted."""
        return sum(point.accepted for point in self.points)

    @property
    def failed(self) -> int:
        """Return how many were refused, given up or never confirmed."""
        return sum(point.failed for point in self.points)

    @property
    def share(self) -> float | None:
        """Return how many of 100 were accepted; None for too few to say."""
        return share_of(self.accepted, self.failed)

    @property
    def change(self) -> float | None:
        """Return the change of the share, in points; None where one of the two says nothing."""
        if self.share is None or self.earlier_share is None:
            return None
        return self.share - self.earlier_share

    @property
    def top(self) -> int:
        """Return a round number that no bar exceeds."""
        highest = max(point.accepted + point.failed for point in self.points)
        return int(next(top for top in _TOPS if top >= highest))


def share_of(good: int, bad: int) -> float | None:
    """Return how many of 100 were good; None for too few to say."""
    return 100 * good / (good + bad) if good + bad >= FEW else None


@dataclass(frozen=True)
class JourneyFigures:
    """How a journey went. ``done`` ended well: with a proof, or after every step where the journey asks for none."""

    slug: str
    begun: int
    ended: int
    done: int
    change: float | None  # of the share, in points, against the other range; None where one of them says nothing
    line: tuple[int, ...]  # verified, by point

    @property
    def share(self) -> float | None:
        """Return how many of 100 that ended were verified; None for too few to say."""
        return share_of(self.done, self.ended - self.done)


@dataclass(frozen=True)
class ChannelFigures:
    """What a channel's provider did with its messages. What never left the portal, or still waits, is left out."""

    name: str
    accepted: int
    refused: int
    countries: tuple[tuple[str, int], ...]  # that messages went to, most first; "" for email
    took: Spread | None  # from the request for a code to its acceptance
    line: tuple[int, ...]  # accepted, by point
    failed: tuple[int, ...]  # refused or never answered, by point

    @property
    def top(self) -> int:
        """Return a round number that no bar exceeds."""
        highest = max(map(sum, zip(self.line, self.failed, strict=True)))
        return int(next(top for top in _TOPS if top >= highest))

    @property
    def share(self) -> float | None:
        """Return how many of 100 messages were accepted; None without one."""
        settled = self.accepted + self.refused
        return 100 * self.accepted / settled if settled else None


@dataclass(frozen=True)
class Figures:
    """The figures of a range, of all journeys or of one. ``ended`` and ``verified`` are of journeys with a proof."""

    range: str
    slug: str
    at: datetime
    whole: JourneyFigures
    begun: int
    under_way: int
    other_share: float | None  # of the other range
    stages: tuple[FunnelStage, ...]  # of those that ended
    outcomes: Mapping[str, int]  # the most frequent first
    codes: Mapping[str, int]  # accepted, refused and not_sent: verifications that asked for a code
    to_proof: Spread | None
    to_chat: Spread | None
    points: tuple[Point, ...]
    top: int  # of the chart: a round number, which four parts divide
    journeys: tuple[JourneyFigures, ...]  # the most used first
    channels: tuple[ChannelFigures, ...]

    def place(self, moment: datetime) -> float | None:
        """Return where in the chart a moment lies, from 0 to 100; None outside it."""
        since = self.points[0].at
        until = since + RANGES[self.range].hours * HOUR
        return 100 * (moment - since) / (until - since) if since <= moment <= until else None


class Advice(NamedTuple):
    """What an admin could do next: ``kind`` is first_steps, single_channel, relay, cap, single_owner or key."""

    kind: str
    subject: str = ""  # the slug of a journey, or the name of a channel or a key
    of: str = ""  # the journey whose channel it is, the country of the cap, or the row of the key
    at: datetime | None = None  # when the key ends

    @property
    def rests(self) -> timedelta:
        """Return for how long it can be put off."""
        return ADVICE_RESTS.get(self.kind, ADVICE_RESTS_USUALLY)


class Ended(NamedTuple):
    """What is counted of verifications that ended.

    ``stage`` is of STAGES; in journeys that ask for no proof it is "done" after every step, else "".
    """

    slug: str
    place: int  # of the point of the chart
    outcome: str
    stage: str
    code: str  # accepted, refused, not_sent, or "" where none was asked for


class Took(NamedTuple):
    """What is counted of how long things took: in one bucket of a histogram."""

    metric: str
    of: str  # a journey or a channel
    outcome: str
    end: str


@dataclass
class RangeCounts:
    """What was counted in a range of hours, by the place of its points."""

    begun: Counter[tuple[str, int]] = field(default_factory=Counter)  # journey, point
    ended: Counter[Ended] = field(default_factory=Counter)  # with a proof to give
    unproved: Counter[Ended] = field(default_factory=Counter)  # in journeys that ask for none
    seconds: Counter[Took] = field(default_factory=Counter)
    messages: Counter[tuple[str, int, str, str]] = field(default_factory=Counter)  # channel, point, country, state

    def add(self, place: int, name: str, labels: tuple[str, ...], value: int) -> None:
        """Add a row of the counts."""
        match name, labels:
            case "verifications_began", (slug,):
                self.begun[slug, place] += value
            case "verification_stages", (slug, outcome, stage, code):
                ended = self.ended if stage in STAGES else self.unproved
                ended[Ended(slug, place, outcome, stage, code)] += value
            case "messages_ended", (channel, country, state) if state in SETTLED:
                self.messages[channel, place, country, state] += value
            case "messages_ended", _:
                pass
            case _, (of, *outcome, end):
                self.seconds[Took(name.removesuffix(BUCKET), of, "".join(outcome), end)] += value

    def of(self, slug: str) -> RangeCounts:
        """Return what is of one journey. Messages are not counted by journey."""
        return RangeCounts(
            begun=Counter({key: value for key, value in self.begun.items() if key[0] == slug}),
            ended=Counter({key: value for key, value in self.ended.items() if key.slug == slug}),
            unproved=Counter({key: value for key, value in self.unproved.items() if key.slug == slug}),
            seconds=Counter({key: value for key, value in self.seconds.items() if key.of == slug}),
        )

    def spread(self, metric: str, of: str | None = None) -> Spread | None:
        """Return how long things took, for one channel or for all; None if nothing was counted."""
        counts, outcomes = Counter[str](), {"", *self.successes}
        for took, value in self.seconds.items():
            if took.metric == metric and of in (None, took.of) and took.outcome in outcomes:
                counts[took.end] += value
        return spread(counts, METRICS[metric].ends)

    @property
    def successes(self) -> frozenset[str]:
        """Return the outcomes after which customers had proved who they are."""
        return frozenset(key.outcome for key in self.ended if key.stage == "proved")

    def journey(self, slug: str, of: Range, earlier: RangeCounts | None = None) -> JourneyFigures:
        """Return the figures of a journey of which these are the counts, "" for all that ask for a proof.

        They are compared with those of ``earlier``.
        """
        line, done, ended = [0] * (of.hours // of.point), 0, 0
        for key, value in (self.ended + self.unproved if slug else self.ended).items():
            ended += value
            if key.stage in ("proved", "done"):
                done += value
                line[key.place] += value
        found = JourneyFigures(slug, self.begun.total(), ended, done, None, tuple(line))
        other = earlier.journey(slug, of).share if earlier is not None else None
        if found.share is None or other is None:
            return found
        return replace(found, change=found.share - other)

    def stages(self) -> tuple[FunnelStage, ...]:
        """Return how many got as far as each stage, and how many of the verified ones the chat has an answer for."""
        furthest = Counter[str]()
        for key, value in self.ended.items():
            furthest[key.stage] += value
        reached = list(accumulate(furthest[stage] for stage in reversed(STAGES)))[::-1]
        successes = self.successes
        answered = (value for took, value in self.seconds.items() if took.outcome in successes)
        reached.append(min(sum(answered), reached[-1]))
        lost = [0, *(before - after for before, after in pairwise(reached))]
        return tuple(FunnelStage(*one) for one in zip((*STAGES, "answered"), reached, lost, strict=True))

    def points(self, earlier: RangeCounts, of: Range, at: datetime) -> tuple[Point, ...]:
        """Return the points of the chart, counted at a time; ``earlier`` is the other range."""
        begun, since = Counter[int](), of.since(at)
        for (_slug, place), value in self.begun.items():
            begun[place] += value
        verified, before = self.journey("", of).line, earlier.journey("", of).line
        return tuple(
            Point(since + place * of.point * HOUR, begun[place], verified[place], before[place])
            for place in range(of.hours // of.point)
        )

    def channels(self, of: Range) -> tuple[ChannelFigures, ...]:
        """Return the channels that messages were given to, by name."""
        found = []
        for name in sorted({channel for channel, *_rest in self.messages}):
            line, failed = [0] * (of.hours // of.point), [0] * (of.hours // of.point)
            countries, states = Counter[str](), Counter[str]()
            for (channel, place, country, state), value in self.messages.items():
                if channel == name:
                    states[state] += value
                    countries[country] += value
                    (line if state == DeliveryState.ACCEPTED else failed)[place] += value
            accepted, took = states[DeliveryState.ACCEPTED], self.spread("message_seconds", name)
            many = tuple(countries.most_common())
            refused = states.total() - accepted
            found.append(ChannelFigures(name, accepted, refused, many, took, tuple(line), tuple(failed)))
        return tuple(found)


@dataclass(frozen=True)
class Checklist:
    """What a portal needs before it can verify a customer, in the order in which it is set up."""

    has_country: bool  # with name, time zone and language; phone numbers are read by it
    has_channel: bool
    has_customers: bool
    has_journey: bool
    has_verified: bool

    @property
    def steps(self) -> tuple[bool, ...]:
        """Return which steps are done, in their order."""
        return self.has_country, self.has_channel, self.has_customers, self.has_journey, self.has_verified

    @property
    def is_done(self) -> bool:
        """Report whether every step is done."""
        return all(self.steps)


class AtStake(NamedTuple):
    """What risky settings touch, each counted up to ``most``: shown before they are changed."""

    of_country: int  # customers whose phone is of the default country
    verifications: int
    oldest: datetime | None  # when the first of them began
    oldest_event: datetime | None  # of the audit
    most: int = MOST_COUNTED


@dataclass(frozen=True)
class LockedCustomer:
    """A customer who cannot use a method because of too many wrong tries."""

    row: str
    customer_id: str
    method: str
    until: datetime | None  # None: until support unlocks it


class LockedCustomers(NamedTuple):
    """The first who are locked; there may be more unless it is ``all_of_them``."""

    listed: list[LockedCustomer]
    all_of_them: bool


class Overview:
    """Count what the home page shows."""

    def __init__(self, transactions: Transactions, journeys: Journeys) -> None:
        self._transactions = transactions
        self._journeys = journeys
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[float, datetime, RangeCounts, RangeCounts]] = {}
        self._sent: dict[str, tuple[float, DeliveryFigures]] = {}

    def figures(self, name: str, slug: str = "") -> Figures:
        """Return the figures of a range, of all journeys or of one, at most CACHE_SECONDS old.

        Raise KeyError for a range that is none of RANGES.
        """
        of = RANGES[name]
        with self._lock:  # one count at a time: the second request finds the count of the first
            counted_at, at, tally, earlier = self._cache.get(name, (0.0, None, None, None))
            if at is None or time.monotonic() - counted_at >= CACHE_SECONDS[name]:
                at, tally, earlier = self._count(of)
                self._cache[name] = time.monotonic(), at, tally, earlier
        assert tally is not None, "counted above"
        assert earlier is not None, "counted above"
        channels = tally.channels(of)
        if slug:
            tally, earlier = tally.of(slug), earlier.of(slug)
        slugs = sorted({key[0] for key in tally.begun} | {key.slug for key in (*tally.ended, *tally.unproved)})
        journeys = [tally.of(one).journey(one, of, earlier.of(one)) for one in slugs]
        outcomes, codes = Counter[str](), Counter[str]()
        for ended, value in tally.ended.items():
            outcomes[ended.outcome] += value
            codes[ended.code] += value
        return Figures(
            range=name,
            slug=slug,
            at=at,
            whole=tally.journey("", of, earlier),
            begun=tally.begun.total(),
            under_way=self._under_way(of.since(at), slug),
            other_share=earlier.journey("", of).share,
            stages=tally.stages(),
            outcomes=dict(outcomes.most_common()),
            codes={fate: codes[fate] for fate in ("accepted", "refused", "not_sent")},
            to_proof=tally.spread("proof_seconds"),
            to_chat=tally.spread("answer_seconds"),
            points=(points := tally.points(earlier, of, at)),
            top=next(top for top in _TOPS if top >= max(max(one.begun, one.verified, one.earlier) for one in points)),
            journeys=tuple(sorted(journeys, key=lambda one: -one.begun)),
            channels=channels,
        )

    def _count(self, of: Range) -> tuple[datetime, RangeCounts, RangeCounts]:
        """Count a range and the one that it is compared with, which ends with the whole hour of a week ago."""
        with self._transactions.read() as work:
            since, until = of.since(work.now), hour_of(work.now) + HOUR
            tally, back = _tally(work, since, until, of), of.earlier * HOUR
            return work.now, tally, _tally(work, since - back, until - back, of, is_earlier=True)

    def deliveries(self, name: str) -> DeliveryFigures:
        """Return what became of deliveries in a range, at most CACHE_SECONDS old. Raise KeyError as ``figures``."""
        of = RANGES[name]
        with self._lock:
            counted_at, found = self._sent.get(name, (0.0, None))
            if found is None or time.monotonic() - counted_at >= CACHE_SECONDS[name]:
                with self._transactions.read() as work:
                    found = _delivery_figures(work, name, of)
                self._sent[name] = time.monotonic(), found
        return found

    def _under_way(self, since: datetime, slug: str) -> int:
        live = select(func.count()).where(Verification.id.in_(live_ids(slug)), Verification.id >= first_id(since))
        with self._transactions.read() as work:
            return work.execute(live).scalar() or 0

    def last_accepted_at(self) -> datetime | None:
        """Return when a channel last accepted a message; it is noted once a minute."""
        with self._transactions.read() as work:
            found: datetime | None = work.execute(select(func.max(ChannelState.accepted_at))).scalar()
            return found

    def at_stake(self) -> AtStake:
        """Count what a change of the country, or of how long data is stored, touches."""
        region = self._journeys.current().portal.default_region
        phones = select(CustomerRow.id).where(
            CustomerRow.traits.in_(HAS_PHONE), CustomerRow.phone_country == (region or None)
        )
        with self._transactions.read() as work:

            def number(of: Select[Any]) -> int:
                return work.execute(select(func.count()).select_from(of.limit(MOST_COUNTED).subquery())).scalar() or 0

            return AtStake(
                number(phones) if region else 0,
                number(select(Verification.id)),
                work.execute(select(Verification.began_at).order_by(Verification.id).limit(1)).scalar(),
                work.execute(select(AuditEvent.at).order_by(AuditEvent.id).limit(1)).scalar(),
            )

    def older_than(self, days: Mapping[str, int]) -> Mapping[str, int]:
        """Count what a shorter time deletes, up to MOST_COUNTED: ``days`` are the times by their setting."""
        ids = {"retention.verifications_days": Verification.id, "retention.audit_days": AuditEvent.id}
        with self._transactions.read() as work:
            found = {
                key: select(ids[key]).where(ids[key] < first_id(work.now - timedelta(n))) for key, n in days.items()
            }
            return {
                key: work.execute(select(func.count()).select_from(of.limit(MOST_COUNTED).subquery())).scalar() or 0
                for key, of in found.items()
            }

    def checklist(self) -> Checklist:
        """Report what is already set up."""
        snapshot = self._journeys.current()
        journeys = [now.config for now in snapshot.journeys.values()]
        needs_channel = not journeys or any(journey.carried for journey in journeys)
        with self._transactions.read() as work:
            has_customers = work.execute(select(CustomerRow.id).limit(1)).first() is not None
            has_verified = any(work.execute(one.limit(1)).first() for one in (_EVER, _DRIVEN, _VERIFIED))
        return Checklist(
            has_country=bool(snapshot.portal.default_region),
            has_channel=any(map(snapshot.may_use, snapshot.channels.values())) or not needs_channel,
            has_customers=has_customers,
            has_journey=any(map(snapshot.is_open, journeys)),
            has_verified=has_verified,
        )

    def advice(self, done: Checklist) -> Advice | None:
        """Return the first thing to do next that was not put off, or None; ``done`` is what is set up."""
        with self._transactions.read() as work:
            resting = self._resting(work)
            return next((one for one in self._advices(work, done) if one[:3] not in resting), None)

    def put_off(self, kind: str, subject: str, of: str, admin_id: str) -> datetime | None:
        """Let a piece of advice rest. Return until when; None if there is no reason for it now."""
        done = self.checklist()
        with self._transactions.write() as work:
            found = next((one for one in self._advices(work, done) if one[:3] == (kind, subject, of)), None)
            if found is None:
                return None
            work.record(_PUT_OFF, admin_id=admin_id, advice=kind, subject=subject, of=of)
            return work.now + found.rests

    def _resting(self, work: Work) -> set[tuple[str, str, str]]:
        since = first_id(work.now - ADVICE_RESTS_USUALLY)
        events = select(AuditEvent.at, AuditEvent.facts).where(
            text(RARE_KIND), AuditEvent.kind == _PUT_OFF, AuditEvent.id >= since
        )
        found = set()
        for at, facts in work.execute(events):
            one = Advice(facts.get("advice", ""), facts.get("subject", ""), facts.get("of", ""))
            if work.now < at + one.rests:
                found.add(one[:3])
        return found

    def _advices(self, work: Work, done: Checklist) -> Iterator[Advice]:
        if not done.is_done:
            yield Advice("first_steps")
        snapshot = self._journeys.current()
        journeys = {slug: now.config for slug, now in snapshot.journeys.items() if snapshot.is_open(now.config)}
        failing = set(work.execute(select(ChannelState.name).where(ChannelState.failures_in_row > 0)).scalars())
        for slug, journey in journeys.items():
            for kind in sorted(journey.carried):
                carrying = [name for name in journey.channels if kind in snapshot.channels[name].message_kinds]
                if len(carrying) == 1 and carrying[0] in failing:
                    yield Advice("single_channel", carrying[0], slug)
        for slug, journey in journeys.items():
            if journey.is_unprotected:
                yield Advice("relay", slug)
        near = AlertRow.kind == "cap", AlertRow.ended_at.is_(None), AlertRow.subject.endswith(" 80%")
        for subject in work.execute(select(AlertRow.subject).where(*near).order_by(AlertRow.id)).scalars():
            name, *country, _share = subject.split()
            yield Advice("cap", name, "".join(country))
        if work.execute(select(func.count()).where(Admin.role == "owner", Admin.is_active)).scalar() == 1:
            yield Advice("single_owner")
        ends_soon = ApiKeyRow.expires_at.between(work.now, work.now + KEY_ENDS_SOON), ApiKeyRow.revoked_at.is_(None)
        ending = select(ApiKeyRow.id, ApiKeyRow.name, ApiKeyRow.expires_at).where(*ends_soon)
        for key in work.execute(ending.order_by(ApiKeyRow.expires_at)):
            yield Advice("key", key.name, key.id, key.expires_at)

    def locked(self) -> LockedCustomers:
        """Return the first twenty customers who cannot use a method now because of wrong tries."""
        with self._transactions.read() as work:
            found, is_whole = tries.locked_customers(work, self._journeys.current(), LOCKED_LISTED + 1)
        listed = [LockedCustomer(row, customer_id, count.method, until) for row, customer_id, count, until in found]
        return LockedCustomers(listed[:LOCKED_LISTED], is_whole and len(found) <= LOCKED_LISTED)


@lru_cache(10_000)
def _labels(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _tally(work: Work, since: datetime, until: datetime, of: Range, *, is_earlier: bool = False) -> RangeCounts:
    """Count a range; of an earlier one only what is compared."""
    tally = RangeCounts()
    by_point, by_range = (BY_POINT[-1:], ()) if is_earlier else (BY_POINT, BY_RANGE)
    for counted in _counted(work, since, until, of, by_point, by_range):
        tally.add(*counted)
    return tally


def _counted(
    work: Work, since: datetime, until: datetime, of: Range, by_point: Sequence[str], by_range: Sequence[str] = ()
) -> Iterator[tuple[int, str, tuple[str, ...], int]]:
    """Yield what was counted in a range: the place of the point, the name, the labels and the value.

    What is asked for by range has the place 0. Sums of many hours are read where there are some, or else the hours.
    """
    hours = {since + number * HOUR: number // of.point for number in range((until - since) // HOUR)}
    dialect = work.connection.dialect.name
    form = "%Y-%m-%d %H:%M:%S.%f" if dialect == "sqlite" else "%Y-%m-%d %H:%M:%S%z"  # as the database writes it
    for block, firsts in _blocks(work, hours, of):
        for names, has_points in ((by_point, True), (by_range, False)):
            if not (firsts and names):
                continue
            document = {f"{hour:{form}}": hours[hour] if has_points else 0 for hour in firsts}
            values = {"places": json.dumps(document), "names": [block.prefix + name for name in names]}
            for place, name, labels, value in work.execute(counting_by_place(dialect), values):
                yield place, name.removeprefix(block.prefix), _labels(labels), int(value)


def _blocks(work: Work, hours: Iterable[datetime], of: Range) -> Iterator[tuple[Block, Sequence[datetime]]]:
    """Yield as which blocks the hours of a range are to be read, with their beginnings: the longest with sums."""
    left = dict.fromkeys(hours)
    for block in SUMMED:
        is_whole = (block.hours - 1) * HOUR  # the last of an earlier range is not
        firsts = [hour for hour in left if block.begins_at(hour) and hour + is_whole in left]
        if of.point % block.hours or not firsts:
            continue
        found = work.execute(_MARKED, {"hours": firsts, "mark": block.mark}).scalars().all()
        yield block, found
        for first in found:
            for number in range(block.hours):
                del left[first + number * HOUR]
    yield ONE_HOUR, list(left)


@cache
def counting_by_place(dialect: str) -> Any:
    """Return the statement that adds up the counts of some hours by place: JSON has the place of each hour."""
    given: Any = bindparam("places", type_=Text())
    if dialect == "sqlite":
        places: Any = func.json_each(given).table_valued("key", "value", name="places")
        hour, place = places.c.key, places.c.value
    else:
        places = func.json_each_text(cast(given, JSON)).table_valued("key", "value", name="places")
        hour, place = cast(places.c.key, DateTime(timezone=True)), cast(places.c.value, Integer)
    return (
        select(place, HourlyCount.name, HourlyCount.labels, func.sum(HourlyCount.value))
        .select_from(places)
        .join(HourlyCount, HourlyCount.hour == hour)
        .where(HourlyCount.name.in_(bindparam("names", expanding=True)))
        .group_by(place, HourlyCount.name, HourlyCount.labels)
    )


def _delivery_figures(work: Work, name: str, of: Range) -> DeliveryFigures:
    """Count the deliveries that ended in a range, and of the one that it is compared with how many were accepted."""
    since, until, back = of.since(work.now), hour_of(work.now) + HOUR, of.earlier * HOUR
    accepted, failed, earlier = Counter[int](), Counter[int](), Counter[bool]()
    for hour, good, bad in work.execute(_ENDED, {"since": since, "until": until}):
        place = int((hour - since) / HOUR) // of.point
        accepted[place] += int(good)
        failed[place] += int(bad)
    for _hour, good, bad in work.execute(_ENDED, {"since": since - back, "until": until - back}):
        earlier[True] += int(good)
        earlier[False] += int(bad)
    seconds: dict[str, Counter[str]] = {metric: Counter() for metric in _SENT_TIMES}
    names = [metric + BUCKET for metric in _SENT_TIMES]
    for metric, labels, value in work.execute(_SENT_SUMS, {"since": since, "until": until, "names": names}):
        seconds[metric.removesuffix(BUCKET)][_labels(labels)[-1]] += int(value)
    places = range(of.hours // of.point)
    return DeliveryFigures(
        range=name,
        at=work.now,
        points=tuple(DeliveryPoint(since + one * of.point * HOUR, accepted[one], failed[one]) for one in places),
        earlier_share=share_of(earlier[True], earlier[False]),
        to_chat=spread(seconds["callback_seconds"], METRICS["callback_seconds"].ends),
        to_provider=spread(seconds["message_seconds"], METRICS["message_seconds"].ends),
    )


def spread(counts: Mapping[str, int], ends: tuple[float, ...]) -> Spread | None:
    """Return within how many seconds half and 95 of 100 were done, by counts for each end; None without any.

    Within a bucket, times are taken to lie evenly.
    """
    so_far = list(accumulate(counts.get(f"{end:g}", 0) for end in ends))
    total = so_far[-1] + counts.get("+Inf", 0)
    if not total:
        return None

    def within(part: float) -> float | None:
        place = bisect_left(so_far, part * total)
        if place == len(ends):
            return None
        before, begin = (so_far[place - 1], ends[place - 1]) if place else (0, 0.0)
        return begin + (ends[place] - begin) * (part * total - before) / (so_far[place] - before)

    return Spread(within(0.5), within(0.95), ends[-1])
