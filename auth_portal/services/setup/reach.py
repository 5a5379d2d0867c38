"""Reach: how many customers can pass each step of a journey, and who cannot.

The directory is counted once, by which of a few things each customer has (``Trait``); every journey is then worked out
from those counts, so a look costs one pass over the table however many steps there are. What the database cannot see
is not counted: the country of a phone number is sealed, and locks come and go.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntFlag
from typing import Any

from sqlalchemy import Column, ColumnElement, FromClause, Subquery, and_, case, func, literal, select

from auth_portal.clock import Clock
from auth_portal.methods import CARRIES
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.journeys import Journeys, Snapshot
from auth_portal.store.db import Database
from auth_portal.store.models import CustomerRow, table_of

PAGE_SIZE = 50
KEPT_SECONDS = 60  # how long a process keeps a count of the directory

_CUSTOMERS = table_of(CustomerRow)


class Trait(IntFlag):
    """What a customer has, as far as proving goes."""

    ACTIVE = 1
    PHONE = 2
    EMAIL = 4
    PASSWORD = 8
    LONG_PASSWORD = 16
    TOTP = 32
    OWN_PHONE = 64  # a phone that nobody else has: it names this customer
    OWN_EMAIL = 128


@dataclass(frozen=True)
class StepReach:
    """One step. ``lacking`` tells how many of those who came so far lack each method of the step."""

    number: int
    kind: str
    ways: tuple[str, ...]
    closed_ways: tuple[str, ...]  # methods that no channel carries now
    arriving: int
    passing: int
    lacking: Mapping[str, int]

    @property
    def lost(self) -> int:
        """How many come to this step and cannot pass it."""
        return self.arriving - self.passing


@dataclass(frozen=True)
class Reach:
    """How far the customers of a portal get in one journey."""

    slug: str
    name: str
    total: int
    disabled: int
    passing: int
    steps: tuple[StepReach, ...]
    counted_at: datetime
    has_countries: bool  # the SMS channel sends to some countries only, which is not counted here

    @property
    def lost(self) -> int:
        """How many cannot pass, whatever the reason."""
        return self.total - self.passing


@dataclass(frozen=True)
class Unreached:
    """A customer who cannot pass: the row, the customer ID, and the step where it ends (0: disabled)."""

    row: str
    customer_id: str
    step: int
    lacks: tuple[str, ...]


class Reaches:
    """Counts the directory and holds journeys against it."""

    def __init__(self, database: Database, clock: Clock, journeys: Journeys) -> None:
        self._database = database
        self._clock = clock
        self._journeys = journeys
        self._kept: dict[bool, tuple[datetime, Mapping[Trait, int]]] = {}
        self._counting = threading.Lock()  # impatient reloads wait for one count instead of each making its own

    def reach(self, slug: str) -> Reach:
        """How many customers can pass each step of a journey as it is live now. Raises NotFound."""
        snapshot = self._journeys.current()
        journey = snapshot.journey(slug).config
        counted_at, counts = self._counts(needs_own=_needs_own(journey))
        road = Road(journey, snapshot)
        sms = snapshot.channel_for(journey, "sms")
        return Reach(
            slug=journey.slug,
            name=journey.name,
            total=sum(counts.values()),
            disabled=sum(number for traits, number in counts.items() if not traits & Trait.ACTIVE),
            passing=sum(number for traits, number in counts.items() if road.ends_at(traits) is None),
            steps=tuple(road.steps(counts)),
            counted_at=counted_at,
            has_countries=sms is not None and bool(sms.countries) and "sms_code" in road.methods,
        )

    def unreached(self, slug: str, after: str = "") -> tuple[list[Unreached], str]:
        """Up to PAGE_SIZE customers who cannot pass, and the row to go on after ("" at the end). Raises NotFound."""
        snapshot = self._journeys.current()
        journey = snapshot.journey(slug).config
        road, needs_own = Road(journey, snapshot), _needs_own(journey)
        failing = [int(traits) for traits in _possible(needs_own=needs_own) if road.ends_at(traits) is not None]
        names = ("phone_key", "email_key") if needs_own else ()
        traits = _traits({name: _is_alone_with(_CUSTOMERS.c[name]) for name in names}).label("traits")
        found = select(_CUSTOMERS.c.id, _CUSTOMERS.c.customer_id, traits).where(
            _CUSTOMERS.c.id > after, traits.element.in_(failing)
        )
        with self._database.read() as connection:
            rows = connection.execute(found.order_by(_CUSTOMERS.c.id).limit(PAGE_SIZE + 1)).all()
        people = [_unreached(row, road) for row in rows[:PAGE_SIZE]]
        return people, people[-1].row if len(rows) > PAGE_SIZE else ""

    def _counts(self, *, needs_own: bool) -> tuple[datetime, Mapping[Trait, int]]:
        with self._counting:
            return self._counts_now(needs_own=needs_own)

    def _counts_now(self, *, needs_own: bool) -> tuple[datetime, Mapping[Trait, int]]:
        now = self._clock()
        kept = self._kept.get(needs_own)
        if kept is not None and now - kept[0] < timedelta(seconds=KEPT_SECONDS):
            return kept
        shared = {name: _shared(_CUSTOMERS.c[name]) for name in ("phone_key", "email_key")} if needs_own else {}
        source: FromClause = _CUSTOMERS
        for name, sharing in shared.items():
            source = source.outerjoin(sharing, sharing.c.key == _CUSTOMERS.c[name])
        traits = _traits({name: sharing.c.key.is_(None) for name, sharing in shared.items()}).label("traits")
        with self._database.read() as connection:
            rows = connection.execute(select(traits, func.count()).select_from(source).group_by(traits)).all()
        self._kept[needs_own] = now, {Trait(value): number for value, number in rows}
        return self._kept[needs_own]


class Road:
    """A journey as somebody with given traits walks it. No method counts twice (R37)."""

    def __init__(self, journey: JourneyConfig, snapshot: Snapshot) -> None:
        self._by = journey.first_step.by
        self._is_matched = journey.relay_defence == "phone_match"
        self._is_alone = len(journey.verify_steps) == 1
        self._all = [tuple(step.any_of) for step in journey.verify_steps]
        self._open = [snapshot.workable(journey, step.any_of) for step in journey.verify_steps]
        self.methods = frozenset(itertools.chain(*self._all))

    def ends_at(self, traits: Trait) -> int | None:
        """The first step that these traits cannot pass, or None. 0 is being disabled, 1 being named, then proofs."""
        if not traits & Trait.ACTIVE:
            return 0
        if self.lacks_naming(traits):
            return 1
        ways = [[method for method in step if self._has(method, traits)] for step in self._open]
        for passed in range(1, len(ways) + 1):
            if not _distinct(ways[:passed]):
                return passed + 1
        return None

    def lacks_naming(self, traits: Trait) -> bool:
        """Whether these traits name nobody; under ``phone_match`` the chat's number must be on file besides."""
        is_unmatched = self._is_matched and not traits & Trait.PHONE
        return is_unmatched or not any(_names(kind, traits) for kind in self._by)

    def lacks(self, traits: Trait, step: int) -> tuple[str, ...]:
        """The kinds of naming, or the methods, of a step that these traits do not give."""
        if step == 0:
            return ()
        if step == 1 and self._is_matched and not traits & Trait.PHONE:
            return ("phone",)
        if step == 1 and "customer_id" in self._by:
            return ()  # it names everybody, so who shares a contact was not even asked
        if step == 1:
            return tuple(kind for kind in self._by if not _names(kind, traits))
        return tuple(method for method in self._all[step - 2] if not self._has(method, traits))

    def steps(self, counts: Mapping[Trait, int]) -> Iterable[StepReach]:
        """Each step with those who come to it."""
        ends = {traits: self.ends_at(traits) for traits in counts}
        for number in range(1, len(self._all) + 2):
            here = {traits: count for traits, count in counts.items() if _comes_to(ends[traits], number)}
            ways = self._by if number == 1 else self._all[number - 2]
            lacking = {way: sum(n for t, n in here.items() if way in self.lacks(t, number)) for way in ways}
            yield StepReach(
                number=number,
                kind="identify" if number == 1 else "verify",
                ways=tuple(ways),
                closed_ways=() if number == 1 else tuple(way for way in ways if way not in self._open[number - 2]),
                arriving=sum(here.values()),
                passing=sum(count for traits, count in here.items() if ends[traits] != number),
                lacking=lacking,
            )

    def _has(self, method: str, traits: Trait) -> bool:
        if method in CARRIES:
            return bool(traits & (Trait.PHONE if CARRIES[method] == "sms" else Trait.EMAIL))
        if method == "password":
            return bool(traits & (Trait.LONG_PASSWORD if self._is_alone else Trait.PASSWORD))
        # Any other way, such as support's code, is nothing that a customer has.
        return method == "totp" and bool(traits & Trait.TOTP)


