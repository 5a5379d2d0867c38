"""Which journeys one customer can pass, and why not: what support needs when the customer calls.

By the rule of ``road``, as every count and list; and beside it what moves from hour to hour, which no count tells: a
phone or mailbox that has been sent as many messages as may go there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, select

from auth_portal.errors import NotFound
from auth_portal.methods import CARRIES
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.journeys import Snapshot
from auth_portal.services.limits import destination_limits
from auth_portal.services.setup import census
from auth_portal.services.setup.road import Obstacle, Road, Spent, Standing
from auth_portal.store.models import Counter, CustomerRow


@dataclass(frozen=True)
class Lock:
    """A method that is closed, and when it opens by itself; None where support must open it."""

    method: str
    until: datetime | None


@dataclass(frozen=True)
class Passage:
    """One journey for one person."""

    slug: str
    name: str
    is_open: bool
    obstacle: Obstacle | None  # what stops them, or None
    locks: tuple[Lock, ...]  # by wrong tries
    rests: tuple[Lock, ...]  # no more messages until then
    by_ticket: bool  # a link with a ticket lets them in all the same
    shared: tuple[str, ...]  # contacts that do not name them here, because others have them too
    sms_channel: str


def passages_of(connection: Connection, snapshot: Snapshot, row: str, now: datetime) -> tuple[Passage, ...]:
    """Every journey, those that are open first. Raises NotFound for nobody."""
    found = census.one(connection, row, now)
    if found is None:
        raise NotFound("customer_unknown")
    keys = connection.execute(
        select(CustomerRow.phone_key.label("sms"), CustomerRow.email_key.label("email")).where(CustomerRow.id == row)
    ).one()
    destinations = {carries: key for carries, key in keys._mapping.items() if key is not None}
    sent = _sent(connection, destinations, now)
    passages = [
        _passage(Road(journey.config, snapshot), found.standing, destinations, sent)
        for journey in snapshot.journeys.values()
    ]
    return tuple(sorted(passages, key=lambda passage: (not passage.is_open, passage.name)))


def _sent(connection: Connection, destinations: Mapping[str, str], now: datetime) -> dict[str, tuple[int, datetime]]:
    """How many messages were sent in the windows under way, and when each window ends."""
    keys = [limit.key for key in destinations.values() for limit in destination_limits(key, 0, 0)]
    rows = select(Counter.key, Counter.events, Counter.ends_at).where(Counter.key.in_(keys), Counter.ends_at > now)
    return {row.key: (row.events, row.ends_at) for row in connection.execute(rows)}


def _passage(
    road: Road, standing: Standing, destinations: Mapping[str, str], sent: Mapping[str, tuple[int, datetime]]
) -> Passage:
    obstacle, journey = road.obstacle(standing), road.journey
    by_ticket = replace(road, is_ticketed=True)
    shared = set() if road.is_matched else set(journey.first_step.by) & standing.shared
    return Passage(
        slug=journey.slug,
        name=journey.name,
        is_open=road.snapshot.is_open(journey),
        obstacle=obstacle,
        locks=tuple(_locks(road, standing.spent)),
        rests=tuple(_rests(road, journey, destinations, sent)),
        by_ticket=obstacle is not None and by_ticket.obstacle(standing) is None,
        shared=tuple(sorted(shared)),
        sms_channel=road.sms_channel,
    )


def _locks(road: Road, spent: Iterable[Spent]) -> Iterable[Lock]:
    for tries in spent:
        if tries.method in road.methods and road.closes(tries):
            yield Lock(tries.method, road.ends_at(tries))


def _rests(
    road: Road, journey: JourneyConfig, destinations: Mapping[str, str], sent: Mapping[str, tuple[int, datetime]]
) -> Iterable[Lock]:
    for method, carries in CARRIES.items():
        if method not in road.methods or carries not in destinations:
            continue
        most = destination_limits(
            destinations[carries], journey.limits.destination_hour, journey.limits.destination_day
        )
        full = [sent[limit.key][1] for limit in most if limit.key in sent and sent[limit.key][0] >= limit.maximum]
        if full:
            yield Lock(method, max(full))
