"""Reach: how many customers can pass each step of a journey, what stops the others, and who they are.

The directory is counted for all journeys at once (``census``), and each journey is computed from that count by the
rule of ``route``. Counting a large directory takes longer than a page may, so a thread does it: a page shows the newest
count with its age, or that the first one is under way. What changes from minute to minute is not counted, such as the
messages that a phone got lately.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import select

from auth_portal.errors import NotFound
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.methods import CARRIES
from auth_portal.services.config.channel import most_today, used_today
from auth_portal.services.config.journey import JourneyLimits
from auth_portal.services.config.snapshot import Journeys, Snapshot
from auth_portal.services.directory.batches import count_lines
from auth_portal.services.limits import destination_limits
from auth_portal.services.reach import census
from auth_portal.services.reach.census import Census, Walk
from auth_portal.services.reach.route import DISABLED, Obstacle, Route, Standing, Trait
from auth_portal.services.verification.tries import narrowest, opens_at
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import ChannelState, CustomerRow
from auth_portal.store.models import Counter as CounterRow

PAGE_SIZE = 50
SEARCHES = 10  # pieces that one page of a list may search in vain: then it is short, and "More" goes on
CACHE_SECONDS = 60  # how long a process uses a count of the directory
PATIENCE_SECONDS = 0.05  # how long a page waits for a count: a small directory needs no longer
LINES_SECONDS = 900  # how long a process uses a count of landlines and the like
LINES_LOOKED_AT = 10_000  # phone numbers, about 0.5 s of one core; of more customers it is an estimate
PHONE_HOLDER = Trait.ACTIVE | Trait.PHONE


@dataclass(frozen=True)
class Stop:
    """One obstacle, and how many customers it stops; for phones in countries without SMS, how many per country."""

    obstacle: Obstacle
    people: int
    countries: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StepReach:
    """One step: how many come to it, and what stops those who cannot pass, the largest group first."""

    number: int
    kind: str
    choices: tuple[str, ...]  # kinds of identifiers, or methods
    arriving: int
    stops: tuple[Stop, ...]

    @property
    def lost(self) -> int:
        """Return how many come to this step and cannot pass it."""
        return sum(stop.people for stop in self.stops)

    @property
    def passing(self) -> int:
        """Return how many go on."""
        return self.arriving - self.lost


@dataclass(frozen=True)
class Cap:
    """A daily cap that is too small: a day's messages for links of this journey, and the customers who could ask."""

    channel: str
    carries: str
    country: str
    a_day: int
    used: int
    people: int


@dataclass(frozen=True)
class Trouble:
    """A channel of the journey that fails now, and what its provider said."""

    channel: str
    reason: str
    needs_admin: bool


@dataclass(frozen=True)
class Reach:
    """How far customers get in one journey. Without ``counted_at`` the first count is still under way."""

    slug: str
    name: str
    is_open: bool
    closed_methods: Mapping[str, tuple[str, ...]]  # methods that no channel carries, and the channels that are off
    sms_channel: str
    troubles: tuple[Trouble, ...]
    counted_at: datetime | None = None
    is_old: bool = False
    total: int = 0
    disabled: Stop = Stop(DISABLED, 0)
    passing: int = 0
    steps: tuple[StepReach, ...] = ()
    caps: tuple[Cap, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)  # by kind, phones to which a code by SMS may never come
    is_estimate: bool = False  # they were estimated from a sample
    unknown_countries: int = 0  # phones whose country is not known yet; they are counted as if SMS could go there

    @property
    def lost(self) -> int:
        """Return how many cannot pass, for whatever reason."""
        return self.total - self.passing


@dataclass(frozen=True)
class Unreached:
    """A customer who cannot pass, and what stops them; until when, if a contact was changed lately."""

    row: str
    customer_id: str
    obstacle: Obstacle
    until: datetime | None = None


@dataclass(frozen=True)
class UnreachedPage:
    """A page of customers who cannot pass; after ``after`` there may be more. Empty until the first count is done."""

    people: tuple[Unreached, ...] = ()
    after: str = ""
    is_counted: bool = True