def _comes_to(end: int | None, step: int) -> bool:
    return end is None or end >= step


def _distinct(ways: Sequence[Sequence[str]]) -> bool:
    """Whether every step can have a method of its own."""
    return any(len(set(chosen)) == len(chosen) for chosen in itertools.product(*ways))


def _names(kind: str, traits: Trait) -> bool:
    if kind == "phone":
        return bool(traits & Trait.OWN_PHONE)
    if kind == "email":
        return bool(traits & Trait.OWN_EMAIL)
    return True


def _needs_own(journey: JourneyConfig) -> bool:
    """Who shares a contact matters only where the customer ID does not name everybody anyway."""
    return "customer_id" not in journey.first_step.by


def _traits(alone: Mapping[str, ColumnElement[bool]]) -> ColumnElement[int]:
    """The traits of a customer's row as one number; ``alone`` says of a contact that nobody else has it."""
    c = _CUSTOMERS.c
    has_password = c.password_hash.is_not(None)
    found: dict[Trait, ColumnElement[bool]] = {
        Trait.ACTIVE: c.is_active,
        Trait.PHONE: c.phone_key.is_not(None),
        Trait.EMAIL: c.email_key.is_not(None),
        Trait.PASSWORD: has_password,
        Trait.LONG_PASSWORD: and_(has_password, c.password_is_long),
        Trait.TOTP: c.totp_sealed.is_not(None),
    }
    if alone:
        found[Trait.OWN_PHONE] = and_(c.phone_key.is_not(None), alone["phone_key"])
        found[Trait.OWN_EMAIL] = and_(c.email_key.is_not(None), alone["email_key"])
    summed: ColumnElement[int] = literal(0)
    for trait, condition in found.items():
        summed = summed + case((condition, int(trait)), else_=0)
    return summed


def _shared(key: Column[Any]) -> Subquery:
    """The contacts that several people hold, disabled ones included.

    Joined: where the list is long, PostgreSQL goes through a NOT IN anew for each row.
    """
    return select(key.label("key")).where(key.is_not(None)).group_by(key).having(func.count() > 1).subquery()


def _is_alone_with(key: Column[Any]) -> ColumnElement[bool]:
    """The same for the rows of a page, each of which looks for itself."""
    other = table_of(CustomerRow).alias()
    return ~select(other.c.id).where(other.c[key.name] == key, other.c.id != _CUSTOMERS.c.id).exists()


def _possible(*, needs_own: bool) -> Iterable[Trait]:
    top = Trait.OWN_PHONE if not needs_own else Trait.OWN_EMAIL * 2
    return (Trait(value) for value in range(int(top)))


def _unreached(row: Any, road: Road) -> Unreached:
    traits = Trait(row.traits)
    step = road.ends_at(traits) or 0
    return Unreached(row.id, row.customer_id, step, road.lacks(traits, step))
