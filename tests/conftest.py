"""Fixtures for every test: databases, the receiver, and a whole portal in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.compiled import FOLDER_VARIABLE
from tests.receiver import Receiver
from tests.security.tools import STILL
from tests.world import World, open_world

pytest_plugins = ["tests.postgres", "tests.pooler", "tests.languages"]
hypothesis.settings.register_profile("portal", deadline=None)  # how fast the machine is proves nothing
hypothesis.settings.register_profile("long", deadline=None, max_examples=5000)
hypothesis.settings.load_profile("portal")


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Give any test to any worker, except those that share something that takes seconds to make."""

    TOGETHER = ("tests/e2e/", "tests/sandbox/test_sandbox_tickets.py")

    def _split_scope(self, nodeid: str) -> str:
        return next((place for place in self.TOGETHER if nodeid.startswith(place)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Let one worker run all tests with a browser, over one portal."""
    return _Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def _shared_templates(run_folder: Path) -> Iterator[None]:
    """One folder of compiled templates for all workers of a run."""
    templates = run_folder / "templates"
    templates.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(templates))
        yield


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


@pytest.fixture
def still(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """A portal in which nothing leaves by itself: the test delivers, so that what left can be counted exactly."""
    with open_world(tmp_path, database_url, receiver, settings=STILL) as opened:
        yield opened


@pytest.fixture
def small_still(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    """The same on SQLite alone."""
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as opened:
        yield opened