@dataclass(frozen=True)
class Lock:
    """A method that cannot be used, and until when; None if support must unlock it."""

    method: str
    until: datetime | None


@dataclass(frozen=True)
class Passage:
    """One journey for one customer."""

    slug: str
    name: str
    is_open: bool
    obstacle: Obstacle | None  # what stops them, or None
    locks: tuple[Lock, ...]  # by wrong tries
    rests: tuple[Lock, ...]  # no more messages until then
    waits: tuple[Lock, ...]  # to a contact that was changed lately: not the only proof until then
    by_ticket: bool  # a link with a ticket lets them pass anyway
    shared: tuple[str, ...]  # contacts that do not identify them here, because others have them too
    sms_channel: str


class Reaches:
    """Count the directory, and how far it gets in each journey."""

    def __init__(self, transactions: Transactions, journeys: Journeys) -> None:
        self._transactions = transactions
        self._journeys = journeys
        self._newest: Census | None = None
        self._lines: tuple[dict[str, int], int] = ({}, 0)
        self._lines_at: datetime | None = None
        self._counting: threading.Thread | None = None
        self._lock = threading.Lock()

    def reach(self, slug: str) -> Reach:
        """Return how many customers can pass each step of a journey as it is live now. Raise NotFound."""
        route, counted = self._route(slug)
        channels = _channels(route)
        names = [channel.name for channel in channels.values()]
        failing = select(ChannelState.name, ChannelState.reason, ChannelState.needs_admin).where(
            ChannelState.name.in_(names), ChannelState.failures_in_row > 0
        )
        with self._transactions.read() as work:
            troubles = work.execute(failing.order_by(ChannelState.name)).all()
            reach = Reach(
                slug=route.journey.slug,
                name=route.journey.name,
                is_open=route.snapshot.is_open(route.journey),
                closed_methods=route.closed_methods(),
                sms_channel=route.sms_channel,
                troubles=tuple(Trouble(row.name, row.reason, row.needs_admin) for row in troubles),
            )
            if counted is None:
                return reach
            caps = _caps(work, route, counted.groups)
        ends = Counter[Obstacle | None]()
        holders, without_country = 0, 0
        for standing, people in counted.groups.items():
            ends[route.obstacle(standing)] += people
            holders += people if PHONE_HOLDER in standing.traits else 0
            if standing.country is None and PHONE_HOLDER in standing.traits:
                without_country += people
        sms = channels.get("sms")
        lines, looked_at = self._lines
        share = max(1, holders / looked_at) if looked_at == LINES_LOOKED_AT else 1
        return replace(
            reach,
            counted_at=counted.counted_at,
            is_old=not self._is_fresh(counted),
            total=ends.total(),
            disabled=Stop(DISABLED, ends[DISABLED]),
            passing=ends[None],
            steps=tuple(_steps(route, counted.groups)),
            caps=caps,
            lines={kind: round(number * share) for kind, number in lines.items()} if sms is not None else {},
            is_estimate=share > 1,
            unknown_countries=without_country if sms is not None and sms.countries else 0,
        )

    def unreached(self, slug: str, key: str = "", after: str = "") -> UnreachedPage:
        """Return a page of customers who cannot pass, all or only those of one obstacle's key. Raise NotFound."""
        route, counted = self._route(slug)
        if counted is None:
            return UnreachedPage(is_counted=False)
        standings = (
            standing if route.needs_own else replace(standing, shared=frozenset()) for standing in counted.groups
        )
        wanted = {standing for standing in standings if _is_of(route.obstacle(standing), key)}
        with self._transactions.read() as work:
            its = work.connection, work.now, bounds(route.snapshot), wanted
            walk = Walk(*its, with_shared=route.needs_own, few_shared=counted.few_shared)
            people: list[Unreached] = []
            searched = 0
            for step in walk.steps(after):
                obstacle = route.obstacle(step.member.standing) if step.member is not None else None
                if step.member is not None and obstacle is not None and _is_of(obstacle, key):
                    if len(people) == PAGE_SIZE:
                        return UnreachedPage(tuple(people), after)
                    times = route.changed_methods(step.member.standing).values()
                    until = min(times, default=None) if obstacle.is_for_now else None
                    people.append(Unreached(step.member.row, step.member.customer_id, obstacle, until))
                after = step.place
                searched += step.member is None
                if searched == SEARCHES:
                    return UnreachedPage(tuple(people), after)
        return UnreachedPage(tuple(people))

    def passages(self, row: str) -> tuple[Passage, ...]:
        """Return which journeys a customer can pass, open ones first. Raise NotFound if there is no such customer."""
        with self._transactions.read() as work:
            return passages_of(work, self._journeys.current(), row)

    # --- The count

    def _route(self, slug: str) -> tuple[Route, Census | None]:
        """Return a journey as it is live now, and the newest count that suits it. Raise NotFound."""
        snapshot = self._journeys.current()
        route = Route(snapshot.journey(slug).config, snapshot, self._transactions.clock())
        return route, self._census(with_shared=route.needs_own)

    def _is_fresh(self, counted: Census) -> bool:
        return self._transactions.clock() - counted.counted_at < timedelta(seconds=CACHE_SECONDS)

    def _census(self, *, with_shared: bool) -> Census | None:
        """Return the newest count, and start another one if it is old; None if no suitable count is done yet."""
        newest = self._newest
        if newest is None or not self._is_fresh(newest) or (with_shared and not newest.has_shared):
            self._start_count(with_shared=with_shared)
            newest = self._newest
        return newest if newest is not None and (newest.has_shared or not with_shared) else None

    def _start_count(self, *, with_shared: bool) -> None:
        with self._lock:  # several requests wait for the same count
            if self._counting is None or not self._counting.is_alive():
                snapshot = self._journeys.current()
                now = self._transactions.clock()
                with_shared = with_shared or any(
                    Route(journey.config, snapshot, now).needs_own for journey in snapshot.journeys.values()
                )
                arguments = (bounds(snapshot), with_shared)
                self._counting = threading.Thread(target=self._count, args=arguments, name="census", daemon=True)
                self._counting.start()
            counting = self._counting
        counting.join(PATIENCE_SECONDS)

    def _count(self, narrowest: JourneyLimits, with_shared: bool) -> None:
        try:
            with self._transactions.read() as work:
                is_small = self._lines[1] < LINES_LOOKED_AT // 10
                if is_small or self._lines_at is None or work.now - self._lines_at > timedelta(seconds=LINES_SECONDS):
                    self._lines, self._lines_at = count_lines(work, LINES_LOOKED_AT), work.now
                self._newest = census.count(work.connection, work.now, narrowest, with_shared=with_shared)
        except Exception:
            logging.getLogger("auth_portal").exception("census_fault")


