"""Who is in the directory, by what they have on file: counted for all journeys at once, and listed by key.

All customers are counted from one index. What an index of single rows cannot know is counted separately and moved to
its group: who shares a contact, and who has wrong tries. ``Walk`` goes through the customers in the same groups.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import CTE, ColumnElement, Connection, Select, and_, exists, false, func, or_, select, text, union

from auth_portal.services.config.journey import JourneyLimits
from auth_portal.services.reach.route import Standing, Trait
from auth_portal.services.verification import tries
from auth_portal.services.verification.tries import TryCount
from auth_portal.store.models import MANY_TRIES, CustomerRow, Tries, table_of

_CUSTOMERS, _TRIES = table_of(CustomerRow), table_of(Tries)
_C = _CUSTOMERS.c
KEYS = {"phone": _C.phone_key, "email": _C.email_key}
_MANY = text(MANY_TRIES)  # names the index
CHUNK = 100  # rows that one query of a walk loads
IDS_AT_ONCE = 100  # rows that one query loads by their ids
FEW = 5_000  # shared contacts of a kind: a count lists no more, and in a million customers each WINDOW has more of them
WINDOW = 5_000  # entries of an index that one query searches for contacts that occur twice
PARTS = ("group", "tried", "phone", "email", "changed")  # of a walk, in order


@dataclass(frozen=True)
class Census:
    """How many customers have which standing. Without ``has_shared`` no contact is marked as shared.

    ``few_shared`` are the shared contacts of each kind that has at most FEW: in the index they lie far apart.
    """

    counted_at: datetime
    groups: Mapping[Standing, int]
    has_shared: bool
    few_shared: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Member(NamedTuple):
    """A customer and what they have on file."""

    row: str
    customer_id: str
    standing: Standing


# --- Counting


def count(connection: Connection, now: datetime, bounds: JourneyLimits, *, with_shared: bool) -> Census:
    """Count all customers: about 0.1 s for a million, from an index alone; a few times that ``with_shared``.

    ``bounds`` are the narrowest limits of wrong tries that any journey has.
    """
    groups: Counter[Standing] = Counter()

    def move(before: Standing, after: Standing, people: int) -> None:
        people = min(people, groups[before])  # customers may have been added since they were counted
        groups[before] -= people
        groups[after] += people

    everyone = select(_C.traits, _C.phone_country, func.count().label("people"))
    for row in connection.execute(everyone.group_by(_C.traits, _C.phone_country)):
        groups[_plain(row)] += row.people
    few_shared: dict[str, Sequence[str]] = {}
    if with_shared:
        for row in _sharing(connection):
            move(_plain(row), replace(_plain(row), shared=_shared_contacts(row)), row.people)
        for name, key in KEYS.items():
            keys = connection.execute(_several(key).order_by(key).limit(FEW + 1)).scalars().all()
            few_shared |= {name: keys} if len(keys) <= FEW else {}
    for member in changed_lately(connection, now, bounds, with_shared=with_shared):
        move(replace(member.standing, changed=()), member.standing, 1)
    for member in tried(connection, now, bounds, tried_rows(connection, now, bounds), with_shared=with_shared):
        move(replace(member.standing, spent=()), member.standing, 1)
    groups = Counter({standing: people for standing, people in groups.items() if people})
    return Census(now, groups, with_shared, few_shared)


def _plain(row: Any) -> Standing:
    return Standing(Trait(row.traits), row.phone_country)


def _shared_contacts(row: Any) -> frozenset[str]:
    return frozenset(name for name in KEYS if getattr(row, f"{name}_is_shared"))


def _sharing(connection: Connection) -> Iterator[Any]:
    """Yield groups of those who share a phone, then of those who share only an email address."""
    for name, other in (("phone", "email"), ("email", "phone")):
        mine, others = _held_by_several(name), _held_by_several(other)
        is_other = others.c.key.is_not(None)
        rows = (
            select(
                _C.traits,
                _C.phone_country,
                func.count().label("people"),
                mine.c.key.is_not(None).label(f"{name}_is_shared"),
                is_other.label(f"{other}_is_shared"),
            )
            .select_from(mine.join(_CUSTOMERS, KEYS[name] == mine.c.key).outerjoin(others, KEYS[other] == others.c.key))
            .group_by(_C.traits, _C.phone_country, text("4"), text("5"))
        )
        yield from connection.execute(rows if name == "phone" else rows.where(~is_other))


def _held_by_several(name: str) -> CTE:
    """Return the contacts of a kind that several customers have, disabled ones included, as a visit sees them."""
    return _several(KEYS[name]).cte(f"{name}s")


def _several(key: ColumnElement[str | None]) -> Select[Any]:
    return select(key.label("key")).where(key.is_not(None)).group_by(key).having(func.count() > 1)


# --- Single customers


def members(*, with_shared: bool) -> Select[Any]:
    """Return the query whose rows ``member`` reads, in no order."""
    changed = [_C.phone_changed_at, _C.email_changed_at]
    shared = [(is_shared(name) if with_shared else false()).label(f"{name}_is_shared") for name in KEYS]
    return select(_C.id, _C.customer_id, _C.traits, _C.phone_country, *changed, *shared)


def is_shared(name: str) -> ColumnElement[bool]:
    """Return the condition for a customer whose contact of a kind other customers have, too."""
    key, other = KEYS[name], _CUSTOMERS.alias()
    return exists(select(other.c.id).where(other.c[key.name] == key, other.c.id != _C.id))


def member(row: Any, since: datetime, spent: Iterable[TryCount] = ()) -> Member:
    """Return the customer of such a row; ``since`` is when a change of a contact still matters."""
    times = (("phone", row.phone_changed_at), ("email", row.email_changed_at))
    changed = tuple((contact, at) for contact, at in times if at is not None and at > since)
    standing = replace(_plain(row), shared=_shared_contacts(row), spent=tuple(spent), changed=changed)
    return Member(row.id, row.customer_id, standing)


def since(now: datetime, bounds: JourneyLimits) -> datetime:
    """Return the time after which a change of a contact matters to any journey (R45)."""
    return now - timedelta(hours=bounds.changed_contact_hours)


def changed_lately(
    connection: Connection,
    now: datetime,
    bounds: JourneyLimits,
    after: str = "",
    *,
    with_shared: bool,
    most: int | None = None,
) -> Iterator[Member]:
    """Yield the customers after a row with a contact that was changed lately, by row; all, or at most ``most``."""
    if not bounds.changed_contact_hours:
        return
    begin = since(now, bounds)
    changed = [
        select(_C.id).where(column > begin, _C.id > after) for column in (_C.phone_changed_at, _C.email_changed_at)
    ]
    those = members(with_shared=with_shared).where(_C.id.in_(union(*changed))).order_by(_C.id).limit(most)
    for row in connection.execute(those):
        yield member(row, begin)


def one(connection: Connection, row: str, now: datetime, bounds: JourneyLimits) -> Member | None:
    """Return one customer with all their wrong tries; None if there is no such row."""
    person = connection.execute(members(with_shared=True).where(_C.id == row)).one_or_none()
    if person is None:
        return None
    mine = connection.execute(select(_TRIES).where(_TRIES.c.person_key == row))
    return member(person, since(now, bounds), [tries.count_from(count, now) for count in mine])


def tried(
    connection: Connection,
    now: datetime,
    bounds: JourneyLimits,
    ids: Sequence[str],
    *,
    with_shared: bool,
    sharing: Collection[str] = (),
) -> Iterator[Member]:
    """Yield the customers of these rows, which ``tried_rows`` returned, by row; only those ``sharing`` these contacts.

    Each comes with all wrong tries.
    """
    those = members(with_shared=with_shared).where(*(is_shared(name) for name in sharing)).order_by(_C.id)
    for start in range(0, len(ids), IDS_AT_ONCE):
        chunk = ids[start : start + IDS_AT_ONCE]
        mine: defaultdict[str, list[TryCount]] = defaultdict(list)
        for count in connection.execute(select(_TRIES).where(_MANY, _TRIES.c.person_key.in_(chunk))):
            mine[count.person_key].append(tries.count_from(count, now))
        for person in connection.execute(those.where(_C.id.in_(chunk))):
            yield member(person, since(now, bounds), mine[person.id])


def tried_rows(
    connection: Connection, now: datetime, bounds: JourneyLimits, after: str = "", most: int | None = None
) -> Sequence[str]:
    """Return the rows of customers after a row who have used up the tries of any method; all, or at most ``most``."""
    spent = _are_spent(now, bounds)
    rows = select(_TRIES.c.person_key).where(_MANY, spent, _TRIES.c.person_key > after).distinct()
    those = rows.join(_CUSTOMERS, _C.id == _TRIES.c.person_key).order_by(_TRIES.c.person_key).limit(most)
    return connection.execute(those).scalars().all()


def _are_spent(now: datetime, bounds: JourneyLimits) -> ColumnElement[bool]:
    return tries.spent(now, bounds.credential_tries_day, bounds.credential_tries_total)


# --- Through many customers, page by page


class WalkStep(NamedTuple):
    """A customer, or None after a piece of the search without one; and the place behind it."""

    member: Member | None
    place: str


@dataclass(frozen=True)
class Walk:
    """Through the customers of ``wanted`` by key: plain groups, then those of the later ``PARTS``, part by part.

    No customer comes twice: the groups leave out those that the later parts include. A place says where to go on, for a
    link: it names people by their rows and contacts by their keyed hash. ``bounds`` are as for a census, from which
    ``few_shared`` is.
    """

    connection: Connection
    now: datetime
    bounds: JourneyLimits
    wanted: Collection[Standing]
    with_shared: bool
    few_shared: Mapping[str, Sequence[str]]

    def steps(self, place: str) -> Iterator[WalkStep]:
        """Yield the steps after a place; "" is the beginning, and so is a place that makes no sense."""
        part, _mark, at = place.partition(":")
        first = PARTS.index(part) if part in PARTS else 0
        walks = {"group": self._of_groups, "tried": self._of_tried, "phone": self._sharing, "email": self._sharing}
        walks["changed"] = self._of_changed
        there = {_part_of(standing) for standing in self.wanted}
        for name in PARTS[first:]:
            if name in there:
                yield from walks[name](name, at if name == part else "")

    def _of_groups(self, part: str, at: str) -> Iterator[WalkStep]:
        traits, country, after = (*at.split(":"), "", "")[:3] if at else ("", "", "")
        behind = (int(traits), country) if traits.isdigit() else (-1, "")
        plain = (standing for standing in self.wanted if _part_of(standing) == part)
        for group in sorted(plain, key=_order):
            if _order(group) < behind:
                continue
            is_there = _C.phone_country.is_(None) if group.country is None else _C.phone_country == group.country
            mine = (_C.traits == int(group.traits)) & is_there
            place = f"{part}:{int(group.traits)}:{_order(group)[1]}"
            yield from self._plain(place, mine, after if _order(group) == behind else "")

    def _plain(self, place: str, mine: ColumnElement[bool], after: str) -> Iterator[WalkStep]:
        people = members(with_shared=self.with_shared).where(mine).order_by(_C.id).limit(CHUNK)
        while rows := self.connection.execute(people.where(_C.id > after)).all():
            elsewhere = self._have_tried([row.id for row in rows])
            for row in rows:
                after, found = row.id, member(row, since(self.now, self.bounds))
                if row.id not in elsewhere and _part_of(found.standing) == "group":
                    yield WalkStep(found, f"{place}:{after}")
            yield WalkStep(None, f"{place}:{after}")

    def _have_tried(self, rows: Sequence[str]) -> set[str]:
        """Return those of the rows that ``tried`` returns."""
        is_one = _TRIES.c.person_key.in_(rows)
        spent = select(_TRIES.c.person_key).where(is_one, _MANY, _are_spent(self.now, self.bounds))
        return set(self.connection.execute(spent).scalars())

    def _of_tried(self, part: str, after: str) -> Iterator[WalkStep]:
        its = self.connection, self.now, self.bounds
        sharing = frozenset.intersection(*(one.shared for one in self.wanted if _part_of(one) == part))
        while rows := tried_rows(*its, after, CHUNK):
            for person in tried(*its, rows, with_shared=self.with_shared, sharing=sharing):
                yield WalkStep(person, f"{part}:{person.row}")
            after = rows[-1]
            yield WalkStep(None, f"{part}:{after}")

    def _of_changed(self, part: str, after: str) -> Iterator[WalkStep]:
        while True:
            lately = changed_lately(
                self.connection, self.now, self.bounds, after, with_shared=self.with_shared, most=CHUNK
            )
            if not (found := list(lately)):
                return
            elsewhere = self._have_tried([person.row for person in found])
            for person in found:
                after = person.row
                if person.row not in elsewhere and _part_of(person.standing) == part:
                    yield WalkStep(person, f"{part}:{after}")
            yield WalkStep(None, f"{part}:{after}")

    def _sharing(self, part: str, at: str) -> Iterator[WalkStep]:
        key, _mark, after = at.partition(":")
        while True:
            shared, edge = self._window(part, key)
            yield from self._holders(part, shared, (key, after))
            if edge is None:
                return
            key, after = edge, ""
            yield WalkStep(None, f"{part}:{key}:")

    def _window(self, part: str, first: str) -> tuple[list[str], str | None]:
        """Return the shared contacts of the next piece of the index, and where the piece after it begins."""
        if (few := self.few_shared.get(part)) is not None:
            begin = bisect_left(few, first)
            return list(few[begin : begin + CHUNK]), next(iter(few[begin + CHUNK :]), None)
        key = KEYS[part]
        window = select(key.label("key")).where(key >= first).order_by(key).limit(WINDOW).subquery()
        several = select(window.c.key).group_by(window.c.key).having(func.count() > 1).order_by(window.c.key)
        shared = list(self.connection.execute(several).scalars())
        c = window.c.key
        ends = select(func.min(c).label("least"), func.max(c).label("edge"), func.count().label("n"))
        found = self.connection.execute(ends.select_from(window)).one()
        if found.n < WINDOW:
            return shared, None
        if found.least == found.edge:
            return shared, f"{found.edge}~"  # behind it: hex digits come first
        # The last contact of a full window may go on behind it, so the next window begins with it.
        return [contact for contact in shared if contact != found.edge], found.edge

    def _holders(self, part: str, contacts: Sequence[str], behind: tuple[str, str]) -> Iterator[WalkStep]:
        """Yield the holders of some contacts, by contact and row; ``behind`` is the last contact and row before."""
        key = KEYS[part]
        people = members(with_shared=True).add_columns(key.label("contact")).order_by(key, _C.id).limit(CHUNK)
        for start in range(0, len(contacts), CHUNK // 2):
            mine = people.where(key.in_(contacts[start : start + CHUNK // 2]))
            while rows := self.connection.execute(
                mine.where(or_(key > behind[0], and_(key == behind[0], _C.id > behind[1])))
            ).all():
                tried_too = self._have_tried([row.id for row in rows])
                for row in rows:
                    behind, found = (row.contact, row.id), member(row, since(self.now, self.bounds))
                    is_elsewhere = row.id in tried_too or (part == "email" and "phone" in found.standing.shared)
                    if not is_elsewhere:
                        yield WalkStep(found, f"{part}:{row.contact}:{row.id}")
                yield WalkStep(None, ":".join((part, *behind)))


def _part_of(standing: Standing) -> str:
    if standing.spent:
        return "tried"
    plain = "changed" if standing.changed else "group"
    return next((name for name in ("phone", "email") if name in standing.shared), plain)


def _order(group: Standing) -> tuple[int, str]:
    """Return a sort key that is the same on every server and for every count, so that a place stays the same."""
    return int(group.traits), "-" if group.country is None else group.country
