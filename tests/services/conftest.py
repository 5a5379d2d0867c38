"""What the services' tests share: a clock that stands still, and parts opened on ``database``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.imports.imports import CommandImport
from auth_portal.services.operations.personal_data import Erasure
from auth_portal.store.db import Database, Transactions, Work
from auth_portal.store.models import Portal

NOW = datetime(2026, 11, 22, 19, 5, tzinfo=UTC)


@pytest.fixture
def clock() -> Clock:
    """It is always the same moment."""
    return lambda: NOW


def choose_country(database: Database, region: str = "ZA") -> None:
    """Choose the default country, as an owner does first of all."""
    with database.write() as connection:
        connection.execute(update(Portal).values(settings={"default_region": region}))


@pytest.fixture
def transactions(database: Database, keyring: Keyring, clock: Clock) -> Transactions:
    """The database with its keys and a clock that stands still."""
    return Transactions(database, keyring, clock)


def unheard(_work: Work, _event: str, _data: Mapping[str, Any], _row: str) -> None:
    """No program asks for events."""


@pytest.fixture(scope="session")
def passwords() -> Passwords:
    """Real argon2id; making it hashes once."""
    return Passwords()


@pytest.fixture
def directory(transactions: Transactions, passwords: Passwords) -> CommandImport:
    """The directory's upkeep, on SQLite and on PostgreSQL."""
    return CommandImport(
        transactions, passwords, Notices(Journeys(transactions, has_sandbox=False), "http://127.0.0.1:8000")
    )


@pytest.fixture
def erasure(transactions: Transactions) -> Erasure:
    """The erasing of people."""
    return Erasure(transactions, Notices(Journeys(transactions, has_sandbox=False), "http://127.0.0.1:8000"))
