"""Read the audit trail: search and export. What is shown is compared with its own HMAC; ``audit_check`` does more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Text, and_, cast, or_, select

from auth_portal.services.config.changes import ADDRESSES, Difference, OwnerNotices, TableChange, recorded_facts
from auth_portal.services.history.lists import (
    PAGE,
    Condition,
    Listing,
    Search,
    as_written,
    cell_text,
    csv_rows,
    listed,
    made_between,
)
from auth_portal.services.history.words import (
    EVENTS,
    Vocabulary,
    browser_words,
    event_sentence,
    field_words,
    stored_for,
    title_words,
    value_words,
    who_acted,
)
from auth_portal.store.db import EVENT_FIELDS, Transactions, Work, canonical_event, parted_facts
from auth_portal.store.models import COMMON_KINDS, RARE_KIND, Admin, ApiKeyRow, AuditBlock, AuditEvent, CustomerRow

BATCH = 1000  # events of an export that are loaded at once
MOST_WORDS = 8  # of a search; each is looked for in every event of a page
TOGETHER = timedelta(seconds=60)  # before and after an event, in which the other events of its request are looked for
MOST_TOGETHER = 200  # events of one request that its page shows
ABOUT_KEYS = ("api_key_created", "api_key_revoked")  # their fact ``api_key`` is not who acted
KINDS = tuple(sorted(EVENTS))
BY_ADMINS, BY_PROGRAMS, BY_COMMANDS, BY_CUSTOMERS = ACTORS = ("admins", "programs", "commands", "customers")
FORMATS = ("csv", "jsonl")
CSV_COLUMNS: tuple[str, ...] = ("at", "kind", "text", "admin", "customer_id", "verification_id", "subject_id")
CSV_COLUMNS += ("admin_id", "facts", "id")
CSV_COLUMNS += ("by", "address", "browser", "number")  # since 0.2.0, at the end: others are found by place as before


@dataclass(frozen=True)
class AuditFilter:
    """Which events to list; an empty field does not filter. Times are UTC.

    ``words`` must all occur in an event: in its sentence, kind or facts, or the name of who acted. ``address`` may end
    in ``.`` or ``:`` to mean all that begin with it. ``actor`` is one of ACTORS.
    """

    kind: str = ""
    admin_id: str = ""
    key_id: str = ""
    actor: str = ""
    subject_ids: tuple[str, ...] = ()
    verification_id: str = ""
    address: str = ""
    words: str = ""
    since: datetime | None = None
    until: datetime | None = None


class AuditDifference(NamedTuple):
    """A field that an act changed, in words: in what (``Channel “sms”``), which, and what it was before and after.

    ``slug`` is the journey's, if it is one of a journey.
    """

    of: str
    key: str
    before: str
    after: str
    slug: str = ""


@dataclass(frozen=True)
class AuditLine:
    """One event. ``holds`` is True if its HMAC is that of its content.

    ``by`` is who did it: an admin or an API key by name, or a command; empty for customers. ``address``, ``browser`` in
    words, and the ``account`` that ran a command say from where. ``facts`` are as they would be recorded today: an
    address that an older version recorded whole is not. ``place`` is its number in ``block``, from 1, among ``of``: all
    three are 0 until it is sealed.
    """

    id: str
    at: datetime
    kind: str
    text: str
    verification_id: str | None
    subject_id: str | None
    customer_row: str | None
    customer_id: str | None
    admin_id: str | None
    admin: str | None
    facts: dict[str, Any]
    holds: bool
    by: str
    about: str  # the name of the admin that it is about
    address: str
    browser: str
    account: str
    changes: tuple[AuditDifference, ...]
    versions: Mapping[str, int]  # of journeys, by slug, that it made
    block: int
    place: int
    of: int

    @property
    def number(self) -> str:
        """Return its block and its place there, such as ``482.17``; "" until it is sealed."""
        return f"{self.block}.{self.place}" if self.place else ""

    @property
    def about_id(self) -> str:
        """Return the id of the admin that it is about; "" if it is about none."""
        return str(self.facts.get("of") or "") if self.kind.startswith("admin_") else ""


_EVENT = tuple(getattr(AuditEvent, name) for name in (*EVENT_FIELDS, "mac", "block"))
_EVENTS: Select[Any] = (
    select(*_EVENT, Admin.name.label("admin"), CustomerRow.id.label("customer_row"), CustomerRow.customer_id)
    .outerjoin(Admin, Admin.id == AuditEvent.admin_id)
    .outerjoin(CustomerRow, CustomerRow.subject_id == AuditEvent.subject_id)
)


class AuditTrail:
    """Search and export the audit trail."""

    def __init__(
        self, transactions: Transactions, journeys: Callable[[], Mapping[str, str]], terms: Mapping[str, str]
    ) -> None:
        """``journeys`` returns the titles of journeys by slug; ``terms`` are as in ``Vocabulary``."""
        self._transactions = transactions
        self._journeys = journeys
        self._terms = terms

    def page(self, wanted: AuditFilter, *, after: str = "", most: int = PAGE) -> Listing[AuditLine]:
        """Return a page of events, newest first."""
        vocabulary = self._vocabulary()
        found_by, filtered_by = _conditions(wanted, vocabulary)
        search = Search(found_by=found_by, filtered_by=filtered_by, after=after, most=most)
        with self._transactions.read() as work:
            found = listed(work.connection, _EVENTS, AuditEvent.id, search)
            return Listing(_lines(work, found.rows, vocabulary), found.older, found.is_partial)

    def last_of(self, subject_id: str, most: int) -> Listing[AuditLine]:
        """Return the last events about a customer, newest first."""
        return self.page(AuditFilter(subject_ids=(subject_id,)), most=most)

    def event(self, event_id: str) -> AuditLine | None:
        """Return one event; None if there is none with this id."""
        with self._transactions.read() as work:
            found = work.execute(_EVENTS.where(AuditEvent.id == event_id)).all()
            return next(iter(_lines(work, found, self._vocabulary())), None)

    def of_request(self, line: AuditLine) -> tuple[AuditLine, ...]:
        """Return the events of the request that this one belongs to, in their order; only itself if it is not known."""
        request = line.facts.get("request")
        if not request:
            return (line,)
        around = made_between(AuditEvent.id, line.at - TOGETHER, line.at + TOGETHER)
        found = _EVENTS.where(*around, _fact("request") == request).order_by(AuditEvent.id).limit(MOST_TOGETHER)
        with self._transactions.read() as work:
            return _lines(work, work.execute(found).all(), self._vocabulary())

    def subjects_of(self, rows: Sequence[str]) -> tuple[str, ...]:
        """Return the subject ids by which events name these rows of customers."""
        found = select(CustomerRow.subject_id).where(CustomerRow.id.in_(rows)).order_by(CustomerRow.customer_key)
        with self._transactions.read() as work:
            return tuple(work.execute(found).scalars())

    def customers_of(self, subject_ids: Sequence[str]) -> tuple[str, ...]:
        """Return the customer IDs of subject ids, without those of customers who were erased."""
        found = select(CustomerRow.customer_id).where(CustomerRow.subject_id.in_(subject_ids))
        with self._transactions.read() as work:
            return tuple(work.execute(found.order_by(CustomerRow.customer_key)).scalars())

    def admins(self) -> list[tuple[str, str]]:
        """Return every admin's id and name, to choose from."""
        with self._transactions.read() as work:
            rows = work.execute(select(Admin.id, Admin.name).order_by(Admin.name, Admin.id)).all()
        return [(row.id, row.name) for row in rows]

    def api_keys(self) -> list[tuple[str, str]]:
        """Return the id and name of each API key that there was, to choose from; the newest 200."""
        with self._transactions.read() as work:
            rows = work.execute(select(ApiKeyRow.id, ApiKeyRow.name).order_by(ApiKeyRow.id.desc()).limit(200)).all()
        return sorted(((row.id, row.name) for row in rows), key=lambda pair: pair[1].casefold())

    def export(self, wanted: AuditFilter, form: str, *, admin_id: str) -> Iterator[str]:
        """Return all events of a filter, newest first, as ``csv`` or ``jsonl``, in pieces. The export is audited."""
        with self._transactions.write() as work:
            work.record("audit_exported", admin_id=admin_id, format=form)
        if form == "csv":
            return _as_csv(self._all(wanted))
        return (_as_json(line) for lines in self._all(wanted) for line in lines)

    def record_file(self, what: str, admin_id: str) -> None:
        """Record that an admin downloads a list: ``verifications``, ``deliveries`` or ``admins``."""
        with self._transactions.write() as work:
            work.record("list_exported", admin_id=admin_id, what=what)

    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self._journeys(), self._terms)

    def _all(self, wanted: AuditFilter) -> Iterator[Sequence[AuditLine]]:
        after = ""
        while True:
            found = self.page(wanted, after=after, most=BATCH)
            yield found.rows
            if not (after := found.older):
                return


