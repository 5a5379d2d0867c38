"""Lists of deliveries: what left and what did not, each with its attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, Self

from sqlalchemy import Connection, func, or_, select, tuple_

from auth_portal.errors import Gone, NotFound
from auth_portal.services.delivery.retry import RETRIABLE, refusals_of, retry_of
from auth_portal.services.history.lists import (
    COUNTED,
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
from auth_portal.store.db import Transactions
from auth_portal.store.models import (
    CALLBACK,
    CHANGED,
    ENDED,
    EVENT,
    MESSAGE,
    NOT_ACCEPTED,
    RESULT_COLUMNS,
    Attempt,
    Challenge,
    ChannelState,
    CustomerRow,
    Delivery,
    DeliveryState,
    Verification,
    is_changed,
)

KINDS = (CALLBACK, MESSAGE, EVENT)
STATES = tuple(DeliveryState)
PENDING = DeliveryState.PENDING
RARE_STATES = tuple(state for state in STATES if state not in (PENDING, DeliveryState.ACCEPTED))
FAILED = "failed"  # in a filter: every state that can be retried
OPEN_MOST = 100  # failed deliveries, the newest, that are looked at for what can be retried
OPEN_DAYS = 7  # for which a failed delivery asks for a retry; notices could be retried until they are deleted
ENDED_BEHIND = timedelta(seconds=60)  # no transaction that ends a delivery takes so long, and no clock is so far off
PLACE_TIME = "%Y%m%d%H%M%S%f"
BEHIND_ALL = "g"  # sorts behind every id, which has hex digits
OPEN_SECONDS = 10  # for which a process shows what it has counted


@dataclass(frozen=True)
class DeliveryFilter:
    """Which deliveries to list; an empty field does not filter. Times are UTC.

    With ``customers``, rows of them, only the codes and results of ``visited`` verifications and what leaves in these
    ``lanes``, the notices to them.
    """

    kind: str = ""
    state: str = ""  # one of STATES, or FAILED
    target: str = ""
    verification_id: str = ""
    customers: tuple[str, ...] = ()
    visited: tuple[str, ...] = ()
    lanes: tuple[bytes, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def search(self, *, after: str, most: int) -> Search:
        """Return what to look for: by an index as far as one serves it, among the rows found so for the rest."""
        between = made_between(Delivery.id, self.since, self.until)
        found_by: list[list[Condition]] = [between]
        filtered_by: list[Condition] = [Delivery.target == self.target] if self.target else []
        states = RETRIABLE if self.state == FAILED else (self.state,)
        is_rare = self.state not in ("", PENDING, DeliveryState.ACCEPTED)  # a partial index serves kind and state
        if self.customers:
            codes = select(Challenge.id).where(
                Challenge.verification_id.in_(self.visited), Challenge.customer_row.in_(self.customers)
            )
            is_theirs = or_(Delivery.kind == CALLBACK, Delivery.challenge_id.in_(codes))
            found_by = [
                [Delivery.verification_id.in_(self.visited), is_theirs, *between],
                [Delivery.lane.in_(self.lanes), *between],
            ]
        elif self.verification_id:
            found_by = [[Delivery.verification_id == self.verification_id, *between]]
        elif self.state == PENDING:  # with the kind, or SQLite reads the whole table in its order
            kinds = (self.kind,) if self.kind else KINDS
            found_by = [[as_written("state = 'pending'"), Delivery.kind == kind, *between] for kind in kinds]
            return Search(found_by=found_by, filtered_by=filtered_by, after=after, most=most)
        elif is_rare:
            found_by = [
                [as_written(NOT_ACCEPTED), Delivery.kind == kind, Delivery.state == state, *between]
                for kind in ((self.kind,) if self.kind else KINDS)
                for state in states
            ]
            return Search(found_by=found_by, filtered_by=filtered_by, after=after, most=most)
        if self.kind:
            filtered_by.append(Delivery.kind == self.kind)
        if self.state:
            filtered_by.append(Delivery.state.in_(states))
        return Search(found_by=found_by, filtered_by=filtered_by, after=after, most=most)


@dataclass(frozen=True)
class DeliveryLine:
    """A delivery as a list shows it."""

    id: str
    kind: str
    verification_id: str | None
    challenge_id: str | None
    target: str
    contract: str
    state: str
    reason: str
    attempts: int
    is_unclear: bool
    created_at: datetime
    next_at: datetime
    give_up_at: datetime
    ended_at: datetime | None

    @property
    def may_be_retried(self) -> bool:
        """Report whether its state allows a retry; something else may still rule it out."""
        return self.state in RETRIABLE


@dataclass(frozen=True)
class AttemptLine:
    """One try to send a delivery. Without ``ended_at`` its fate is unknown."""

    number: int
    began_at: datetime
    ended_at: datetime | None
    milliseconds: int | None
    fate: str
    status: int | None
    detail: str


@dataclass(frozen=True)
class DeliveryStory:
    """A delivery with every attempt. ``refusal`` is a key of REFUSALS: why it cannot be retried, if it cannot.

    A retry would be tried until ``retry_until``. ``outcome`` is CHANGED if someone else has changed the verification.
    """

    line: DeliveryLine
    tries: tuple[AttemptLine, ...]
    outcome: str
    slug: str
    refusal: str
    needs_confirmation: bool
    retry_until: datetime


FILE_COLUMNS = ("id", "created_at", "ended_at", "kind", "target", "state", "reason", "attempts", "verification_id")
LINE_COLUMNS = tuple(getattr(Delivery, name) for name in DeliveryLine.__dataclass_fields__)
_ATTEMPT = tuple(getattr(Attempt, name) for name in AttemptLine.__dataclass_fields__)
_STORY = (
    select(*LINE_COLUMNS, Verification.outcome, Verification.slug, *RESULT_COLUMNS)
    .outerjoin(Verification, Verification.id == Delivery.verification_id)
    .outerjoin(CustomerRow, CustomerRow.id == Verification.customer_row)
)


@dataclass(frozen=True)
class OpenActs:
    """What waits for an admin: how many deliveries a retry would send, up to OPEN_MOST, and which channels fail."""

    at: datetime
    retries: int
    failing: frozenset[str]

    @property
    def retries_text(self) -> str:
        """Return the number as a page shows it: ``100+`` where not all were looked at, nothing for none."""
        return f"{self.retries}+" if self.retries >= OPEN_MOST else str(self.retries or "")


class DeliveryPlace(NamedTuple):
    """Where a program has got to among the ends of deliveries of a portal: the time and the id of the last one."""

    portal: str
    ended_at: datetime
    id: str

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the place that a text came from (``str``). Raise Gone for any other text."""
        try:
            portal, ended_at, of_id = text.split(".")
            return cls(portal, datetime.strptime(ended_at, PLACE_TIME).replace(tzinfo=UTC), of_id)
        except ValueError:
            raise Gone("changes_forgotten") from None

    def __str__(self) -> str:
        return f"{self.portal}.{self.ended_at:{PLACE_TIME}}.{self.id}"


