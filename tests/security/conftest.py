"""Worlds in which nothing leaves by itself: the test delivers, so that what left can be counted exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.receiver import Receiver
from tests.security.tools import STILL
from tests.world import World, open_world


@pytest.fixture
def still(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """On SQLite and on PostgreSQL."""
    with open_world(tmp_path, database_url, receiver, settings=STILL) as opened:
        yield opened


@pytest.fixture
def small_still(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    """On SQLite alone."""
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as opened:
        yield opened
