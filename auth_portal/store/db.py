"""Engine and transactions: the only place that commits.

Two doors: ``read()`` gives a connection where each statement stands alone, ``write()`` one transaction that
commits at its end or leaves nothing. On SQLite writers pass a gate (one lock for the threads, one for the
processes) instead of SQLite's sleeping busy handler; PostgreSQL does its own.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Engine, Table, bindparam, create_engine, event, make_url, text
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.types import DateTime, TypeDecorator

from auth_portal.errors import Misconfigured

MIGRATIONS = Path(__file__).resolve().parent.parent.parent / "migrations"
BUSY_SECONDS = 10  # the gate makes waiting rare; this is for an operator's own sqlite3 shell
MODE = "portal_mode"
# Begun anywhere in the lower half, so that an id tells nobody how many there are; the upper half lasts for centuries.
_numbers = count(secrets.randbits(39))


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC on every database; SQLite would give it back naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database: always UTC."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without a zone")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database: always aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def new_id(now: datetime) -> str:
    """A row's id (hex): 48 bits of milliseconds, so that rows sort by age, 40 that count, and 40 random ones.

    What one process makes within a millisecond sorts as it was made: the later of two tickets is the later one, and the
    events of one transaction are told in their order.
    """
    return f"{int(now.timestamp() * 1000):012x}{next(_numbers):010x}{secrets.token_hex(5)}"


def first_id(moment: datetime) -> str:
    """Ids made before a moment are smaller than this, those made at it or later are not."""
    return f"{int(moment.timestamp() * 1000):012x}"


class WriteGate:
    """Lets one writer at a time into a SQLite file, over all threads and processes of this machine."""

    def __init__(self, path: Path) -> None:
        self._thread = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Holds the gate for one short writing transaction."""
        with self._thread:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Gives the file back."""
        os.close(self._file)


class Database:
    """One engine and, on SQLite, its gate. Made once per process, after any fork."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.engine = _engine(self.url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._reader = self.engine.execution_options(**{MODE: "read"})
        if not self.is_sqlite:
            self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._gate = WriteGate(Path(f"{self.url.database}.gate")) if self.is_sqlite else None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for single reads; it sees what is committed, and must not write."""
        with self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One writing transaction: commits when the block ends, rolls back when it raises."""
        if self._gate is None:
            with self.engine.begin() as connection:
                yield connection
            return
        with self._gate.passed(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write_much(self) -> Iterator[Connection]:
        """As ``write``, for a transaction of very many rows: as short as it can be, with nothing left to pay for later.

        On SQLite the pages that it changes stay in memory (128 MiB at most, given back at its end), and its log is
        written into the database after the gate has opened again, beside other writers.
        """
        if self._gate is None:
            with self.write() as connection:
                yield connection
            return
        with self._reader.connect() as connection:
            connection.exec_driver_sql("PRAGMA cache_size=-131072")
            connection.exec_driver_sql("PRAGMA wal_autocheckpoint=0")
            try:
                with self._gate.passed(), _as_one(connection):
                    yield connection
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
            finally:
                connection.invalidate()  # the next one begins with the usual sizes

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A writing transaction that may rebuild tables others refer to, as SQLite must to change a column.

        Raises Misconfigured, and leaves nothing, where a reference would be broken at its end.
        """
        if self._gate is None:
            with self.write() as connection:
                yield connection
            return
        with self._gate.passed(), self._reader.connect() as connection:
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")  # takes no effect inside a transaction
            try:
                with _as_one(connection):
                    yield connection
                    _refuse_broken_references(connection)
            finally:
                connection.exec_driver_sql("PRAGMA foreign_keys=ON")

    def compact(self) -> bool:
        """Empties SQLite's log, which still holds what was deleted; False where a reader is in the way."""
        if self._gate is None:
            return True  # PostgreSQL's own vacuum does it
        with self._gate.passed(), self.read() as connection:
            return not connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()

    def close(self) -> None:
        """Closes every connection and the gate."""
        self.engine.dispose()
        if self._gate is not None:
            self._gate.close()


@contextmanager
def _as_one(connection: Connection) -> Iterator[None]:
    """A writing transaction on a SQLite connection that otherwise stands alone with each statement."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise


@contextmanager
def indexes_made_anew(connection: Connection, table: Table, columns: Collection[str]) -> Iterator[None]:
    """On SQLite, takes away the indexes over these columns for a block of a writing transaction and makes them again.

    Where a block changes about a third of a table or more that costs less than changing each index row by row: making
    one sorts once, and each row would search for two places. Unique indexes stay, they are rules. Columns that the
    database computes from these change with them.
    """
    if connection.dialect.name != "sqlite" or not columns:
        yield
        return
    found = text(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :table AND sql LIKE 'CREATE INDEX%'"
        " AND EXISTS (SELECT 1 FROM pragma_index_info(sqlite_master.name) AS part WHERE part.name IN :columns)"
    ).bindparams(bindparam("columns", expanding=True))
    changed = {column.name for column in table.c if column.name in columns or _is_computed_from(column, columns)}
    indexes = connection.execute(found, {"table": table.name, "columns": list(changed)}).all()
    for index in indexes:
        connection.exec_driver_sql(f'DROP INDEX "{index.name}"')
    yield
    for index in indexes:
        connection.exec_driver_sql(index.sql)


def _is_computed_from(column: Column[Any], others: Collection[str]) -> bool:
    return column.computed is not None and not set(re.findall(r"\w+", str(column.computed.sqltext))).isdisjoint(others)


def _refuse_broken_references(connection: Connection) -> None:
    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
        raise Misconfigured("The database could not be migrated: a row refers to one that is not there.")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    if url.get_backend_name() != "postgresql":
        raise Misconfigured("PORTAL_DATABASE_URL must begin with sqlite:/// or postgresql://.")
    # prepare_threshold=None: pgbouncer in transaction mode knows no prepared statements.
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=10,
        max_overflow=10,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"prepare_threshold": None, "connect_timeout": 5},
    )


def _sqlite_engine(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise Misconfigured("PORTAL_DATABASE_URL must name a file: an in-memory database loses every result.")
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS, "isolation_level": None},
        pool_size=20,
        hide_parameters=True,  # values are contacts and secrets: a database's fault is told without them
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # an answer must survive a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that reads and then writes can fail at once as "locked": writers begin as such.
        if connection.get_execution_options().get(MODE) != "read":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def expected_revision() -> str:
    """The newest migration that this code ships, from its file's name (the web never imports Alembic)."""
    return max(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def schema_fault(url: str) -> str | None:
    """Why this database cannot be served, in one line, or None. Connects, looks and closes again."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return f"There is no database at {parsed.database}. Run `flask --app app init`."
    engine = _engine(parsed)
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except DBAPIError as error:
        return f"The database cannot be used: {plain_reason(error)}. Run `flask --app app doctor`."
    finally:
        engine.dispose()
    if found != expected_revision():
        return (
            f"The database is at migration {found}, this version needs {expected_revision()}. "
            "Run `flask --app app db upgrade`."
        )
    return None


def plain_reason(error: SQLAlchemyError) -> str:
    """The database's own first line, without the statement and its values."""
    origin = getattr(error, "orig", None)
    return str(origin or type(error).__name__).strip().splitlines()[0].rstrip(".")


def upsert(dialect: str, table: Table) -> Any:
    """The dialect's own INSERT that knows ON CONFLICT; SQLite and PostgreSQL write it alike."""
    return (sqlite_insert if dialect == "sqlite" else postgresql_insert)(table)
