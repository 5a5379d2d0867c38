"""Through customers by key, page by page: those of some groups, then those with wrong tries, then those who share.

Nobody comes twice: the groups leave out whom the later parts are about. A place says where to go on from, for a link:
it names people by their rows and contacts by their keyed hash.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from auth_portal.services.config.journey import JourneyLimits
from auth_portal.services.setup import census
from auth_portal.services.setup.census import KEYS, Found
from auth_portal.services.setup.road import Standing
from auth_portal.store.models import CustomerRow, table_of

CHUNK = 100  # rows read at a time
WINDOW = 20_000  # entries of an index read at a time, looking for a contact that is there twice

_C = table_of(CustomerRow).c


PARTS = ("group", "tried", "phone", "email")


class Step(NamedTuple):
    """A customer, or nobody yet after a piece of the search; and the place behind it."""

    found: Found | None
    place: str


@dataclass(frozen=True)
class Walk:
    """Through those of ``wanted``, who ``with_shared`` may share a contact. ``bounds`` are as for a census.

    Only the parts are gone through that have any of them.
    """

    connection: Connection
    now: datetime
    bounds: JourneyLimits
    wanted: Collection[Standing]
    with_shared: bool

    def steps(self, place: str) -> Iterator[Step]:
        """From behind a place on, "" being the beginning; so is a place that makes no sense."""
        part, _mark, at = place.partition(":")
        first = PARTS.index(part) if part in PARTS else 0
        ways = {"group": self._of_groups, "tried": self._of_tried, "phone": self._sharing, "email": self._sharing}
        there = {_part_of(standing) for standing in self.wanted}
        for name in PARTS[first:]:
            if name in there:
                yield from ways[name](name, at if name == part else "")

    def _of_groups(self, part: str, at: str) -> Iterator[Step]:
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

    def _plain(self, place: str, mine: ColumnElement[bool], after: str) -> Iterator[Step]:
        people = census.people(with_shared=self.with_shared).where(mine).order_by(_C.id).limit(CHUNK)
        while rows := self.connection.execute(people.where(_C.id > after)).all():
            tried = census.among(self.connection, self.now, self.bounds, [row.id for row in rows])
            for row in rows:
                after, found = row.id, census.found(row)
                if row.id not in tried and not found.standing.shared:
                    yield Step(found, f"{place}:{after}")
            yield Step(None, f"{place}:{after}")

    def _of_tried(self, part: str, after: str) -> Iterator[Step]:
        while found := census.tried(
            self.connection, self.now, self.bounds, after, with_shared=self.with_shared, most=CHUNK
        ):
            for person in found:
                after = person.row
                yield Step(person, f"{part}:{after}")
            yield Step(None, f"{part}:{after}")

    def _sharing(self, part: str, at: str) -> Iterator[Step]:
        key, _mark, after = at.partition(":")
        while True:
            shared, edge = self._window(part, key)
            yield from self._holders(part, shared, (key, after))
            if edge is None:
                return
            key, after = edge, ""
            yield Step(None, f"{part}:{key}:")

    def _window(self, part: str, first: str) -> tuple[list[str], str | None]:
        """The contacts held by several in the next piece of the index, and where the piece after it begins."""
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
        # What ends a full window may go on behind it, so the next one begins with it.
        return [contact for contact in shared if contact != found.edge], found.edge

    def _holders(self, part: str, contacts: Sequence[str], behind: tuple[str, str]) -> Iterator[Step]:
        """Those of some contacts, by contact and row; ``behind`` is the contact and the row to go on from."""
        key = KEYS[part]
        people = census.people(with_shared=True).add_columns(key.label("contact")).order_by(key, _C.id).limit(CHUNK)
        for start in range(0, len(contacts), CHUNK // 2):
            mine = people.where(key.in_(contacts[start : start + CHUNK // 2]))
            while rows := self.connection.execute(mine.where(_is_behind(key, behind))).all():
                tried = census.among(self.connection, self.now, self.bounds, [row.id for row in rows])
                for row in rows:
                    behind, found = (row.contact, row.id), census.found(row)
                    is_elsewhere = row.id in tried or (part == "email" and "phone" in found.standing.shared)
                    if not is_elsewhere:
                        yield Step(found, f"{part}:{row.contact}:{row.id}")
                yield Step(None, ":".join((part, *behind)))


def _is_behind(key: ColumnElement[str], place: tuple[str, str]) -> ColumnElement[bool]:
    contact, row = place
    return or_(key > contact, and_(key == contact, _C.id > row))


def _part_of(standing: Standing) -> str:
    if standing.spent:
        return "tried"
    return next((name for name in ("phone", "email") if name in standing.shared), "group")


def _order(group: Standing) -> tuple[int, str]:
    """The same on every server and with every count, so that a place means the same."""
    return int(group.traits), "-" if group.country is None else group.country
