"""Signed-in browsers of each role, over a portal on SQLite; ``signed_in(world, role)`` does the same elsewhere."""

from __future__ import annotations

import pytest

from tests.admin.desk import Desk, signed_in
from tests.world import World


@pytest.fixture
def owner(small_world: World) -> Desk:
    return signed_in(small_world, "owner")


@pytest.fixture
def support(small_world: World) -> Desk:
    return signed_in(small_world, "support")


@pytest.fixture
def auditor(small_world: World) -> Desk:
    return signed_in(small_world, "auditor")
