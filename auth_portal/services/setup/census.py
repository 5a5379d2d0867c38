"""Who is in the directory, by what they have on file: counted for all journeys at once, and read by key.

Everybody is counted from one index. What an index of single rows cannot know is counted apart and put in its place:
who shares a contact, and who has wrong tries behind them. ``walk`` goes the same ways through those who cannot pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import CTE, ColumnElement, Connection, Select, and_, exists, false, func, or_, select, text

from auth_portal.services.config.journey import JourneyLimits
from auth_portal.services.setup.road import Spent, Standing, Trait
from auth_portal.store.models import MANY_TRIES, CustomerRow, Tries, table_of

_CUSTOMERS, _TRIES = table_of(CustomerRow), table_of(Tries)
KEYS = {"phone": _CUSTOMERS.c.phone_key, "email": _CUSTOMERS.c.email_key}
_MANY = text(MANY_TRIES)  # names the index
CHUNK = 100  # rows asked for by their ids at a time


@dataclass(frozen=True)
class Census:
    """How many have which standing. Without ``has_shared`` nobody is said to share a contact."""

    counted_at: datetime
    groups: Mapping[Standing, int]
    has_shared: bool


class Found(NamedTuple):
    """A customer and what they have."""

    row: str
    customer_id: str
    standing: Standing


def count(connection: Connection, now: datetime, bounds: JourneyLimits, *, with_shared: bool) -> Census:
    """Counts everybody: from an index alone, about 0.1 s for a million; who shares contacts takes some times that.

    ``bounds`` are the narrowest limits of wrong tries that any journey has.
    """
    groups: Counter[Standing] = Counter()
    everybody = select(_CUSTOMERS.c.traits, _CUSTOMERS.c.phone_country, func.count().label("people"))
    for row in connection.execute(everybody.group_by(_CUSTOMERS.c.traits, _CUSTOMERS.c.phone_country)):
        groups[_plain(row)] += row.people
    if with_shared:
        for row in _sharing(connection):
            standing = _plain(row)
            shared = frozenset(name for name in KEYS if getattr(row, f"{name}_is_shared"))
            _move(groups, standing, replace(standing, shared=shared), row.people)
    for person in tried(connection, now, bounds, with_shared=with_shared):
        _move(groups, replace(person.standing, spent=()), person.standing, 1)
    return Census(now, {standing: people for standing, people in groups.items() if people}, with_shared)


def _move(groups: Counter[Standing], before: Standing, after: Standing, people: int) -> None:
    """From one group to another; no more than are there, as somebody may have come since they were counted."""
    people = min(people, groups[before])
    groups[before] -= people
    groups[after] += people


def _plain(row: Any) -> Standing:
    return Standing(Trait(row.traits), row.phone_country)


def _sharing(connection: Connection) -> Iterator[Any]:
    """Those who share a phone, then those who share an e-mail address alone."""
    for name, other in (("phone", "email"), ("email", "phone")):
        mine, others = _held_by_several(name), _held_by_several(other)
        is_other = others.c.key.is_not(None)
        rows = (
            select(
                _CUSTOMERS.c.traits, _CUSTOMERS.c.phone_country, func.count().label("people"),
                mine.c.key.is_not(None).label(f"{name}_is_shared"), is_other.label(f"{other}_is_shared"),
            )
            .select_from(mine.join(_CUSTOMERS, KEYS[name] == mine.c.key).outerjoin(others, KEYS[other] == others.c.key))
            .group_by(_CUSTOMERS.c.traits, _CUSTOMERS.c.phone_country, text("4"), text("5"))
        )  # fmt: skip
        yield from connection.execute(rows if name == "phone" else rows.where(~is_other))


def _held_by_several(name: str) -> CTE:
    """The contacts of a kind that several people hold, disabled ones included, as they are for a visit."""
    key = KEYS[name]
    several = select(key.label("key")).where(key.is_not(None)).group_by(key).having(func.count() > 1)
    return several.cte(f"{name}s")


def people(*, with_shared: bool) -> Select[Any]:
    """Rows that ``found`` reads, in no order."""
    c = _CUSTOMERS.c
    shared = [_is_shared(name) if with_shared else false().label(f"{name}_is_shared") for name in KEYS]
    return select(c.id, c.customer_id, c.traits, c.phone_country, *shared)


def found(row: Any, spent: Iterable[Spent] = ()) -> Found:
    """The customer of such a row."""
    shared = frozenset(name for name in KEYS if getattr(row, f"{name}_is_shared"))
    return Found(row.id, row.customer_id, replace(_plain(row), shared=shared, spent=tuple(spent)))


def one(connection: Connection, row: str, now: datetime) -> Found | None:
    """A single person with all their wrong tries; None for nobody."""
    person = connection.execute(people(with_shared=True).where(_CUSTOMERS.c.id == row)).one_or_none()
    if person is None:
        return None
    mine = connection.execute(select(_TRIES).where(_TRIES.c.person_key == row))
    return found(person, [_spent(tries, now) for tries in mine])


def tried(
    connection: Connection, now: datetime, bounds: JourneyLimits, after: str = "", *, with_shared: bool,
    most: int | None = None,
) -> list[Found]:  # fmt: skip
    """Customers behind a row who have spent the tries of any method, by the rows of the customers; all, or so many."""
    spent = has_spent(now, bounds)
    rows = select(_TRIES.c.person_key).where(_MANY, spent, _TRIES.c.person_key > after).distinct()
    those = rows.join(_CUSTOMERS, _CUSTOMERS.c.id == _TRIES.c.person_key).order_by(_TRIES.c.person_key).limit(most)
    ids = list(connection.execute(those).scalars())
    result: list[Found] = []
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        tries = connection.execute(select(_TRIES).where(_MANY, _TRIES.c.person_key.in_(chunk))).all()
        persons = connection.execute(people(with_shared=with_shared).where(_CUSTOMERS.c.id.in_(chunk)))
        by_row = {row.id: row for row in persons}
        for row in chunk:
            mine = [_spent(one_try, now) for one_try in tries if one_try.person_key == row]
            if row in by_row:
                result.append(found(by_row[row], mine))
    return result


def has_spent(now: datetime, bounds: JourneyLimits) -> ColumnElement[bool]:
    """Whether a row of ``tries`` is at a limit."""
    of_day = and_(_TRIES.c.day_ends_at > now, _TRIES.c.day_count >= bounds.credential_tries_day)
    return or_(_TRIES.c.total >= bounds.credential_tries_total, of_day)


def among(connection: Connection, now: datetime, bounds: JourneyLimits, ids: Sequence[str]) -> set[str]:
    """Those of some rows whom ``tried`` tells of."""
    rows = select(_TRIES.c.person_key).where(_TRIES.c.person_key.in_(ids), _MANY, has_spent(now, bounds))
    return set(connection.execute(rows).scalars())


def _spent(row: Any, now: datetime) -> Spent:
    day_count = row.day_count if row.day_ends_at > now else 0
    return Spent(row.method, row.is_ticketed, row.total, day_count, row.day_ends_at)


def _is_shared(name: str) -> ColumnElement[bool]:
    """Whether the row of the query shares a contact."""
    other, key = _CUSTOMERS.alias(), KEYS[name]
    same = and_(other.c[key.name] == key, other.c.id != _CUSTOMERS.c.id)
    return exists(select(other.c.id).where(same)).label(f"{name}_is_shared")