def _lines(work: Work, rows: Sequence[Any], vocabulary: Vocabulary) -> tuple[AuditLine, ...]:
    """Return events as lists show them, in their order."""
    # Events of before 0.2.0 have a key's id and not its name.
    keys = {row.facts["api_key"] for row in rows if row.facts.get("api_key")}
    admins = {str(row.facts["of"]) for row in rows if row.kind.startswith("admin_") and row.facts.get("of")}
    named: dict[str, str] = {}
    for model, ids in ((ApiKeyRow, keys), (Admin, admins)):
        if ids:
            named |= {row.id: row.name for row in work.execute(select(model.id, model.name).where(model.id.in_(ids)))}
    numbers = {row.block for row in rows if row.block is not None}
    blocks = select(AuditBlock.number, AuditBlock.events).where(AuditBlock.number.in_(numbers))
    found = work.execute(blocks) if numbers else ()
    places = {row.number: {one: n for n, one in enumerate(row.events, 1)} for row in found}
    return tuple(_line(work, row, named, places.get(row.block, {}), vocabulary) for row in rows)


def _line(
    work: Work, row: Any, named: Mapping[str, str], places: Mapping[str, int], vocabulary: Vocabulary
) -> AuditLine:
    values = row._asdict()
    holds = work.keyring.is_audit_mac(canonical_event(values), values.pop("mac"))
    values["facts"] = recorded_facts(row.facts)
    own, origin = parted_facts(values["facts"])
    name = named.get(origin.get("api_key", ""), "")
    if row.kind in ABOUT_KEYS:
        own, origin = {"name": name, **own}, {**origin, "api_key": ""}
    elif name:
        origin.setdefault("key", name)
    changed = own.get("changes")
    tables = changed.items() if isinstance(changed, dict) else ()
    return AuditLine(
        **{**values, "block": row.block or 0},
        text=event_sentence(row.kind, own, vocabulary),
        holds=holds,
        by=who_acted(row.admin or "", origin),
        about=named.get(str(own.get("of", "")), "") if row.kind.startswith("admin_") else "",
        address=origin.get("address", ""),
        browser=browser_words(origin.get("browser", "")),
        account=origin.get("account", ""),
        changes=tuple(
            _in_words(of, Difference(key, *map(str, sides)), vocabulary)
            for of, fields in tables
            if isinstance(fields, dict)
            for key, sides in fields.items()
            if isinstance(sides, list) and len(sides) == len(("before", "after"))
        ),
        versions=own.get("versions") or {},
        place=places.get(row.id, 0),
        of=len(places),
    )


