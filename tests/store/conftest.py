"""A pooler of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pooler import Pooler, pooled

CONNECTIONS = 3  # of the server, which all share: fewer than anything here would open by itself


@pytest.fixture
def pooler_of_three(tmp_path: Path, postgres_server: str) -> Iterator[Pooler]:
    """A pgbouncer that no other test uses."""
    with pooled(tmp_path, postgres_server, connections=CONNECTIONS) as running:
        yield running
