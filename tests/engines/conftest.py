"""A portal with its demo, and one window of each engine for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e.conftest import person, portal
from tests.engines.drivers import Engine, MissingEngine, firefox, webkit

__all__ = ["person", "portal"]


class Start(Protocol):
    """Starts an engine."""

    def __call__(self, folder: Path) -> AbstractContextManager[Engine]: ...


@pytest.fixture(scope="session", params=[firefox, webkit], ids=["Firefox", "WebKitGTK"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One window of a browser."""
    start: Start = request.param
    try:
        with start(tmp_path_factory.mktemp("engine")) as started:
            yield started
    except MissingEngine as missing:
        pytest.fail(str(missing), pytrace=False)
