"""Verifications as an admin looks for them: by reference, person, time, journey or outcome; each with its story.

Only reads. A reference is found by its hash and shown by its ends; contacts and what was typed are masked; codes are
mentioned, never shown. What the customer's page must not show, such as that no customer matches (R24), stands here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, Self

from sqlalchemy import Connection, Select, and_, func, select

from auth_portal.crypto import token_hash
from auth_portal.errors import Gone, NotFound
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.directory.person import ReadNumber, numbers_of, read_identifier, read_number
from auth_portal.services.history.lists import (
    PAGE,
    WINDOW,
    BoundedCount,
    Condition,
    Listing,
    Search,
    as_written,
    counts_of,
    csv_pages,
    listed,
    made_between,
    pasted_ids,
)
from auth_portal.services.history.record import (
    KINDS,
    TICKET_COLUMNS,
    AskedPayment,
    CustomerDelivery,
    DeliveryFix,
    DeliverySubject,
    NamedPerson,
    asked_payment,
    customer_deliveries,
    customer_lanes,
    delivery_facts,
    delivery_subjects,
    holders_of,
    is_forged,
    load_record,
    masked_result,
    named_people,
)
from auth_portal.services.history.timeline import (
    OUTCOME_NAMES,
    CallerHelp,
    ClockMark,
    Moment,
    clock_marks,
    headline,
    in_short,
    raw_timeline,
    story_moments,
    what_helps,
    who_fixes,
)
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import (
    CALLBACK,
    CHANGED,
    ENDED_OTHERWISE,
    RESULT_COLUMNS,
    VERIFIED,
    AuditBlock,
    AuditChain,
    AuditEvent,
    CustomerRow,
    Delivery,
    TicketRow,
    Verification,
    Visit,
    live_ids,
)

LIVE = "live"  # in a filter: not ended yet
MOST_PEOPLE = 20  # of those who share one contact
MOST_IDS = 1000  # verifications of one person that a page searches
BLOCKS_AT_ONCE = 20  # of the audit trail that one page of ends reads: 10,000 events at most
BLOCKS_BEFORE = 60  # of a minute: clocks differ by seconds, and so may the order of ids and of blocks
HEAD_SHOWN = 16  # characters
LAST_VISITS = 5  # of a customer, on their page
LAST_DELIVERIES = 8
OTHER_VISITS = 3  # on the page of a verification


@dataclass(frozen=True)
class StoryFilter:
    """Which verifications to list; an empty field does not filter. Times are UTC.

    ``customers`` are rows of customers and ``names`` keyed hashes of what was typed: a match of either is enough.
    ``same_link_as`` is a verification with the same reference.
    """

    slug: str = ""
    outcome: str = ""  # an outcome, or LIVE
    since: datetime | None = None
    until: datetime | None = None
    customers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    same_link_as: str = ""
    method: str = ""  # one of those that the customer proved it with


@dataclass(frozen=True)
class StoryLine:
    """A verification as a list shows it. ``callback`` is the state of its callback, None while it is under way.

    One that someone else has changed has the outcome CHANGED, no customer and no methods.
    """

    id: str
    slug: str
    began_at: datetime
    outcome: str | None
    ended_at: datetime | None
    methods: str
    customer_row: str | None
    customer_id: str | None
    callback: str | None
    payment: str = ""  # that the customer was asked to approve, in one line
    asked_payment: AskedPayment | None = None  # the same in parts


class EndPlace(NamedTuple):
    """Where a program has got to among the ends of verifications.

    It is a block of the audit trail, the beginning of its head, which says that it is still the same trail, how many
    ends of that block were read, and up to which block the trail went when the program began: of those, it misses only
    what had been deleted by then.
    """

    block: int
    head: str
    ends: int
    began: int = 0

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the place that a text came from (``str``). Raise Gone for any other text."""
        place = r"(\d{1,18})\.([0-9a-f]{0,16})\.(\d{1,9})(?:\.(\d{1,18}))?"
        if (found := re.fullmatch(place, text, re.ASCII)) is None:
            raise Gone("changes_forgotten")
        return cls(int(found[1]), found[2], int(found[3]), int(found[4] or 0))

    def __str__(self) -> str:
        return f"{self.block}.{self.head}.{self.ends}.{self.began}"


@dataclass(frozen=True)
class EndedPage:
    """Verifications in the order in which the audit trail has their ends. With ``is_more`` there is more to read."""

    lines: tuple[StoryLine, ...]
    place: EndPlace
    is_more: bool


