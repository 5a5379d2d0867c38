"""Lists that page by key, newest first, and take no longer when they are long.

Ids sort by the time they were created, so a page is a range of the primary key, or of an index that ends in it, and the
next page begins where the last one ended. What no index serves is searched among a bounded number of rows: such a page
may be short, and says where to go on. It does not skip, and counts up to a bound.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, SQLColumnExpression, TextClause, func, select, text

from auth_portal.clock import iso_exact
from auth_portal.store.db import first_id

PAGE = 50  # rows
COUNTED = 100  # rows that a count of a filter goes up to
WINDOW = 2_000  # the newest rows, whose states are counted at once
_PASTED_ID = re.compile(r"(?:^|/)([0-9a-f]{32})(?:$|[/?#])")  # alone, or in the address of its page
# Beginnings that make a spreadsheet compute a cell (R43). An Excel for Chinese or Japanese reads the wide ones, too.
UNDEFUSED = ("=", "+", "-", "@", "\t", "\r", *"\uff1d\uff0b\uff0d\uff20")
IN_A_PIECE = 1_000  # rows of a file that are loaded at once
LOOKED_AT = 5_000  # rows that one page searches at most for what no index serves: some 10 ms

Row = TypeVar("Row")
Other = TypeVar("Other")
Condition = ColumnElement[bool] | TextClause
Conditions = Sequence[Condition]


@dataclass(frozen=True)
class Listing(Generic[Row]):
    """One page. ``older`` is the key to go on from, empty at the end of the list.

    With ``is_partial`` the page is short because enough rows were searched, not because there are none left.
    """

    rows: tuple[Row, ...]
    older: str = ""
    is_partial: bool = False

    def of(self, make: Callable[[Row], Other]) -> Listing[Other]:
        """Return the same page with each row converted."""
        return Listing(tuple(make(row) for row in self.rows), self.older, self.is_partial)


@dataclass(frozen=True)
class Search:
    """Which page of a list is wanted.

    Each of ``found_by`` is a set of conditions that an index ending in the key serves; their rows are merged.
    ``filtered_by`` is what no index serves. ``after`` is the ``older`` of the page before.
    """

    found_by: Sequence[Conditions] = ((),)
    filtered_by: Conditions = ()
    after: str = ""
    most: int = PAGE


@dataclass(frozen=True)
class BoundedCount:
    """How many rows a filter finds, counted up to COUNTED, or at least how many."""

    number: int
    is_exact: bool

    def __str__(self) -> str:
        return str(self.number) if self.is_exact else f"{self.number}+"


def pasted_ids(text: str) -> list[str]:
    """Return the ids that an admin may have pasted: alone, or with the address of a page."""
    return _PASTED_ID.findall(text.strip().lower())


Found = Callable[[int], Listing[Any]]


def made_between(key: SQLColumnExpression[str], since: datetime | None, until: datetime | None) -> list[Condition]:
    """Return the condition for ids created from ``since`` on and before ``until``, where given."""
    found: list[Condition] = []
    if since is not None:
        found.append(key >= first_id(since))
    if until is not None:
        found.append(key < first_id(until))
    return found


def as_written(condition: str) -> TextClause:
    """Return a condition in the very words of a partial index, without which a database does not use the index."""
    return text(condition)


def listed(connection: Connection, query: Select[Any], key: SQLColumnExpression[str], search: Search) -> Listing[Any]:
    """Return a page of ``query``, whose rows have ``id``, the value of ``key``."""
    start = (key < search.after,) if search.after else ()
    share = LOOKED_AT // len(search.found_by)
    floor = ""
    if search.filtered_by:
        floor = max(_floor(connection, key, (*conditions, *start), share) for conditions in search.found_by)
    rows: dict[str, Any] = {}
    for conditions in search.found_by:
        bound = (key >= floor,) if floor else ()
        ordered = query.where(*conditions, *search.filtered_by, *start, *bound).order_by(key.desc())
        rows |= {row.id: row for row in connection.execute(ordered.limit(search.most + 1))}
    newest = sorted(rows.values(), key=lambda row: row.id, reverse=True)
    if len(newest) > search.most:
        return Listing(tuple(newest[: search.most]), older=newest[search.most - 1].id)
    return Listing(tuple(newest), older=floor, is_partial=bool(floor))


def counts_of(newest: Listing[str], names: Iterable[str], served: Mapping[str, Found]) -> dict[str, BoundedCount]:
    """Return how many rows of a list have each of these states; under "" how many there are.

    ``newest`` are the states of its newest rows, up to WINDOW. If there are more rows, a count is a lower bound, except
    for a state of ``served``: it has, by state, the first page of a list that an index serves, of at most so many rows.
    """
    tally, is_all = Counter({"": len(newest.rows)}) + Counter(newest.rows), not newest.older
    found = {name: BoundedCount(min(tally[name], COUNTED), is_all and tally[name] <= COUNTED) for name in names}
    for name, page_of in served.items():
        if not is_all and found[name].number < COUNTED:
            page = page_of(COUNTED)
            found[name] = BoundedCount(len(page.rows), is_exact=not page.older)
    return found


def _floor(connection: Connection, key: SQLColumnExpression[str], conditions: Conditions, most: int) -> str:
    """Return the oldest of ``most`` keys, below which one page does not look; "" where there are fewer."""
    looked_at = select(key.label("key")).where(*conditions).order_by(key.desc()).limit(most).subquery()
    count, oldest = connection.execute(select(func.count(), func.min(looked_at.c.key))).one()
    return oldest if count == most else ""


# --- Lists as files


def defused(cell: str) -> str:
    """Return a cell of a CSV file that no spreadsheet runs as a formula (R43)."""
    return f"'{cell}" if cell.startswith(UNDEFUSED) else cell


def csv_rows(rows: Iterable[Iterable[object]]) -> str:
    """Return rows of a CSV file. Each cell is one line of text, and none is run as a formula (R43)."""
    written = io.StringIO()
    csv.writer(written).writerows([defused(cell_text(value)) for value in row] for row in rows)
    return written.getvalue()


def cell_text(value: object) -> str:
    """Return a value as one line of text, whatever it contains."""
    return " ".join((iso_exact(value) if isinstance(value, datetime) else str(value or "")).split())


def csv_pages(columns: Sequence[str], page: Callable[..., Listing[Any]]) -> Iterator[str]:
    """Yield all rows of a list as a CSV file, IN_A_PIECE at a time. ``columns`` are attributes of its rows.

    ``page`` is called with ``after`` and ``most``.
    """
    yield csv_rows([columns])
    after = ""
    while True:
        found = page(after=after, most=IN_A_PIECE)
        yield csv_rows([plain_cell(getattr(row, name)) for name in columns] for row in found.rows)
        if not (after := found.older):
            return


def plain_cell(value: object) -> object:
    """Return a value as a file has it: ``yes`` and ``no``, and a number also if it is 0."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int) else value
