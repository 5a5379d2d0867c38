"""A portal with its demo as `make run` serves it, a Chromium for the session, and a phone for each test."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from auth_portal.clock import system_clock
from auth_portal.services.operations.demo import load_demo
from auth_portal.services.operations.installation import initialise
from auth_portal.services.serving import build
from auth_portal.settings import read_settings
from tests.e2e.phone import ARGUMENTS, CHROMIUM, HEIGHT, MISSING, Person, Phone
from tests.receiver import GIVE_UP_SECONDS
from tests.serving import Server, free_port

BLOCKED = 2  # as the browser's preferences write it
SCREEN: dict[str, Any] = {"viewport": {"width": 360, "height": HEIGHT}, "is_mobile": True, "has_touch": True}

FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><include ignore_missing="yes">/etc/fonts/fonts.conf</include>
<match target="pattern"><test name="family"><string>system-ui</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Roboto</string></edit></match>
<match target="pattern"><test name="family"><string>sans-serif</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Roboto</string></edit></match></fontconfig>"""


class Portal(Server):
    """A server with the demo; nothing private is allowed but what the sandbox needs."""

    def __init__(self, folder: Path, *, app: str = "app:app", host: str = "127.0.0.1") -> None:
        port = free_port()
        settings = {
            "PORTAL_SANDBOX": "1",
            "PORTAL_ALLOW_PRIVATE_CALLBACKS": "0",
            "PORTAL_PUBLIC_URL": f"http://{host}:{port}",
        }
        super().__init__(folder, "", server="gunicorn-preload", settings=settings, app=app, port=port)
        self.url = settings["PORTAL_PUBLIC_URL"]
        names = ("PORTAL_INSTANCE", "PORTAL_SECRET_KEYS", "PORTAL_PUBLIC_URL", "PORTAL_SANDBOX")
        self._settings = read_settings({name: self.environment[name] for name in names})
        self._numbers = itertools.count(1)
        initialise(self._settings, system_clock)
        with closing(build(self._settings, system_clock)) as portal:
            load_demo(portal.settings, portal.configuration, portal.command_import, portal.api_keys)

    def new_person(self) -> Person:
        """Somebody whom no other test has spent a limit of."""
        person = Person.with_number(next(self._numbers))
        text = f"{','.join(Person.COLUMNS)}\n{','.join(getattr(person, name) for name in Person.COLUMNS)}\n"
        with closing(build(self._settings, system_clock)) as portal:
            report = portal.command_import.import_csv(text.encode(), default_region="ZA", dry_run=False)
        assert not report.errors, report.errors
        return person

    def new_link(self, person: Person, kind: str) -> str:
        """A one-time link that an admin hands over."""
        with closing(build(self._settings, system_clock)) as portal:
            row = portal.customers.row_of(person.customer_id)
            return portal.credential_links.make(row, kind, "hand", admin_id="0" * 32).link

    def configure(self, text: str) -> None:
        """Load a config file on top of the demo's."""
        with closing(build(self._settings, system_clock)) as portal:
            portal.configuration.import_toml(text, file_name="more.toml")


@pytest.fixture(scope="session")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """One portal for all tests of this process, which share nothing but its limits by address."""
    server = Portal(tmp_path_factory.mktemp("portal"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def person(portal: Portal) -> Person:
    return portal.new_person()


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    if not Path(CHROMIUM).exists():
        pytest.fail(MISSING.format(path=CHROMIUM), pytrace=False)
    expect.set_options(timeout=1000 * GIVE_UP_SECONDS)
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """One browser for the session; a test gets a context of its own, with nothing remembered."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def roboto(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose system font is that of most phones."""
    fonts = tmp_path_factory.mktemp("fonts") / "fonts.conf"
    fonts.write_text(FONTS)
    browser = playwright.chromium.launch(
        executable_path=CHROMIUM, args=ARGUMENTS, env={**os.environ, "FONTCONFIG_FILE": str(fonts)}
    )
    yield browser
    browser.close()


@pytest.fixture
def phones() -> Iterator[list[Phone]]:
    """The phones of a test; at its end they say what was wrong with any page that they met."""
    made: list[Phone] = []
    yield made
    faults = [fault for phone in made for fault in phone.faults]
    for phone in made:
        phone.context.close()
    assert not faults, "\n".join(dict.fromkeys(faults))


@pytest.fixture
def new_phone(portal: Portal, chromium: Browser, phones: list[Phone]) -> Callable[..., Phone]:
    """Makes a phone."""

    def make(*, has_script: bool = True, server: Server = portal, **options: Any) -> Phone:
        context = chromium.new_context(**SCREEN, java_script_enabled=has_script, **options)
        phones.append(Phone(server, context, has_script))
        return phones[-1]

    return make


@pytest.fixture
def phone_without_cookies(portal: Portal, playwright: Playwright, phones: list[Phone], tmp_path: Path) -> Phone:
    """A phone whose owner refuses cookies: a browser of its own, for it is a setting of the whole browser."""
    (tmp_path / "Default").mkdir()
    preferences = {"profile": {"default_content_setting_values": {"cookies": BLOCKED}}}
    (tmp_path / "Default" / "Preferences").write_text(json.dumps(preferences))
    context = playwright.chromium.launch_persistent_context(
        tmp_path, executable_path=CHROMIUM, args=ARGUMENTS, **SCREEN
    )
    phones.append(Phone(portal, context))
    return phones[-1]


@pytest.fixture
def phone(new_phone: Callable[..., Phone]) -> Phone:
    """A phone as most are: with script."""
    return new_phone()


@pytest.fixture(params=[True, False], ids=["script", "no script"])
def any_phone(request: pytest.FixtureRequest, new_phone: Callable[..., Phone]) -> Phone:
    """A phone with script, and one without."""
    return new_phone(has_script=request.param)