@dataclass(frozen=True)
class PossiblePeople:
    """Who an admin may mean: rows of customers, and the hashes by which the visits of strangers are found.

    ``phone`` is the number as it was read, if the text is one.
    """

    customers: tuple[str, ...]
    names: tuple[str, ...]
    phone: ReadNumber | None = None


@dataclass(frozen=True)
class CustomerVisit:
    """A verification in which a customer was named, with its story in one sentence."""

    line: StoryLine
    sentence: str
    is_named_now: bool  # it is about them: they were verified, or else named last


@dataclass(frozen=True)
class CustomerHistory:
    """The last visits of a customer and the last deliveries to them, the newest first."""

    visits: tuple[CustomerVisit, ...]
    has_more: bool  # visits
    deliveries: tuple[CustomerDelivery, ...]


@dataclass(frozen=True)
class DeliveryAbout:
    """What the page of a delivery says of it. ``request`` is masked, and empty where it isn't stored."""

    subject: DeliverySubject
    fix: DeliveryFix | None
    request: str


@dataclass(frozen=True)
class Story:
    """The story of a verification: what to read to the caller, what helps, its moments, and all that is on record.

    One that someone else has changed has the outcome CHANGED and no customer.
    """

    id: str
    slug: str
    journey: str
    version: int  # of the journey
    version_saved_at: datetime
    defence: str  # of the link, by its name in the journey
    reference: str  # only its ends
    began_at: datetime
    outcome: str | None
    customer_id: str
    customer_row: str | None
    who: NamedPerson | None  # as lists show them
    in_short: str  # in the second person
    headline: str  # one sentence
    help: CallerHelp
    clock: tuple[ClockMark, ...]
    moments: tuple[Moment, ...]
    timeline: tuple[Moment, ...]
    events: int  # of the audit
    callback_id: str
    payment: str  # that the customer was asked to approve, in one line
    has_others: bool  # the same reference has more verifications


FILE_COLUMNS = ("id", "began_at", "ended_at", "slug", "outcome", "methods", "customer_id", "callback", "payment")
_LINE = (
    Verification.id,
    Verification.slug,
    Verification.began_at,
    Verification.outcome,
    Verification.ended_at,
    Verification.methods,
    Verification.customer_row,
    CustomerRow.customer_id,
    Delivery.state.label("callback"),
)
_LINES: Any = (
    select(*_LINE, *RESULT_COLUMNS, *TICKET_COLUMNS)
    .outerjoin(CustomerRow, CustomerRow.id == Verification.customer_row)
    .outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
    .outerjoin(Delivery, and_(Delivery.verification_id == Verification.id, Delivery.kind == CALLBACK))
)


