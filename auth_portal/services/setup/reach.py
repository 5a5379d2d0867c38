"""Reach: how many customers can pass each step of a journey, what stops the others, and who they are.

The directory is counted for all journeys at once (``census``) and every journey worked out from that count by the one
rule of ``road``. A count of a large directory takes longer than a page may, so it is made beside the request: a page
shows the newest one there is, and says how old it is, or that the first is being made. Counts nothing that moves from
minute to minute: messages that a phone was sent lately, a provider that is down for a moment.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from auth_portal.clock import Clock
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.methods import CARRIES
from auth_portal.services.channel_usage import most_today, used_today
from auth_portal.services.config.journey import JourneyLimits
from auth_portal.services.journeys import Journeys, Snapshot
from auth_portal.services.setup import census
from auth_portal.services.setup.census import Census
from auth_portal.services.setup.passages import Passage, passages_of
from auth_portal.services.setup.road import Obstacle, Road, Standing, Trait
from auth_portal.services.setup.walk import Walk
from auth_portal.store.db import Database
from auth_portal.store.models import ChannelState

PAGE_SIZE = 50
SEARCHES = 10  # pieces that one page of a list may look through in vain: then it is short, and "More" goes on
KEPT_SECONDS = 60  # how long a process keeps a count of the directory
PATIENCE_SECONDS = 0.05  # how long a page waits for a count: a small directory needs no longer


@dataclass(frozen=True)
class Stop:
    """One reason, and how many it stops; of phones in countries that no SMS goes to, how many are of which."""

    obstacle: Obstacle
    people: int
    countries: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StepReach:
    """One step: who comes to it, and what stops those who cannot pass, the most first."""

    number: int
    kind: str
    ways: tuple[str, ...]
    arriving: int
    stops: tuple[Stop, ...]

    @property
    def lost(self) -> int:
        """How many come to this step and cannot pass it."""
        return sum(stop.people for stop in self.stops)

    @property
    def passing(self) -> int:
        """How many go on."""
        return self.arriving - self.lost


@dataclass(frozen=True)
class Cap:
    """A channel whose day is too short for all: it may send so many by links of this journey, to so many customers."""

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
    """How far the customers of a portal get in one journey. Without ``counted_at`` the first count is being made."""

    slug: str
    name: str
    is_open: bool
    closed_ways: Mapping[str, tuple[str, ...]]  # methods that no channel carries, and the channels that are off
    sms_channel: str
    troubles: tuple[Trouble, ...]
    counted_at: datetime | None = None
    is_old: bool = False
    total: int = 0
    disabled: int = 0
    passing: int = 0
    steps: tuple[StepReach, ...] = ()
    caps: tuple[Cap, ...] = ()
    unknown_countries: int = 0  # phones whose country is not known yet; they are counted as if SMS could go there

    @property
    def lost(self) -> int:
        """How many cannot pass, whatever the reason."""
        return self.total - self.passing


@dataclass(frozen=True)
class Unreached:
    """A customer who cannot pass, and what stops them."""

    row: str
    customer_id: str
    obstacle: Obstacle


@dataclass(frozen=True)
class Unreacheds:
    """A page of them; behind ``after`` there may be more. None can be told before the first count is made."""

    people: tuple[Unreached, ...] = ()
    after: str = ""
    is_counted: bool = True


class Reaches:
    """Counts the directory and holds journeys against it."""

    def __init__(self, database: Database, clock: Clock, journeys: Journeys) -> None:
        self._database = database
        self._clock = clock
        self._journeys = journeys
        self._kept: Census | None = None
        self._counting: threading.Thread | None = None
        self._lock = threading.Lock()

    def reach(self, slug: str) -> Reach:
        """How many customers can pass each step of a journey as it is live now. Raises NotFound."""
        snapshot, now = self._journeys.current(), self._clock()
        road = Road(snapshot.journey(slug).config, snapshot)
        counted = self._census(with_shared=road.needs_own)
        with self._database.read() as connection:
            reach = _without_count(connection, road)
            if counted is None:
                return reach
            caps = _caps(connection, road, counted.groups, now)
        ends = Counter[Obstacle | None]()
        for standing, people in counted.groups.items():
            ends[road.obstacle(standing)] += people
        return replace(
            reach,
            counted_at=counted.counted_at,
            is_old=not self._is_fresh(counted),
            total=ends.total(),
            disabled=sum(people for found, people in ends.items() if found is not None and found.step == 0),
            passing=ends[None],
            steps=tuple(_steps(road, counted.groups)),
            caps=caps,
            unknown_countries=_unknown_countries(road, counted.groups),
        )

    def unreached(self, slug: str, key: str = "", after: str = "") -> Unreacheds:
        """Customers who cannot pass, all or those whom the obstacle of this key stops. Raises NotFound."""
        snapshot = self._journeys.current()
        road = Road(snapshot.journey(slug).config, snapshot)
        counted = self._census(with_shared=road.needs_own)
        if counted is None:
            return Unreacheds(is_counted=False)
        standings = (
            standing if road.needs_own else replace(standing, shared=frozenset()) for standing in counted.groups
        )
        wanted = {standing for standing in standings if _is_of(road.obstacle(standing), key)}
        with self._database.read() as connection:
            walk = Walk(connection, self._clock(), bounds(snapshot), wanted, with_shared=road.needs_own)
            return _page(walk, road, key, after)

    def passages(self, row: str) -> tuple[Passage, ...]:
        """Which journeys a customer can pass, those that are open first. Raises NotFound for nobody."""
        snapshot, now = self._journeys.current(), self._clock()
        with self._database.read() as connection:
            return passages_of(connection, snapshot, row, now)

    # -- the count ------------------------------------------------------------------------------------------------

    def _is_fresh(self, counted: Census) -> bool:
        return self._clock() - counted.counted_at < timedelta(seconds=KEPT_SECONDS)

    def _census(self, *, with_shared: bool) -> Census | None:
        """The newest count, made anew beside where it is old; None where none will do yet."""
        kept = self._kept
        if kept is None or not self._is_fresh(kept) or (with_shared and not kept.has_shared):
            self._count_beside(with_shared=with_shared)
            kept = self._kept
        return kept if kept is not None and (kept.has_shared or not with_shared) else None

    def _count_beside(self, *, with_shared: bool) -> None:
        with self._lock:  # impatient reloads wait for one count instead of each making its own
            if self._counting is None or not self._counting.is_alive():
                snapshot = self._journeys.current()
                with_shared = with_shared or any(
                    Road(journey.config, snapshot).needs_own for journey in snapshot.journeys.values()
                )
                arguments = (bounds(snapshot), with_shared)
                self._counting = threading.Thread(target=self._count, args=arguments, name="census", daemon=True)
                self._counting.start()
            counting = self._counting
        counting.join(PATIENCE_SECONDS)

    def _count(self, narrowest: JourneyLimits, with_shared: bool) -> None:
        try:
            with self._database.read() as connection:
                self._kept = census.count(connection, self._clock(), narrowest, with_shared=with_shared)
        except Exception:
            logging.getLogger("auth_portal").exception("census_fault")


def bounds(snapshot: Snapshot) -> JourneyLimits:
    """The narrowest limits of wrong tries that any journey has: whoever is below these is locked nowhere."""
    limits = [journey.config.limits for journey in snapshot.journeys.values()] or [JourneyLimits()]
    return JourneyLimits(
        credential_tries_day=min(limit.credential_tries_day for limit in limits),
        credential_tries_total=min(limit.credential_tries_total for limit in limits),
    )


def _without_count(connection: Connection, road: Road) -> Reach:
    channels = {channel.name: channel for channel in _channels(road).values()}
    failing = select(ChannelState.name, ChannelState.reason, ChannelState.needs_admin).where(
        ChannelState.name.in_(list(channels)), ChannelState.failures_in_row > 0
    )
    return Reach(
        slug=road.journey.slug,
        name=road.journey.name,
        is_open=road.snapshot.is_open(road.journey),
        closed_ways=road.closed_ways(),
        sms_channel=road.sms_channel,
        troubles=tuple(Trouble(*row) for row in connection.execute(failing.order_by(ChannelState.name))),
    )


def _channels(road: Road) -> dict[str, ChannelConfig]:
    """The channel of each kind of message that the journey sends."""
    carried = sorted({CARRIES[method] for method in road.methods if method in CARRIES})
    found = {carries: road.snapshot.channel_for(road.journey, carries) for carries in carried}
    return {carries: channel for carries, channel in found.items() if channel is not None}


def _steps(road: Road, groups: Mapping[Standing, int]) -> Iterable[StepReach]:
    """Each step with those who come to it."""
    here = {standing: people for standing, people in groups.items() if standing.traits & Trait.ACTIVE}
    for number, ways in enumerate((road.journey.first_step.by, *road.ways), 1):
        arriving, stops, countries = sum(here.values()), Counter[Obstacle](), dict[Obstacle, Counter[str]]()
        for standing, people in list(here.items()):
            obstacle = road.obstacle(standing)
            if obstacle is None or obstacle.step != number:
                continue
            del here[standing]
            stops[obstacle] += people
            if "foreign_phone" in obstacle.whys:
                countries.setdefault(obstacle, Counter())[standing.country or ""] += people
        yield StepReach(
            number=number,
            kind="identify" if number == 1 else "verify",
            ways=tuple(ways),
            arriving=arriving,
            stops=tuple(
                Stop(obstacle, people, dict(countries.get(obstacle, Counter()).most_common()))
                for obstacle, people in stops.most_common()
            ),
        )


def _caps(connection: Connection, road: Road, groups: Mapping[Standing, int], now: datetime) -> tuple[Cap, ...]:
    """Where fewer messages may leave on one day than customers could ask for, by channel and country (R12)."""
    found: list[Cap] = []
    for carries, channel in _channels(road).items():
        method = next(method for method, kind in CARRIES.items() if kind == carries)
        if channel.daily_cap is None:
            continue
        could = Counter[str]()
        for standing, people in groups.items():
            if standing.traits & Trait.ACTIVE and not road.why_not(method, standing):
                could[(standing.country or "") if carries == "sms" else ""] += people
        used = used_today(connection, channel, now)
        a_day = most_today(channel.daily_cap, is_ticketed=road.is_ticketed)
        found += [
            Cap(channel.name, carries, country, a_day, used.get(country, 0), people)
            for country, people in could.most_common()
            if people > a_day
        ]
    return tuple(found)


def _unknown_countries(road: Road, groups: Mapping[Standing, int]) -> int:
    channel = _channels(road).get("sms")
    if channel is None or not channel.countries:
        return 0
    wanted = Trait.ACTIVE | Trait.PHONE
    return sum(
        people for standing, people in groups.items() if standing.traits & wanted == wanted and standing.country is None
    )


def _is_of(obstacle: Obstacle | None, key: str) -> bool:
    return obstacle is not None and key in ("", obstacle.key)


def _page(walk: Walk, road: Road, key: str, after: str) -> Unreacheds:
    people: list[Unreached] = []
    searched = 0
    for step in walk.steps(after):
        obstacle = road.obstacle(step.found.standing) if step.found is not None else None
        if step.found is not None and obstacle is not None and _is_of(obstacle, key):
            if len(people) == PAGE_SIZE:
                return Unreacheds(tuple(people), after)
            people.append(Unreached(step.found.row, step.found.customer_id, obstacle))
        after = step.place
        searched += step.found is None
        if searched == SEARCHES:
            return Unreacheds(tuple(people), after)
    return Unreacheds(tuple(people))
