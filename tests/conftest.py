"""Fixtures for every test: databases, the receiver, and a whole portal in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.receiver import Receiver
from tests.world import World, open_world

pytest_plugins = ["tests.postgres"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A strict Flow and message provider on a socket."""
    running = Receiver()
    yield running
    running.close()


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """A portal with the standard journeys, on SQLite and on PostgreSQL."""
    with open_world(tmp_path, database_url, receiver) as opened:
        yield opened


@pytest.fixture
def small_world(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    """The same on SQLite alone, for what does not touch the database's own ways."""
    with open_world(tmp_path, sqlite_url, receiver) as opened:
        yield opened