class Stories:
    """Find verifications, and their stories."""

    def __init__(self, transactions: Transactions, journeys: Journeys, paths: Mapping[str, str]) -> None:
        """``paths`` are those of Flow, by contract."""
        self._transactions = transactions
        self._journeys = journeys
        self._paths = paths

    def by_reference(self, candidates: Iterable[str]) -> tuple[str, ...]:
        """Return the verifications of a reference, newest first.

        ``candidates`` are the possible readings of what was pasted.
        """
        hashes = [token_hash(text) for text in candidates]
        found = select(Verification.id).where(Verification.reference_hash.in_(hashes))
        with self._transactions.read() as work:
            return tuple(work.execute(found.order_by(Verification.id.desc()).limit(PAGE)).scalars())

    def named(self, typed: str, candidates: Iterable[str]) -> tuple[StoryLine, ...]:
        """Return the verifications whose id or reference an admin has pasted, newest first."""
        ids = [*pasted_ids(typed), *self.by_reference(candidates)]
        with self._transactions.read() as work:
            found = work.execute(_LINES.where(Verification.id.in_(ids)).order_by(Verification.id.desc())).all()
        return tuple(self._line(row) for row in found)

    def people_called(self, typed: str) -> PossiblePeople | None:
        """Return who a customer ID, phone or email address may mean; None for a text that can be none of these.

        A phone number may also be written as a chat network does.
        """
        region = self._journeys.current().portal.default_region
        # A journey may accept only one kind, so each is also read alone: the hash is of that form.
        kinds, keyring = (KINDS, *((kind,) for kind in KINDS)), self._transactions.keyring
        read = [found for kind in kinds if (found := read_identifier(typed, kind, region, keyring))]
        numbers = (read_identifier(number, ("phone",), region, keyring) for number in numbers_of(typed, region))
        read += [number for number in numbers if number is not None]
        if not read:
            return None
        with self._transactions.read() as work:
            held = [row for one in read for row in holders_of(work.connection, one, MOST_PEOPLE)]
        rows = tuple(dict.fromkeys(held))[:MOST_PEOPLE]
        return PossiblePeople(rows, tuple(dict.fromkeys(one.key for one in read)), read_number(typed, region))

    def customer_ids(self, rows: Iterable[str]) -> tuple[str, ...]:
        """Return the customer IDs of these rows of customers."""
        found = select(CustomerRow.customer_id).where(CustomerRow.id.in_(list(rows)))
        with self._transactions.read() as work:
            return tuple(work.execute(found.order_by(CustomerRow.customer_key)).scalars())

    def page(self, wanted: StoryFilter, *, after: str = "", most: int = PAGE) -> Listing[StoryLine]:
        """Return a page of verifications, newest first."""
        with self._transactions.read() as work:
            return _found(work.connection, _LINES, wanted, after, most).of(self._line)

    def file(self, since: datetime | None, until: datetime | None) -> Iterator[str]:
        """Yield the verifications of a time, newest first, as a CSV file in pieces."""
        return csv_pages(FILE_COLUMNS, partial(self.page, StoryFilter(since=since, until=until)))

    def counts(self, wanted: StoryFilter) -> Mapping[str, BoundedCount]:
        """Return by outcome how many verifications the rest of a filter finds; under "" those of any outcome."""
        query: Any = select(Verification.id, Verification.outcome)
        is_narrow = wanted.slug or wanted.customers or wanted.names or wanted.same_link_as or wanted.method
        by_index = () if is_narrow else (name for name in OUTCOME_NAMES if name != VERIFIED)
        with self._transactions.read() as work:
            find = partial(_found, work.connection, query)
            newest = find(replace(wanted, outcome=""), "", WINDOW).of(lambda row: row.outcome or LIVE)
            served = {name: partial(find, replace(wanted, outcome=name), "") for name in by_index}
            return counts_of(newest, ("", *OUTCOME_NAMES), served)

    def people_of(self, lines: Sequence[StoryLine]) -> Mapping[str, NamedPerson]:
        """Return by verification who it is about: verified, or else named last, which proves nothing."""
        with self._transactions.read() as work:
            return named_people(work, {line.id: line.customer_row for line in lines if line.outcome != CHANGED})

    def subjects_of(self, delivery_ids: Sequence[str]) -> Mapping[str, DeliverySubject]:
        """Return by delivery what it is about and where it goes."""
        with self._transactions.read() as work:
            return delivery_subjects(work, self._journeys, delivery_ids)

    def sent_to(self, customers: tuple[str, ...]) -> Mapping[str, Any]:
        """Return what a filter of deliveries knows these customers by: its fields."""
        with self._transactions.read() as work:
            visited = _visited(work.connection, StoryFilter(customers=customers), "") if customers else ()
            return {"customers": customers, "visited": tuple(visited), "lanes": customer_lanes(work, customers)}

    def of_delivery(self, delivery_id: str) -> DeliveryAbout:
        """Return what a delivery is about, who can fix it, and its request, masked."""
        with self._transactions.read() as work:
            subject = delivery_subjects(work, self._journeys, [delivery_id])[delivery_id]
            fix = who_fixes(delivery_facts(work, delivery_id), subject.kind)
            return DeliveryAbout(subject, fix, masked_result(work, delivery_id, subject, self._paths))

    def others_of(self, story: Story) -> tuple[StoryLine, ...]:
        """Return the newest other verifications in which the customer of a story was named."""
        if story.customer_row is None:
            return ()
        found = self.page(StoryFilter(customers=(story.customer_row,)), most=OTHER_VISITS + 1)
        return tuple(line for line in found.rows if line.id != story.id)[:OTHER_VISITS]

    def history_of(self, row: str) -> CustomerHistory:
        """Return what a customer's page shows of their visits and of what was sent to them."""
        found = self.page(StoryFilter(customers=(row,)), most=LAST_VISITS)
        people, visits = self.people_of(found.rows), []
        with self._transactions.read() as work:
            for line in found.rows:
                sentence = headline(tuple(story_moments(load_record(work, self._journeys, line.id))))
                named = people.get(line.id)
                visits.append(CustomerVisit(line, sentence, named is None or named.row == row))
            ids = [line.id for line in found.rows]
            sent = customer_deliveries(work, self._journeys, row, ids, LAST_DELIVERIES)
        return CustomerHistory(tuple(visits), bool(found.older), sent)

    def ended_after(self, place: EndPlace | None, most: int) -> EndedPage:
        """Return the verifications that ended since a place, without one all that are stored.

        Their order is that of the audit trail, whose blocks seal what has committed: nothing ever follows in a block
        that was read. Raise Gone for a place that retention has cut off, or in another trail, and if one that ended
        since the program began was deleted before it was read.
        """
        with self._transactions.read() as work:
            place = place or _first_place(work)
            blocks = _blocks_from(work, place)
            ids = [one for block in blocks for one in block.events]
            ended = select(AuditEvent.id, AuditEvent.verification_id).where(
                AuditEvent.id.in_(ids), AuditEvent.kind == "verification_ended"
            )
            of_event = {row.id: row.verification_id for row in work.execute(ended)}
            found: list[str] = []
            later: list[str] = []  # of them, what ended since the program began
            for block in blocks:
                ends = [of_event[one] for one in block.events if one in of_event]
                start = place.ends if block.number == place.block else 0
                found += (taken := ends[start : start + most - len(found)])
                later += taken if block.number > place.began else []
                place = EndPlace(block.number, block.head[:HEAD_SHOWN], start + len(taken), place.began)
                if len(found) == most:
                    break
            lines = {row.id: row for row in work.execute(_LINES.where(Verification.id.in_(found)))}
        if not lines.keys() >= set(later):
            raise Gone("changes_forgotten")
        is_more = len(found) == most or len(blocks) == BLOCKS_AT_ONCE
        return EndedPage(tuple(self._line(lines[one]) for one in found if one in lines), place, is_more)

    def line(self, verification_id: str) -> StoryLine:
        """Return one verification as a list shows it. Raise NotFound("verification_unknown")."""
        with self._transactions.read() as work:
            row = work.execute(_LINES.where(Verification.id == verification_id)).one_or_none()
        if row is None:
            raise NotFound("verification_unknown")
        return self._line(row)

    def _line(self, row: Any) -> StoryLine:
        region = self._journeys.current().portal.default_region
        asked = asked_payment(self._transactions.keyring, row, region)
        values = {column.key: getattr(row, column.key) for column in _LINE}
        line = StoryLine(**values, payment=asked.text if asked else "", asked_payment=asked)
        if not is_forged(self._transactions.keyring, self._journeys, row):
            return line
        return replace(line, outcome=CHANGED, methods="", customer_row=None, customer_id=None, asked_payment=None)

    def get(self, verification_id: str) -> Story:
        """Return the story of one verification. Raise NotFound("verification_unknown")."""
        with self._transactions.read() as work:
            record = load_record(work, self._journeys, verification_id)
            row = record.person.row if record.person else None
            who = {} if record.is_changed else named_people(work, {verification_id: row})
        moments = tuple(story_moments(record))
        return Story(
            id=verification_id,
            slug=record.row.slug,
            journey=record.journey.name,
            version=record.row.version_number,
            version_saved_at=record.row.version_saved_at,
            defence=record.journey.relay_defence,
            reference=record.reference_ends,
            began_at=record.row.began_at,
            outcome=CHANGED if record.is_changed else record.row.outcome,
            customer_id=record.person.customer_id if record.person else "",
            customer_row=row,
            who=who.get(verification_id),
            in_short=in_short(record),
            headline=headline(moments),
            help=what_helps(record, moments),
            clock=clock_marks(record),
            moments=moments,
            timeline=tuple(raw_timeline(record)),
            events=len(record.events),
            callback_id=record.callback.line.id if record.callback else "",
            payment=record.payment,
            has_others=record.has_others,
        )


