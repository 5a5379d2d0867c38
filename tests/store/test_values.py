"""Values on their way into a database and back."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import select, text, update

from auth_portal.store.db import Compiled, Database
from auth_portal.store.models import Counter, table_of

NOON = datetime(2026, 11, 22, 12, 0, 0, 70, tzinfo=UTC)
_COUNTERS = table_of(Counter)
_TIMES = select(Counter.ends_at)


def stored(database: Database) -> None:
    with database.write() as connection:
        connection.execute(_COUNTERS.delete())
        connection.execute(_COUNTERS.insert().values(key="a", events=1, ends_at=NOON))


def times(database: Database) -> set[datetime]:
    """What is read in either way."""
    with database.read() as connection:
        found = {*connection.execute(_TIMES).scalars(), *(row[0] for row in Compiled(_TIMES).run(connection, {})[0])}
    assert {one.tzinfo for one in found} == {UTC}
    return found


def test_a_time_comes_back_in_utc(database_url: str) -> None:
    with closing(Database(database_url)) as database:
        stored(database)
        assert times(database) == {NOON}
        with database.write() as connection:
            east = NOON.astimezone(timezone(timedelta(hours=5, minutes=45)))
            connection.execute(update(Counter).values(ends_at=east))
        assert times(database) == {NOON}


@pytest.mark.parametrize(
    "written", ["2026-11-22 12:00:00.000070", "2026-11-22 12:00:00.000070+00:00", "2026-11-22 14:00:00.000070+02:00"]
)
def test_a_time_that_sql_wrote_is_read(sqlite_url: str, written: str) -> None:
    with closing(Database(sqlite_url)) as database:
        stored(database)
        with database.write() as connection:
            connection.execute(text("UPDATE counters SET ends_at = :at"), {"at": written})
        assert times(database) == {NOON}


@pytest.mark.parametrize("written", ["never", "", "2026-11-22 12:00:00.000070+25:00", 5, b"x"])
def test_what_is_no_time_is_refused(sqlite_url: str, written: object) -> None:
    """With what those who read a chat take for a row that someone has changed (R54)."""
    with closing(Database(sqlite_url)) as database:
        stored(database)
        with database.write() as connection:
            connection.execute(text("UPDATE counters SET ends_at = :at"), {"at": written})
        with pytest.raises((TypeError, ValueError)):
            times(database)
