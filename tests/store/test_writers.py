"""Writers of one process into a SQLite file: those who wait for each other share a commit, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError

from auth_portal.store import db
from auth_portal.store.db import Database, WriteGate, Writers, share_connections
from tests.receiver import GIVE_UP_SECONDS, wait_for

Act = Callable[[Connection], None]
WRITERS = 6
TABLES = "CREATE TABLE parents (id INTEGER PRIMARY KEY); CREATE TABLE rows (id INTEGER, parent REFERENCES parents)"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path / 'writers.db'}")) as found:
        with found.write() as connection:
            for one in TABLES.split(";"):
                connection.execute(text(one))
        yield found


def add(connection: Connection, number: int) -> None:
    connection.execute(text("INSERT INTO rows (id) VALUES (:id)"), {"id": number})


def adding(number: int) -> Act:
    """What writes a row."""
    return partial(add, number=number)


def there(database: Database) -> list[int]:
    """What another connection sees."""
    with database.read() as connection:
        return list(connection.execute(text("SELECT id FROM rows ORDER BY id")).scalars())


def together(
    database: Database, acts: list[Act], futures: list[Future[None]] | None = None, senders: Collection[int] = ()
) -> list[Future[None]]:
    """Let all of them wait while another process writes, then follow each other in this order."""

    def write(number: int, act: Act) -> None:
        if number in senders:
            share_connections()
        with database.write() as connection:
            act(connection)

    file = Path(f"{database.file}.gate")
    writers = database._writers
    assert writers is not None
    with closing(WriteGate(file)) as theirs, ThreadPoolExecutor(len(acts)) as pool:
        with theirs.passed():
            futures = [] if futures is None else futures
            for number, act in enumerate(acts):
                futures.append(pool.submit(write, number, act))
                wait_for(partial(_stand_in_line, writers, number))
        for future in futures:
            future.exception(GIVE_UP_SECONDS)
    return futures


def _stand_in_line(writers: Writers, number: int) -> bool:
    return writers._is_taken and len(writers._customers) + len(writers._senders) == number


def commits(database: Database) -> list[Connection]:
    seen: list[Connection] = []
    event.listen(database.engine, "commit", seen.append)
    return seen


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What shares a commit here is not decided by how fast the machine is."""
    monkeypatch.setattr(db, "GROUP_SECONDS", GIVE_UP_SECONDS)


def test_those_who_wait_share_a_commit(database: Database) -> None:
    seen = commits(database)
    futures = together(database, [adding(n) for n in range(WRITERS)])
    assert [future.exception() for future in futures] == [None] * WRITERS
    assert there(database) == list(range(WRITERS))
    assert len(seen) == 1


def test_a_commit_that_is_due_is_shared_no_longer(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "GROUP_SECONDS", 0.0)
    seen = commits(database)
    together(database, [adding(n) for n in range(3)])
    assert there(database) == [0, 1, 2]
    assert len(seen) == 3


@pytest.mark.parametrize("which", range(3), ids=["the first", "one between", "the last"])
def test_one_that_raises_leaves_nothing_and_the_others_everything(database: Database, which: int) -> None:
    def fail(connection: Connection) -> None:
        add(connection, 1000)
        raise ValueError("as a refusal would")

    acts: list[Act] = [adding(n) for n in range(3)]
    acts[which] = fail
    futures = together(database, acts)
    assert [type(future.exception()) for future in futures] == [
        ValueError if number == which else type(None) for number in range(3)
    ]
    assert there(database) == [number for number in range(3) if number != which]


def test_a_statement_that_is_refused_undoes_its_own_transaction_alone(database: Database) -> None:
    def orphan(connection: Connection) -> None:
        add(connection, 1000)
        connection.execute(text("INSERT INTO rows (id, parent) VALUES (1001, 77)"))

    futures = together(database, [adding(1), orphan, adding(2)])
    assert "FOREIGN KEY" in str(futures[1].exception())
    assert there(database) == [1, 2]


def test_a_commit_that_fails_fails_for_all_and_the_next_one_succeeds(database: Database) -> None:
    def orphan_at_the_end(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        connection.execute(text("INSERT INTO rows (id, parent) VALUES (1000, 77)"))

    futures = together(database, [adding(1), orphan_at_the_end, adding(2)])
    assert [type(future.exception()) for future in futures] == [OperationalError] * 3
    assert there(database) == []
    with database.write() as connection:
        add(connection, 3)
    assert there(database) == [3]


def test_a_fault_that_ends_the_transaction_fails_for_all_before_it(database: Database) -> None:
    def end_it(connection: Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")  # as SQLite does by itself when the disk is full
        raise ValueError("the disk")

    futures = together(database, [adding(1), end_it, adding(2)])
    assert [type(future.exception()) for future in futures] == [OperationalError, ValueError, type(None)]
    assert there(database) == [2]


def test_a_part_that_cannot_be_undone_alone_is_never_committed(database: Database) -> None:
    def lose_the_savepoint(connection: Connection) -> None:
        add(connection, 1000)
        connection.exec_driver_sql("RELEASE one")
        raise ValueError("as a refusal would")

    futures = together(database, [adding(1), lose_the_savepoint, adding(2)])
    assert [type(future.exception()) for future in futures] == [OperationalError, sqlite3.OperationalError, type(None)]
    assert there(database) == [2]


@pytest.mark.parametrize(("longest", "order"), [(100.0, [0, 2, 3, 1]), (0.0, [0, 1, 2, 3])])
def test_customers_pass_before_senders_for_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch, longest: float, order: list[int]
) -> None:
    monkeypatch.setattr(db, "SENDERS_SECONDS", longest)
    passed: list[int] = []

    def note(number: int) -> Act:
        return lambda _connection: passed.append(number)

    together(database, [note(number) for number in range(4)], senders={1})
    assert passed == order


def test_none_returns_before_its_commit(database: Database) -> None:
    """The first one could be answered while the next one still writes."""
    futures: list[Future[None]] = []

    def look(connection: Connection) -> None:
        add(connection, 2)
        assert there(database) == []
        assert not futures[0].done()

    together(database, [adding(1), look], futures)
    assert [future.exception() for future in futures] == [None, None]
    assert there(database) == [1, 2]


def test_the_log_is_written_into_the_database_by_another_thread(database: Database, tmp_path: Path) -> None:
    count = db.CHECKPOINT_TRANSACTIONS
    for number in range(count):
        with database.write() as connection:
            add(connection, number)
            (pages,) = connection.exec_driver_sql("PRAGMA wal_autocheckpoint").one()
    assert pages == db.LONG_LOG_PAGES  # a commit itself does it only if that thread is late

    def without_log() -> int:
        alone = tmp_path / "alone.db"
        alone.write_bytes((tmp_path / "writers.db").read_bytes())
        with closing(sqlite3.connect(alone)) as connection, suppress(sqlite3.DatabaseError):  # before it: no tables
            return int(connection.execute("SELECT count(*) FROM rows").fetchone()[0])
        return 0

    wait_for(lambda: without_log() >= count - 1)  # the first transaction of all made the tables


def test_the_connection_of_the_writers_ends_with_all_others(database: Database) -> None:
    with database.write() as connection:
        add(connection, 1)
        first = connection
    database.engine.dispose()
    assert first.closed
    with database.write() as connection:
        add(connection, 2)
    assert there(database) == [1, 2]
