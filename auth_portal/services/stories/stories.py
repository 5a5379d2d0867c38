"""Verifications as an admin asks for them: found by reference, person, time, journey or outcome; each told as a story.

Only reads. A reference is found by its hash and shown by its ends; contacts and what was typed are masked; codes are
told of, never told. What the customer's page must not show, such as that nobody goes by a name (R24), is told here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, select

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.errors import NotFound
from auth_portal.services.directory.customers import read_identifier
from auth_portal.services.journeys import Journeys
from auth_portal.services.outbox import CALLBACK
from auth_portal.services.references import reference_hash
from auth_portal.services.results import VERIFIED
from auth_portal.services.stories.lists import PAGE, Condition, Listing, as_written, listed, made_between
from auth_portal.services.stories.moments import Moment
from auth_portal.services.stories.record import KINDS, holders_of, load_record
from auth_portal.services.stories.timeline import timeline
from auth_portal.services.stories.words import headline, moments
from auth_portal.store.db import Database
from auth_portal.store.models import ENDED_OTHERWISE, CustomerRow, Delivery, Verification, Visit

LIVE = "live"  # in a filter: what has not ended yet
MOST_PEOPLE = 20  # who share one contact
MOST_IDS = 1000  # verifications of one person that a page looks through


@dataclass(frozen=True)
class StoryFilter:
    """Which verifications are wanted; what is empty does not count. Times are UTC.

    ``customers`` are rows of customers and ``names`` keyed hashes of what was typed: one of either is enough.
    ``same_link_as`` is a verification whose reference is meant.
    """

    slug: str = ""
    outcome: str = ""  # an outcome, or LIVE
    since: datetime | None = None
    until: datetime | None = None
    customers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    same_link_as: str = ""


@dataclass(frozen=True)
class StoryLine:
    """A verification as a list shows it. ``told`` is the state of its callback, empty while it is under way."""

    id: str
    slug: str
    began_at: datetime
    outcome: str | None
    ended_at: datetime | None
    methods: str
    customer_row: str | None
    customer_id: str | None
    told: str | None


@dataclass(frozen=True)
class Named:
    """Who may be meant by what an admin typed: customers' rows, and the hashes by which strangers' tries are found."""

    customers: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Story:
    """A verification told: one sentence, the moments it is made of, and everything that is on record."""

    id: str
    slug: str
    journey: str
    reference: str  # its ends alone
    began_at: datetime
    outcome: str | None
    customer_id: str
    customer_row: str | None
    headline: str
    moments: tuple[Moment, ...]
    timeline: tuple[Moment, ...]
    callback_id: str
    has_others: bool  # whether the same reference has more verifications


_LINE = (
    Verification.id,
    Verification.slug,
    Verification.began_at,
    Verification.outcome,
    Verification.ended_at,
    Verification.methods,
    Verification.customer_row,
    CustomerRow.customer_id,
    Delivery.state.label("told"),
)
_LINES: Any = (
    select(*_LINE)
    .outerjoin(CustomerRow, CustomerRow.id == Verification.customer_row)
    .outerjoin(Delivery, and_(Delivery.verification_id == Verification.id, Delivery.kind == CALLBACK))
)


class Stories:
    """Finds verifications and tells them."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, journeys: Journeys) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._journeys = journeys

    def by_reference(self, candidates: Iterable[str]) -> tuple[str, ...]:
        """The verifications of a reference, newest first; ``candidates`` are the ways to read what was pasted."""
        hashes = [reference_hash(text) for text in candidates]
        found = select(Verification.id).where(Verification.reference_hash.in_(hashes))
        with self._database.read() as connection:
            return tuple(connection.execute(found.order_by(Verification.id.desc()).limit(PAGE)).scalars())

    def named(self, typed: str) -> Named | None:
        """Who may be meant by a customer ID, phone or e-mail address; None for what can be none of them."""
        region = self._journeys.current().portal.default_region
        # A journey may accept one kind alone, so each is read by itself too: the hash is of the one form.
        kinds = (KINDS, *((kind,) for kind in KINDS))
        read = [found for kind in kinds if (found := read_identifier(typed, kind, region, self._keyring))]
        if not read:
            return None
        with self._database.read() as connection:
            rows = holders_of(connection, read[0], MOST_PEOPLE)
        return Named(rows, tuple(dict.fromkeys(identifier.key for identifier in read)))

    def customer_ids(self, rows: Iterable[str]) -> tuple[str, ...]:
        """The customer IDs of customers' rows, to say whose verifications are shown."""
        found = select(CustomerRow.customer_id).where(CustomerRow.id.in_(list(rows)))
        with self._database.read() as connection:
            return tuple(connection.execute(found.order_by(CustomerRow.customer_key)).scalars())

    def page(self, wanted: StoryFilter, *, after: str = "", most: int = PAGE) -> Listing[StoryLine]:
        """A page of verifications, newest first."""
        between = made_between(Verification.id, wanted.since, wanted.until)
        with self._database.read() as connection:
            if wanted.customers or wanted.names:
                return self._of_people(connection, wanted, between, after, most)
            found_by, filtered_by = _conditions(wanted)
            found = listed(
                connection, _LINES, Verification.id, found_by=[[*found_by, *between]], filtered_by=filtered_by,
                after=after, most=most,
            )  # fmt: skip
        return found.of(lambda row: StoryLine(**row._asdict()))

    def _of_people(
        self, connection: Connection, wanted: StoryFilter, between: Sequence[Condition], after: str, most: int
    ) -> Listing[StoryLine]:
        """The verifications in which somebody was named: found through the visits, so that strangers' are too."""
        ids = _visited(connection, wanted, after)
        chosen = [Verification.id.in_(ids), *between, *_all_of(wanted)]
        rows = connection.execute(_LINES.where(*chosen).order_by(Verification.id.desc()).limit(most + 1)).all()
        lines = tuple(StoryLine(**row._asdict()) for row in rows)
        if len(lines) > most:
            return Listing(lines[:most], older=lines[most - 1].id)
        is_partial = len(ids) == MOST_IDS
        return Listing(lines, older=ids[-1] if is_partial else "", is_partial=is_partial)

    def line(self, verification_id: str) -> StoryLine:
        """One verification as a list shows it. Raises NotFound("verification_unknown")."""
        with self._database.read() as connection:
            row = connection.execute(_LINES.where(Verification.id == verification_id)).one_or_none()
        if row is None:
            raise NotFound("verification_unknown")
        return StoryLine(**row._asdict())

    def get(self, verification_id: str) -> Story:
        """One verification, told. Raises NotFound("verification_unknown")."""
        with self._database.read() as connection:
            record = load_record(connection, self._keyring, self._journeys, verification_id, self._clock())
        told = tuple(moments(record))
        return Story(
            id=verification_id,
            slug=record.row.slug,
            journey=record.journey.name,
            reference=record.reference_ends,
            began_at=record.row.began_at,
            outcome=record.row.outcome,
            customer_id=record.person.customer_id if record.person else "",
            customer_row=record.person.row if record.person else None,
            headline=headline(told),
            moments=told,
            timeline=tuple(timeline(record)),
            callback_id=record.callback.line.id if record.callback else "",
            has_others=record.has_others,
        )


