"""The switch of an import, and its undoing: each is SQL alone, in the caller's one transaction.

Both write a customer only where it still is as it was when the rows were staged, and say how many they wrote: the
caller rolls back where that is fewer than all. ``bench/imports.py`` measures how long other writers wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, func, literal, or_, select, update

from auth_portal.services.directory.credential_links import end_links
from auth_portal.services.imports.staging import FIELD_COLUMNS, VALUE_COLUMNS, fields_of
from auth_portal.store.db import Database, indexes_made_anew, upsert
from auth_portal.store.models import CredentialLink, CustomerRow, StagedRow, table_of

TOTP_STEP_SECONDS = 30
# Measured with 100,000 customers on SQLite: by row 1.5 s of one core, with the indexes made anew 0.7 s.
REBUILD_ROWS = 5_000  # fewer are changed in no time
REBUILD_SHARE = 3  # one of so many customers: changing an index at two places costs 5 µs, making it 1.5 µs a row
_CUSTOMERS, _STAGED = table_of(CustomerRow).c, table_of(StagedRow).c


@dataclass(frozen=True)
class Extent:
    """How much is staged: rows that make a customer, and of those that change one how many change the same fields."""

    new: int
    changed: dict[int, int]  # by the fields they set
    customers: int = 0  # that there are, those not concerned among them

    @property
    def rows(self) -> int:
        """All of them."""
        return self.new + sum(self.changed.values())

    @property
    def much_changed(self) -> set[str]:
        """The columns that so many rows change that their indexes are better made anew."""
        rows = dict.fromkeys(VALUE_COLUMNS, self.new)
        for sets, number in self.changed.items():
            rows |= {column: rows[column] + number for column in _columns(sets)}
        fewest = max(REBUILD_ROWS, (self.customers + self.new) / REBUILD_SHARE)
        return {column for column, number in rows.items() if number >= fewest}


def extent(database: Database, import_id: str) -> Extent:
    """Counts what is staged; outside the switch, so that the switch need not."""
    counted = (
        select(_STAGED.is_new, _STAGED.sets, func.count())
        .where(_STAGED.import_id == import_id)
        .group_by(_STAGED.is_new, _STAGED.sets)
    )
    with database.read() as connection:
        rows = connection.execute(counted).all()
        customers = connection.execute(select(func.count()).select_from(CustomerRow)).scalar_one()
    return Extent(sum(row[2] for row in rows if row[0]), {row[1]: row[2] for row in rows if not row[0]}, customers)


def switch(connection: Connection, import_id: str, now: datetime, staged: Extent) -> int:
    """Writes every staged row that still fits; how many did."""
    with indexes_made_anew(connection, table_of(CustomerRow), staged.much_changed):
        return _switch(connection, import_id, now, staged)


def _switch(connection: Connection, import_id: str, now: datetime, staged: Extent) -> int:
    written = _insert_new(connection, import_id, now) if staged.new else 0
    for sets in staged.changed:
        values: dict[str, Any] = {column: _STAGED[column] for column in _columns(sets)}
        if "totp_sealed" in values:
            values["totp_last_step"] = 0  # the steps of another seed are spent no more
        written += _update_changed(connection, import_id, now, sets, values, _is_as_before(sets))
    return written


def _insert_new(connection: Connection, import_id: str, now: datetime) -> int:
    values: dict[str, Any] = {
        "id": _STAGED.customer_row,
        "customer_key": _STAGED.customer_key,
        "subject_id": _STAGED.subject_id,
        "created_at": literal(now, _CUSTOMERS.created_at.type),
        "changed_at": literal(now, _CUSTOMERS.changed_at.type),
        **{column: _STAGED[column] for column in VALUE_COLUMNS},
    }
    rows = select(*values.values()).where(_STAGED.import_id == import_id, _STAGED.is_new).order_by(_STAGED.number)
    insert = upsert(connection.dialect.name, table_of(CustomerRow)).from_select(list(values), rows)
    statement = insert.on_conflict_do_nothing(index_elements=["customer_key"]).execution_options(preserve_rowcount=True)
    return int(connection.execute(statement).rowcount)


def _update_changed(
    connection: Connection, import_id: str, now: datetime, sets: int, values: dict[str, Any], fits: ColumnElement[bool]
) -> int:
    if {"phone", "email"} & set(fields_of(sets)):
        # Of the few links that there are each looks for its staged row, not each of these for a link.
        of_link = _STAGED.customer_row == CredentialLink.customer_row
        end_links(connection, select(_STAGED.customer_row).where(of_link, *_of(import_id, sets)))
    found = connection.execute(
        update(table_of(CustomerRow))
        .where(_CUSTOMERS.id == _STAGED.customer_row, *_of(import_id, sets), fits)
        .values(**values, changed_at=now)
    )
    return int(found.rowcount)


def overtaken(database: Database, import_id: str, staged: Extent) -> list[Any]:
    """The staged rows (number, is_new, customer_id) whose customers somebody else changed since they were compared."""
    made = _joined(_CUSTOMERS.customer_key == _STAGED.customer_key).where(*_of(import_id, None))
    found: list[Any] = []
    with database.read() as connection:
        found += connection.execute(made.where(_CUSTOMERS.id.is_not(None))).all() if staged.new else []
        for sets in staged.changed:
            changed = _joined(_CUSTOMERS.id == _STAGED.customer_row).where(*_of(import_id, sets))
            found += connection.execute(changed.where(_is_gone_or_not(_is_as_before(sets)))).all()
    return found


def undo(connection: Connection, import_id: str, switched_at: datetime, now: datetime, staged: Extent) -> int:
    """Takes back every staged row whose customer is still as the switch left it; how many were."""
    with indexes_made_anew(connection, table_of(CustomerRow), staged.much_changed):
        return _undo(connection, import_id, switched_at, now, staged)


def _undo(connection: Connection, import_id: str, switched_at: datetime, now: datetime, staged: Extent) -> int:
    written = _delete_new(connection, import_id, switched_at) if staged.new else 0
    for sets in staged.changed:
        values: dict[str, Any] = {column: _STAGED[f"old_{column}"] for column in _columns(sets)}
        if "totp_sealed" in values:
            # Which codes of the seed that comes back were used cannot be known: all up to now count as used (R17).
            values["totp_last_step"] = int(now.timestamp()) // TOTP_STEP_SECONDS
        fits = _is_as_switched(sets, switched_at)
        written += _update_changed(connection, import_id, now, sets, values, fits)
    return written


def _delete_new(connection: Connection, import_id: str, switched_at: datetime) -> int:
    untouched = (
        select(_CUSTOMERS.id)
        .join_from(table_of(StagedRow), table_of(CustomerRow), _CUSTOMERS.id == _STAGED.customer_row)
        .where(*_of(import_id, None), _is_as_switched(None, switched_at), _CUSTOMERS.is_active)
    )
    return int(connection.execute(delete(CustomerRow).where(CustomerRow.id.in_(untouched))).rowcount)


def changed_since(
    database: Database, import_id: str, switched_at: datetime, staged: Extent, most: int
) -> list[Any]:  # fmt: skip
    """Up to ``most`` staged rows (number, is_new, customer_id) whose customers are not as the switch left them."""
    found: list[Any] = []
    with database.read() as connection:
        for sets in (None, *staged.changed):
            fits = _is_as_switched(sets, switched_at)
            if sets is None:
                fits = and_(fits, _CUSTOMERS.is_active)
            rows = _joined(_CUSTOMERS.id == _STAGED.customer_row).where(*_of(import_id, sets), _is_gone_or_not(fits))
            found += connection.execute(rows.limit(most - len(found))).all()
    return found


def _joined(on: ColumnElement[bool]) -> Select[Any]:
    return select(
        _STAGED.number,
        _STAGED.is_new,
        func.coalesce(_CUSTOMERS.customer_id, _STAGED.customer_id, _STAGED.old_customer_id).label("customer_id"),
    ).join_from(table_of(StagedRow), table_of(CustomerRow), on, isouter=True)


def _is_gone_or_not(fits: ColumnElement[bool]) -> ColumnElement[bool]:
    return or_(_CUSTOMERS.id.is_(None), ~fits)


def _of(import_id: str, sets: int | None) -> Iterator[ColumnElement[bool]]:
    """The staged rows that make a customer, or those that change these fields of one."""
    yield _STAGED.import_id == import_id
    yield _STAGED.is_new if sets is None else ~_STAGED.is_new
    if sets is not None:
        yield _STAGED.sets == sets


def _columns(sets: int) -> list[str]:
    return [column for name in fields_of(sets) for column in FIELD_COLUMNS[name]]


def _leading(sets: int | None) -> Sequence[str]:
    """Of each field the column that tells whether somebody changed it: sealed anew it is never the same."""
    return [FIELD_COLUMNS[name][0] for name in (fields_of(sets) if sets is not None else FIELD_COLUMNS)]


def _is_as_before(sets: int) -> ColumnElement[bool]:
    return and_(*(_CUSTOMERS[name].is_not_distinct_from(_STAGED[f"old_{name}"]) for name in _leading(sets)))


def _is_as_switched(sets: int | None, switched_at: datetime) -> ColumnElement[bool]:
    same = (_CUSTOMERS[name].is_not_distinct_from(_STAGED[name]) for name in _leading(sets))
    return and_(_CUSTOMERS.changed_at == switched_at, *same)
