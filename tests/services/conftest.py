"""What the services' tests share: a clock that stands still, and parts opened on ``database``."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords
from auth_portal.services.directory.directory import Directory
from auth_portal.services.directory.erasure import Erasure
from auth_portal.store.db import Database

NOW = datetime(2026, 11, 22, 19, 5, tzinfo=UTC)


@pytest.fixture
def clock() -> Clock:
    """It is always the same moment."""
    return lambda: NOW


@pytest.fixture(scope="session")
def passwords() -> Passwords:
    """Real argon2id; making it hashes once."""
    return Passwords()


@pytest.fixture
def directory(database: Database, keyring: Keyring, passwords: Passwords, clock: Clock) -> Directory:
    """The directory's upkeep, on SQLite and on PostgreSQL."""
    return Directory(database, keyring, passwords, clock)


@pytest.fixture
def erasure(database: Database, keyring: Keyring, clock: Clock) -> Erasure:
    """The erasing of people."""
    return Erasure(database, keyring, clock)