def bounds(snapshot: Snapshot) -> JourneyLimits:
    """Return the narrowest limits of wrong tries of any journey: a customer below these is locked nowhere."""
    return narrowest(now.config.limits for now in snapshot.journeys.values()) or JourneyLimits()


def _channels(route: Route) -> dict[str, ChannelConfig]:
    """Return the channel of each kind of message that the journey sends."""
    carried = sorted({CARRIES[method] for method in route.methods if method in CARRIES})
    found = {carries: route.snapshot.channel_for(route.journey, carries) for carries in carried}
    return {carries: channel for carries, channel in found.items() if channel is not None}


def _steps(route: Route, groups: Mapping[Standing, int]) -> Iterable[StepReach]:
    """Yield each step with those who come to it."""
    if route.journey.naming_step is None:
        return
    here = {standing: people for standing, people in groups.items() if standing.traits & Trait.ACTIVE}
    for number, choices in enumerate((route.journey.identifiers, *route.proofs), 1):
        arriving, stops, countries = sum(here.values()), Counter[Obstacle](), dict[Obstacle, Counter[str]]()
        for standing, people in list(here.items()):
            obstacle = route.obstacle(standing)
            if obstacle is None or obstacle.step != number:
                continue
            del here[standing]
            stops[obstacle] += people
            if "foreign_phone" in obstacle.whys:
                countries.setdefault(obstacle, Counter())[standing.country or ""] += people
        yield StepReach(
            number=number,
            kind="identify" if number == 1 else "verify",
            choices=tuple(choices),
            arriving=arriving,
            stops=tuple(
                Stop(obstacle, people, dict(countries.get(obstacle, Counter()).most_common()))
                for obstacle, people in stops.most_common()
            ),
        )


