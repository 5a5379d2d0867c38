"""A portal with its demo as `make run` serves it, a Chromium for the session, and a phone for each test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from auth_portal.clock import system_clock
from auth_portal.services.demo import load_demo
from auth_portal.services.installation import initialise
from auth_portal.services.opening import opened
from auth_portal.settings import read_settings
from tests.e2e.phone import ARGUMENTS, CHROMIUM, HEIGHT, MISSING, Person, Phone, new_people
from tests.postgres import MASTER_KEY
from tests.serving import Server, free_port

PEOPLE = 40


class Portal(Server):
    """The app itself, under the system's clock; nothing private is allowed but what the sandbox needs."""

    def __init__(self, folder: Path, people: list[Person], *, app: str = "app:app") -> None:
        settings = {"PORTAL_SANDBOX": "1", "PORTAL_ALLOW_PRIVATE_CALLBACKS": "0"}
        super().__init__(folder, "", server="granian", settings=settings, app=app, port=free_port())
        if app == "app:app":
            del self._environment["CLOCK_OF_TEST"]
        load(self, people)


def load(server: Server, people: list[Person]) -> None:
    """The demo, and people whom no other test verifies."""
    names = ("PORTAL_INSTANCE", "PORTAL_SECRET_KEYS", "PORTAL_PUBLIC_URL", "PORTAL_SANDBOX")
    settings = read_settings({name: server._environment[name] for name in names})
    initialise(settings, system_clock)
    rows = [f"{p.customer_id},{p.phone},{p.email},{p.totp_secret},{p.password}" for p in people]
    text = "\n".join(["customer_id,phone,email,totp_secret,password", *rows])
    with opened(settings, system_clock) as portal:
        load_demo(portal)
        report = portal.directory.import_csv(text.encode(), default_region="ZA", dry_run=False)
    assert not report.errors, report.errors


@pytest.fixture(scope="session")
def people() -> list[Person]:
    return new_people(PEOPLE)


@pytest.fixture(scope="session")
def portal(tmp_path_factory: pytest.TempPathFactory, people: list[Person]) -> Iterator[Server]:
    """One portal for all tests of this process, which share nothing but its limits by address."""
    assert MASTER_KEY
    server = Portal(tmp_path_factory.mktemp("portal"), people)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    if not Path(CHROMIUM).exists():
        pytest.fail(MISSING.format(path=CHROMIUM), pytrace=False)
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """One browser for the session; a test gets a context of its own, with nothing remembered."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def _next_person(people: list[Person]) -> Iterator[Person]:
    return itertools.cycle(people)


@pytest.fixture
def person(_next_person: Iterator[Person]) -> Person:
    """Somebody whom no other test has spent a limit of."""
    return next(_next_person)


@pytest.fixture
def new_phone(portal: Server, chromium: Browser) -> Iterator[Callable[..., Phone]]:
    """Makes phones, and says at the end what was wrong with any page that they met."""
    phones: list[Phone] = []

    def make(*, has_script: bool = True, server: Server = portal) -> Phone:
        context = chromium.new_context(
            viewport={"width": 360, "height": HEIGHT}, is_mobile=True, has_touch=True, java_script_enabled=has_script
        )
        phones.append(Phone(server, context, has_script))
        return phones[-1]

    yield make
    faults = [fault for phone in phones for fault in phone.faults]
    for phone in phones:
        phone.context.close()
    assert not faults, "\n".join(dict.fromkeys(faults))


@pytest.fixture
def phone(new_phone: Callable[..., Phone]) -> Phone:
    """A phone as most are: with script."""
    return new_phone()


@pytest.fixture(params=[True, False], ids=["script", "no script"])
def any_phone(request: pytest.FixtureRequest, new_phone: Callable[..., Phone]) -> Phone:
    """A phone with script, and one without."""
    return new_phone(has_script=request.param)
