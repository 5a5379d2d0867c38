"""What waits on a connection to PostgreSQL, and leaves with the next statement whose answer is needed or the COMMIT.

Behind ``TEST_POOLER=1`` too, where nothing is kept parsed.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, bindparam, delete, event, func, insert, select, text, update
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from auth_portal.store.db import Compiled, Database
from auth_portal.store.models import Counter, table_of
from tests.receiver import Receiver
from tests.world import open_world

_COUNTERS = table_of(Counter)
_INSERT = Compiled(insert(_COUNTERS))
_COUNT = Compiled(update(_COUNTERS).where(_COUNTERS.c.key == bindparam("of")).values(events=_COUNTERS.c.events + 1))
_FORGET = Compiled(delete(_COUNTERS).where(_COUNTERS.c.key == bindparam("of")))
_FIND = Compiled(select(_COUNTERS).where(_COUNTERS.c.key == bindparam("of")))
_END = datetime(2026, 11, 30, 12, 0, 0, 123456, tzinfo=UTC)


def counter(key: str) -> dict[str, Any]:
    return {"key": key, "events": 1, "ends_at": _END}


@pytest.fixture
def opened(postgres_url: str) -> Iterator[Database]:
    with closing(Database(postgres_url)) as database:
        yield database


def transact(database: Database, act: Callable[[Connection], object]) -> None:
    with database.write() as connection:
        act(connection)


def stored(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return dict(connection.execute(select(_COUNTERS.c.key, _COUNTERS.c.events)).tuples().all())


@contextmanager
def round_trips(database: Database) -> Iterator[list[int]]:
    """How often libpq asked for an answer in each transaction of the block."""
    seen: list[int] = []
    with tempfile.TemporaryFile("w+") as file:

        def begin(driver: Any, *_: object) -> None:
            driver.pgconn.trace(file.fileno())

        def end(driver: Any, *_: object) -> None:
            driver.pgconn.untrace()
            file.seek(0)
            messages = [line.rstrip().split("\t") for line in file]
            seen.append(sum(message[1:4:2] in (["F", "Sync"], ["F", "Query"]) for message in messages))
            file.seek(0)
            file.truncate()

        event.listen(database.engine, "checkout", begin)
        event.listen(database.engine, "checkin", end)
        yield seen
        event.remove(database.engine, "checkout", begin)
        event.remove(database.engine, "checkin", end)


def test_a_transaction_takes_a_round_trip_for_each_answer_that_it_needs(opened: Database) -> None:
    with round_trips(opened) as seen, opened.write() as connection:
        assert _FIND.run(connection, {"of": "a"}) == ([], 0)
        _INSERT.run_later(connection, counter("a"))
        _INSERT.run_later(connection, counter("b"))
        assert _COUNT.run(connection, {"of": "a"}) == ([], 1)
        _COUNT.run_later(connection, {"of": "b"})
        _COUNT.run_later(connection, {"of": "b"})
    assert seen == [3]
    assert stored(opened) == {"a": 2, "b": 3}


def test_a_right_code_takes_five_round_trips(tmp_path: Path, postgres_url: str, receiver: Receiver) -> None:
    with open_world(tmp_path, postgres_url, receiver) as world:
        browser = world.browser()
        browser.begin("abc", "app")
        world.services.dispatcher.stop()
        world.services.journeys._read_at = float("inf")
        with round_trips(world.transactions.database) as seen:
            browser.prove(world.totp(), follow=False)
        assert browser.page.headers["Location"].partition("?")[0] == "/done"
    assert seen == [5]


def test_what_sqlalchemy_sends_keeps_the_order(opened: Database) -> None:
    with opened.write() as connection:
        _INSERT.run_later(connection, counter("a"))
        assert connection.execute(select(func.count()).select_from(_COUNTERS)).scalar_one() == 1
        _COUNT.run_later(connection, {"of": "a"})
        with connection.begin_nested() as nested:
            _FORGET.run_later(connection, {"of": "a"})
            assert connection.execute(select(_COUNTERS.c.key)).all() == []
            nested.rollback()
    assert stored(opened) == {"a": 2}


def test_values_come_back_as_they_went(opened: Database) -> None:
    with opened.write() as connection:
        _INSERT.run_later(connection, counter("a'\\ é\n"))
        ((row,), count) = _FIND.run(connection, {"of": "a'\\ é\n"})
    assert (row._mapping, count) == ({**counter("a'\\ é\n")}, 1)


@pytest.mark.parametrize("how", ["commit", "answer", "sqlalchemy"])
def test_a_fault_of_what_waited_undoes_the_transaction(opened: Database, how: str) -> None:
    with opened.write() as connection:
        _INSERT.run_later(connection, counter("a"))

    def act(connection: Connection) -> None:
        for key in "bac":
            _INSERT.run_later(connection, counter(key))
        if how == "answer":
            _FIND.run(connection, {"of": "b"})
        if how == "sqlalchemy":
            connection.execute(text("SELECT 1"))

    with pytest.raises(IntegrityError, match="pk_counters"):
        transact(opened, act)
    assert stored(opened) == {"a": 1}
    with opened.write() as connection:  # on the same connection
        _INSERT.run_later(connection, counter("d"))
        _COUNT.run_later(connection, {"of": "a"})
    assert stored(opened) == {"a": 2, "d": 1}


def test_a_fault_at_first_use_keeps_nothing_that_the_server_has_not(opened: Database) -> None:
    """The server never reads what follows a fault, so it has not parsed it either."""

    def act(connection: Connection) -> None:
        connection.execute(insert(_COUNTERS), counter("a"))
        _INSERT.run_later(connection, counter("a"))
        _COUNT.run(connection, {"of": "a"})

    with pytest.raises(IntegrityError):
        transact(opened, act)
    with opened.write() as connection:
        _INSERT.run_later(connection, counter("a"))
        assert _COUNT.run(connection, {"of": "a"}) == ([], 1)


def test_what_waits_in_an_undone_transaction_never_leaves(opened: Database) -> None:

    def act(connection: Connection) -> None:
        _INSERT.run_later(connection, counter("a"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        transact(opened, act)
    with opened.write() as connection:
        _INSERT.run_later(connection, counter("b"))
    assert stored(opened) == {"b": 1}


def test_a_value_that_cannot_be_written_is_the_fault_of_its_transaction_alone(opened: Database) -> None:
    with pytest.raises(DataError):
        transact(opened, lambda connection: _INSERT.run_later(connection, counter("a\0")))
    with opened.write() as connection:
        _INSERT.run_later(connection, counter("b"))
    assert stored(opened) == {"b": 1}


@pytest.mark.parametrize("how", ["commit", "answer"])
def test_a_server_that_is_away_is_an_operational_error(opened: Database, postgres_url: str, how: str) -> None:

    def act(connection: Connection) -> None:
        _INSERT.run_later(connection, counter("a"))
        (process,) = connection.execute(text("SELECT pg_backend_pid()")).one()
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [process])
        _INSERT.run_later(connection, counter("b"))
        if how == "answer":
            _FIND.run(connection, {"of": "a"})

    with pytest.raises(OperationalError) as raised:
        transact(opened, act)
    assert raised.value.connection_invalidated
    with opened.write() as connection:
        _INSERT.run_later(connection, counter("c"))
    assert stored(opened) == {"c": 1}


def test_a_wait_for_a_lock_ends_as_everywhere(opened: Database) -> None:
    with opened.write() as connection:
        _INSERT.run_later(connection, counter("a"))

    def wait(connection: Connection) -> None:
        connection.execute(text("SET LOCAL lock_timeout = '50ms'"))
        _COUNT.run(connection, {"of": "a"})

    with opened.write() as first:
        _COUNT.run(first, {"of": "a"})
        with pytest.raises(OperationalError, match="lock timeout"):
            transact(opened, wait)
    assert stored(opened) == {"a": 2}


def test_a_deadlock_ends_one_of_the_two(opened: Database) -> None:
    with opened.write() as connection:
        for key in "ab":
            _INSERT.run_later(connection, counter(key))
    faults: list[OperationalError] = []

    def add(keys: str, met: threading.Barrier) -> None:
        try:
            with opened.write() as connection:
                _COUNT.run(connection, {"of": keys[0]})
                met.wait()
                _COUNT.run_later(connection, {"of": keys[1]})
        except OperationalError as fault:
            faults.append(fault)

    met = threading.Barrier(2)
    threads = [threading.Thread(target=add, args=(keys, met)) for keys in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(fault.orig) for fault in faults] == [psycopg.errors.DeadlockDetected]
    assert stored(opened) == {"a": 2, "b": 2}
