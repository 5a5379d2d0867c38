"""Programs that call the API, over portals on SQLite alone and on both databases."""

from __future__ import annotations

import pytest

from tests.api.program import Program, program
from tests.world import World


@pytest.fixture
def caller(small_world: World) -> Program:
    """A program with a key for everything, on SQLite."""
    return program(small_world)


@pytest.fixture
def both(world: World) -> Program:
    """The same on SQLite and on PostgreSQL."""
    return program(world)