def _in_words(of: str, found: Difference, vocabulary: Vocabulary) -> AuditDifference:
    table, _blank, name = of.partition(" ")
    before, after = (value_words(table, found.key, side) for side in (found.before, found.after))
    slug = name if table == "journey" else ""
    return AuditDifference(title_words(of, vocabulary), field_words(table, found.key), before, after, slug)


def in_words(notify: Callable[..., None]) -> OwnerNotices:
    """Return what notifies owners of changes (R44) in the words of the pages: ``notify`` gets lines instead of changes.

    Journeys are named as in their links: their own names may be what has changed.
    """
    vocabulary = Vocabulary({}, {})

    def lines(change: TableChange) -> Iterator[str]:
        yield f"{title_words(change.title, vocabulary)}: {change.done}"
        for found in change.guarded:
            shown = _in_words(change.title, found.recorded, vocabulary)
            yield f"  {shown.key}: {shown.before or 'nothing'} -> {shown.after or 'nothing'}"

    return lambda work, what, changes, *rest: notify(work, what, [one for of in changes for one in lines(of)], *rest)


def _fact(name: str) -> ColumnElement[str]:
    """Return a fact as SQL."""
    found: ColumnElement[str] = AuditEvent.facts[name].as_string()
    return found


def _conditions(wanted: AuditFilter, vocabulary: Vocabulary) -> tuple[list[list[Condition]], list[Condition]]:
    """Return what an index serves, the one that finds the fewest rows, and the rest."""
    by: dict[str, Condition] = {
        "verification_id": AuditEvent.verification_id == wanted.verification_id,
        "subject_ids": AuditEvent.subject_id.in_(wanted.subject_ids),
        "kind": AuditEvent.kind == wanted.kind,
        "admin_id": AuditEvent.admin_id == wanted.admin_id,
        "key_id": (_fact("api_key") == wanted.key_id) & AuditEvent.kind.not_in(ABOUT_KEYS),
    }
    given = {name: condition for name, condition in by.items() if getattr(wanted, name)}
    between = made_between(AuditEvent.id, wanted.since, wanted.until)
    served = next((name for name in given if name != "kind" or wanted.kind not in COMMON_KINDS), None)
    if served == "key_id":
        served = None
    found_by: list[list[Condition]] = [[given.pop(served), *between] if served else between]
    if served == "kind":
        found_by[0].append(as_written(RARE_KIND))
    if served == "subject_ids":
        found_by = [[AuditEvent.subject_id == one, *between] for one in wanted.subject_ids]
    filtered_by = list(given.values())
    if wanted.actor:
        filtered_by.append(_ACTORS[wanted.actor])
    if wanted.address:
        address = _fact("address")
        is_prefix = wanted.address.endswith((".", ":"))
        filtered_by.append(
            address.startswith(wanted.address, autoescape=True) if is_prefix else address == wanted.address
        )
    return found_by, [*filtered_by, *(_has_word(word, vocabulary) for word in wanted.words.split()[:MOST_WORDS])]