def _caps(work: Work, route: Route, groups: Mapping[Standing, int]) -> tuple[Cap, ...]:
    """Return the caps, by channel and country, below the number of customers who could ask for a code (R12)."""
    found: list[Cap] = []
    for carries, channel in _channels(route).items():
        method = next(method for method, kind in CARRIES.items() if kind == carries)
        if channel.daily_cap is None:
            continue
        could = Counter[str]()
        for standing, people in groups.items():
            if standing.traits & Trait.ACTIVE and not route.why_not(method, standing):
                could[(standing.country or "") if carries == "sms" else ""] += people
        used = used_today(work.connection, channel, work.now)
        a_day = most_today(channel.daily_cap, is_ticketed=route.is_ticketed)
        found += [
            Cap(channel.name, carries, country, a_day, used.get(country, 0), people)
            for country, people in could.most_common()
            if people > a_day
        ]
    return tuple(found)


def _is_of(obstacle: Obstacle | None, key: str) -> bool:
    return obstacle is not None and key in ("", obstacle.key)


# --- One customer


def passages_of(work: Work, snapshot: Snapshot, row: str) -> tuple[Passage, ...]:
    """Return a passage for every journey, open ones first. Raise NotFound if there is no such customer."""
    found = census.one(work.connection, row, work.now, bounds(snapshot))
    if found is None:
        raise NotFound("customer_unknown")
    keys = work.execute(
        select(CustomerRow.phone_key.label("sms"), CustomerRow.email_key.label("email")).where(CustomerRow.id == row)
    ).one()
    destinations = {carries: key for carries, key in keys._mapping.items() if key is not None}
    # How many messages were sent in each current window, and when the window ends.
    limits = [limit.key for key in destinations.values() for limit in destination_limits(key, 0, 0)]
    windows = select(CounterRow.key, CounterRow.events, CounterRow.ends_at)
    rows = work.execute(windows.where(CounterRow.key.in_(limits), CounterRow.ends_at > work.now))
    sent = {row.key: (row.events, row.ends_at) for row in rows}
    passages = [
        _passage(Route(journey.config, snapshot, work.now), found.standing, destinations, sent)
        for journey in snapshot.journeys.values()
    ]
    return tuple(sorted(passages, key=lambda passage: (not passage.is_open, passage.name)))


def _passage(
    route: Route, standing: Standing, destinations: Mapping[str, str], sent: Mapping[str, tuple[int, datetime]]
) -> Passage:
    obstacle, journey = route.obstacle(standing), route.journey
    by_ticket = replace(route, is_ticketed=True)
    locking = [tries for tries in standing.spent if tries.method in route.methods and route.closes(tries)]
    shared = set() if route.is_matched else set(journey.identifiers) & standing.shared
    rests = []
    for method, carries in CARRIES.items():
        if method not in route.methods or carries not in destinations:
            continue
        bounds = journey.limits
        most = destination_limits(destinations[carries], bounds.destination_hour, bounds.destination_day)
        full = [sent[limit.key][1] for limit in most if limit.key in sent and sent[limit.key][0] >= limit.maximum]
        if full:
            rests.append(Lock(method, max(full)))
    return Passage(
        slug=journey.slug,
        name=journey.name,
        is_open=route.snapshot.is_open(journey),
        obstacle=obstacle,
        locks=tuple(Lock(tries.method, opens_at(tries, journey.limits)) for tries in locking),
        rests=tuple(rests),
        waits=tuple(Lock(method, until) for method, until in route.changed_methods(standing).items()),
        by_ticket=obstacle is not None and by_ticket.obstacle(standing) is None,
        shared=tuple(sorted(shared)),
        sms_channel=route.sms_channel,
    )