def _found(connection: Connection, query: Select[Any], wanted: StoryFilter, after: str, most: int) -> Listing[Any]:
    between = made_between(Verification.id, wanted.since, wanted.until)
    if wanted.customers or wanted.names:
        return _page_of_people(connection, query, wanted, between, after, most)
    found_by, filtered_by = _conditions(wanted)
    search = Search(found_by=[[*found_by, *between]], filtered_by=filtered_by, after=after, most=most)
    return listed(connection, query, Verification.id, search)


def _first_place(work: Work) -> EndPlace:
    """Return a place before the ends of all verifications that are stored."""
    oldest = select(Verification.id).order_by(Verification.id).limit(1).scalar_subquery()
    began = select(func.min(AuditEvent.block)).where(AuditEvent.verification_id == oldest)
    block = work.execute(began).scalar()
    newest = work.execute(select(func.max(AuditBlock.number))).scalar() or 0
    if block is None:  # none is stored, or none of its events is sealed yet
        block = newest
    cut = work.execute(select(AuditChain.cut_number)).scalar() or 0
    return EndPlace(max(block - BLOCKS_BEFORE, cut, 0), "", 0, newest)


def _blocks_from(work: Work, place: EndPlace) -> list[Any]:
    """Return the next blocks of the audit trail, that of the place first. Raise Gone."""
    columns = AuditBlock.number, AuditBlock.events, AuditBlock.head
    found = select(*columns).where(AuditBlock.number >= place.block).order_by(AuditBlock.number)
    blocks = list(work.execute(found.limit(BLOCKS_AT_ONCE)))
    if not place.head or (blocks and blocks[0].number == place.block and blocks[0].head.startswith(place.head)):
        return blocks
    cut = work.execute(select(AuditChain.cut_number, AuditChain.cut_head)).one_or_none()
    if cut is None or cut.cut_number != place.block or not cut.cut_head.startswith(place.head):
        raise Gone("changes_forgotten")
    return blocks