@dataclass(frozen=True)
class EndedDeliveries:
    """Deliveries in the order of their ends. With ``is_more`` there is more to read."""

    lines: tuple[DeliveryLine, ...]
    place: DeliveryPlace
    is_more: bool


class DeliveryLists:
    """List deliveries, and show one with its attempts."""

    def __init__(self, transactions: Transactions, stored_for: Callable[[], timedelta]) -> None:
        """``stored_for`` returns for how long deliveries are stored."""
        self._transactions = transactions
        self._stored_for = stored_for
        self._open: OpenActs | None = None

    def open_acts(self) -> OpenActs:
        """Return what waits for an admin, at most OPEN_SECONDS old: every page shows it."""
        found, now = self._open, self._transactions.clock()
        if found is None or abs(now - found.at) >= timedelta(seconds=OPEN_SECONDS):
            failed = DeliveryFilter(state=FAILED, since=now - timedelta(days=OPEN_DAYS))
            failing = select(ChannelState.name).where(ChannelState.failures_in_row > 0)
            with self._transactions.read() as work:
                rows = listed(
                    work.connection, select(Delivery.id), Delivery.id, failed.search(after="", most=OPEN_MOST)
                ).rows
                retries = refusals_of(work, [row.id for row in rows]).count("")
                self._open = found = OpenActs(now, retries, frozenset(work.execute(failing).scalars()))
        return found

    def page(self, wanted: DeliveryFilter, *, after: str = "", most: int = PAGE) -> Listing[DeliveryLine]:
        """Return a page of deliveries, newest first."""
        with self._transactions.read() as work:
            found = listed(work.connection, select(*LINE_COLUMNS), Delivery.id, wanted.search(after=after, most=most))
        return found.of(line_from)

    def file(self, since: datetime | None, until: datetime | None) -> Iterator[str]:
        """Yield the deliveries of a time, newest first, as a CSV file in pieces. It has no recipients."""
        return csv_pages(FILE_COLUMNS, partial(self.page, DeliveryFilter(since=since, until=until)))

    def counts(self, wanted: DeliveryFilter) -> Mapping[str, BoundedCount]:
        """Return by state, and for FAILED, how many deliveries the rest of a filter finds; under "" those of any."""
        query: Any = select(Delivery.id, Delivery.state)
        by_index = () if wanted.target or wanted.verification_id or wanted.customers else RARE_STATES
        with self._transactions.read() as work:

            def page(state: str, most: int) -> Listing[Any]:
                search = replace(wanted, state=state).search(after="", most=most)
                return listed(work.connection, query, Delivery.id, search)

            newest = page("", WINDOW).of(lambda row: str(row.state))
            found = counts_of(newest, ("", *STATES), {state: partial(page, state) for state in by_index})
        failed = [found[state] for state in RETRIABLE]
        number = sum(count.number for count in failed)
        is_exact = all(count.is_exact for count in failed) and number <= COUNTED
        return {**found, FAILED: BoundedCount(min(number, COUNTED), is_exact)}

    def ended_after(self, place: DeliveryPlace | None, most: int) -> EndedDeliveries:
        """Return the deliveries that ended since a place, without one all that are stored.

        One that is retried comes again when it ends again. They are listed ENDED_BEHIND late, when all transactions
        that end one have committed: nothing that is earlier follows. Raise Gone for a place of another portal, or
        so old that what ended after it was removed. A reader who has just begun is at one that is still stored.
        """
        portal = self._transactions.keyring.index("change feed", "")[:8]
        beginning = DeliveryPlace(portal, datetime.fromtimestamp(0, UTC), "")
        is_known, place = place is not None, place or beginning
        if place.portal != portal:
            raise Gone("changes_forgotten")
        with self._transactions.read() as work:
            until = work.now - ENDED_BEHIND
            its = Delivery.ended_at, Delivery.id
            if is_known and place.ended_at < work.now - self._stored_for():
                first = work.execute(select(func.min(Delivery.ended_at)).where(as_written(ENDED))).scalar()
                if first is None or place.ended_at < first:
                    raise Gone("changes_forgotten")
            ended = select(*LINE_COLUMNS).where(as_written(ENDED), tuple_(*its) > tuple_(place.ended_at, place.id))
            rows = work.execute(ended.where(Delivery.ended_at <= until).order_by(*its).limit(most)).all()
        is_more = len(rows) == most
        reached = DeliveryPlace(portal, rows[-1].ended_at, rows[-1].id) if is_more else None
        reached = reached or DeliveryPlace(portal, max(until, place.ended_at), BEHIND_ALL)
        return EndedDeliveries(tuple(map(line_from, rows)), reached, is_more)

    def named(self, typed: str) -> tuple[DeliveryLine, ...]:
        """Return the deliveries whose ids an admin has pasted."""
        found = select(*LINE_COLUMNS).where(Delivery.id.in_(pasted_ids(typed)))
        with self._transactions.read() as work:
            return tuple(line_from(row) for row in work.execute(found))

    def get(self, delivery_id: str) -> DeliveryStory:
        """Return a delivery with its attempts. Raise NotFound("delivery_unknown")."""
        with self._transactions.read() as work:
            row = work.execute(_STORY.where(Delivery.id == delivery_id)).one_or_none()
            if row is None:
                raise NotFound("delivery_unknown")
            tries = attempts_of(work.connection, [delivery_id])
            refusal, until = retry_of(work, delivery_id)
        needs_confirmation = refusal == "unconfirmed"
        return DeliveryStory(
            line_from(row),
            tuple(tries[delivery_id]),
            CHANGED if is_changed(work.keyring, row) else row.outcome or "",
            row.slug or "",
            "" if needs_confirmation else refusal,
            needs_confirmation,
            until,
        )


def attempts_of(connection: Connection, delivery_ids: Sequence[str]) -> dict[str, list[AttemptLine]]:
    """Return every attempt of some deliveries, in order."""
    found: dict[str, list[AttemptLine]] = {delivery_id: [] for delivery_id in delivery_ids}
    query = select(Attempt.delivery_id, *_ATTEMPT).where(Attempt.delivery_id.in_(delivery_ids))
    for row in connection.execute(query.order_by(Attempt.delivery_id, Attempt.number)):
        values = row._asdict()
        found[values.pop("delivery_id")].append(AttemptLine(**values))
    return found


def line_from(row: Any) -> DeliveryLine:
    """Return the line of a row that has LINE_COLUMNS."""
    return DeliveryLine(**{name: getattr(row, name) for name in DeliveryLine.__dataclass_fields__})