def _conditions(wanted: StoryFilter) -> tuple[list[Condition], list[Condition]]:
    """What an index serves, and the rest. Where it serves two, the one that finds fewer: a link, then an outcome."""
    if wanted.same_link_as:
        return [_same_link(wanted.same_link_as)], _all_of(wanted)
    by_slug, by_outcome = _all_of(replace(wanted, outcome="")), _all_of(replace(wanted, slug=""))
    if wanted.outcome == LIVE:
        return [as_written("outcome IS NULL")], by_slug
    if wanted.outcome not in ("", VERIFIED):
        return [as_written(ENDED_OTHERWISE), *by_outcome], by_slug
    return by_slug, by_outcome


def _all_of(wanted: StoryFilter) -> list[Condition]:
    found: list[Condition] = []
    if wanted.slug:
        found.append(Verification.slug == wanted.slug)
    if wanted.outcome == LIVE:
        found.append(Verification.outcome.is_(None))
    elif wanted.outcome:
        found.append(Verification.outcome == wanted.outcome)
    return found


def _same_link(verification_id: str) -> ColumnElement[bool]:
    this = select(Verification.reference_hash).where(Verification.id == verification_id)
    return Verification.reference_hash == this.scalar_subquery()


def _visited(connection: Connection, wanted: StoryFilter, after: str) -> list[str]:
    """The newest verifications in which one of these people was named, in any visit."""
    start = (Visit.verification_id < after,) if after else ()
    found: set[str] = set()
    for column, values in ((Visit.customer_row, wanted.customers), (Visit.identifier_key, wanted.names)):
        for value in values:
            query = select(Visit.verification_id).distinct().where(column == value, *start)
            newest = query.order_by(Visit.verification_id.desc()).limit(MOST_IDS)
            found |= set(connection.execute(newest).scalars())
    return sorted(found, reverse=True)[:MOST_IDS]