def _page_of_people(
    connection: Connection,
    query: Select[Any],
    wanted: StoryFilter,
    between: Sequence[Condition],
    after: str,
    most: int,
) -> Listing[Any]:
    """Return the verifications of these people: found through the visits, so that those of strangers are too."""
    ids = _visited(connection, wanted, after)
    chosen = [Verification.id.in_(ids), *between, *_all_of(wanted), *_proved_with(wanted.method)]
    lines = tuple(connection.execute(query.where(*chosen).order_by(Verification.id.desc()).limit(most + 1)))
    if len(lines) > most:
        return Listing(lines[:most], older=lines[most - 1].id)
    is_partial = len(ids) == MOST_IDS
    return Listing(lines, older=ids[-1] if is_partial else "", is_partial=is_partial)


def _visited(connection: Connection, wanted: StoryFilter, after: str) -> list[str]:
    """Return the verifications in which these people were named, the newest MOST_IDS before ``after``."""
    start = (Visit.verification_id < after,) if after else ()
    found: set[str] = set()
    for column, values in ((Visit.customer_row, wanted.customers), (Visit.identifier_key, wanted.names)):
        for value in values:
            visits = select(Visit.verification_id).distinct().where(column == value, *start)
            newest = visits.order_by(Visit.verification_id.desc()).limit(MOST_IDS)
            found |= set(connection.execute(newest).scalars())
    return sorted(found, reverse=True)[:MOST_IDS]


def _conditions(wanted: StoryFilter) -> tuple[list[Condition], list[Condition]]:
    """Return what an index serves, and the rest. Of two that it serves, take the one that finds fewer rows."""
    proved = _proved_with(wanted.method)
    if wanted.same_link_as:
        this = select(Verification.reference_hash).where(Verification.id == wanted.same_link_as)
        return [Verification.reference_hash == this.scalar_subquery()], [*_all_of(wanted), *proved]
    by_slug, by_outcome = _all_of(replace(wanted, outcome="")), _all_of(replace(wanted, slug=""))
    if wanted.outcome == LIVE:
        return [Verification.id.in_(live_ids(wanted.slug))], proved
    if wanted.outcome not in ("", VERIFIED):
        return [as_written(ENDED_OTHERWISE), *by_outcome], [*by_slug, *proved]
    return by_slug, [*by_outcome, *proved]


def _proved_with(method: str) -> list[Condition]:
    """Return the condition for ``methods``, which are joined by +, to have this one; none without one."""
    joined = "+" + Verification.methods + "+"
    return [joined.contains(f"+{method}+", autoescape=True)] if method else []


def _all_of(wanted: StoryFilter) -> list[Condition]:
    found: list[Condition] = []
    if wanted.slug:
        found.append(Verification.slug == wanted.slug)
    if wanted.outcome == LIVE:
        found.append(Verification.outcome.is_(None))
    elif wanted.outcome:
        found.append(Verification.outcome == wanted.outcome)
    return found