def _has_word(word: str, vocabulary: Vocabulary) -> ColumnElement[bool]:
    """Return the condition for events whose sentence, kind, facts or acting admin has a word, in any case."""
    kinds, values = stored_for(word, vocabulary)
    facts = cast(AuditEvent.facts, Text)
    # JSON is stored with escapes for what is not ASCII, which no database folds to one case.
    spellings = {json.dumps(one)[1:-1] for one in (word, word.lower(), word.upper(), word.capitalize())}
    named = select(Admin.id).where(or_(*(Admin.name.icontains(one, autoescape=True) for one in {word, word.title()})))
    return or_(
        AuditEvent.kind.in_(kinds),
        AuditEvent.kind.icontains(word, autoescape=True),
        and_(or_(*(facts.icontains(one, autoescape=True) for one in sorted(spellings))), *_HAS_NO_WHOLE_ADDRESS),
        *(facts.contains(value, autoescape=True) for value in values),
        AuditEvent.admin_id.in_(named),
    )


# What an older version recorded of an address may hold a secret, which a search would find letter by letter.
_HAS_NO_WHOLE_ADDRESS: tuple[ColumnElement[bool], ...] = tuple(
    or_(side.is_(None), side == "", side.endswith("/…"))
    for key in sorted(ADDRESSES)
    for side in (AuditEvent.facts["changes", "portal", key, number].as_string() for number in (0, 1))
)
_IS_PROGRAM = (_fact("api_key").is_not(None)) & AuditEvent.kind.not_in(ABOUT_KEYS)
_ACTORS: Mapping[str, ColumnElement[bool]] = {
    BY_ADMINS: AuditEvent.admin_id.is_not(None),
    BY_PROGRAMS: _IS_PROGRAM,
    BY_COMMANDS: _fact("command").is_not(None),
    BY_CUSTOMERS: AuditEvent.admin_id.is_(None) & AuditEvent.verification_id.is_not(None) & ~_IS_PROGRAM,
}


def _as_csv(batches: Iterator[Sequence[AuditLine]]) -> Iterator[str]:
    yield csv_rows([CSV_COLUMNS])
    for lines in batches:
        yield csv_rows([[_cell(line, name) for name in CSV_COLUMNS] for line in lines])


def _cell(line: AuditLine, name: str) -> str:
    """Return a field as one line of text."""
    value = getattr(line, name)
    return json.dumps(value, sort_keys=True) if name == "facts" else cell_text(value)


def _as_json(line: AuditLine) -> str:
    cells = {name: _cell(line, name) for name in CSV_COLUMNS if name != "facts"}
    return f"{json.dumps({'facts': line.facts, **cells}, sort_keys=True)}\n"
