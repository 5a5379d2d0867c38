"""How long a session lasts, seen in a browser: typing is being at work (R26), and what came too late is typed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pyotp
import pytest
from playwright.sync_api import Browser

from auth_portal.clock import system_clock
from auth_portal.services.serving import build
from tests.e2e.conftest import SCREEN, Portal
from tests.e2e.office import PASSWORD, Office
from tests.e2e.phone import RULES, TOO_WIDE

MINUTE = 60  # seconds


@pytest.fixture(scope="module")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """A portal whose time the tests move, on localhost, where browsers allow passkeys."""
    server = Portal(tmp_path_factory.mktemp("clocked"), app="tests.clocked_app:app", host="localhost")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@dataclass
class Clerk(Office):
    """An owner at a phone of 360 px, whose time and the server's are one."""

    server: Portal | None = None

    @property
    def portal(self) -> Portal:
        assert self.server is not None
        return self.server

    def second_factor(self) -> str:
        """A code of the server's time that was not used yet."""
        self.portal.advance(31)
        return pyotp.TOTP(self.seed).at(self.now.timestamp())

    @property
    def now(self) -> datetime:
        """The server's time."""
        text = self.portal.clock_file.read_text()
        return datetime.now(UTC) if text == "system" else datetime.fromisoformat(text)

    def pass_time(self, seconds: int) -> None:
        """For the server and for the page."""
        self.portal.advance(seconds)
        self.page.clock.fast_forward(1000 * seconds)

    def type_something(self) -> None:
        """As somebody at work does; the page tells the server."""
        with self.page.expect_response(lambda answer: answer.request.method == "HEAD"):
            self.page.get_by_label("Customer ID").press_sequentially("a")

    def is_signed_in(self) -> bool:
        """Whether a page of this browser still opens."""
        answer = self.page.request.get(f"{self.url}/admin/account")
        return urlsplit(answer.url).path == "/admin/account"

    def sign_in(self) -> None:
        """By the form of the page that the browser is at."""
        self.page.get_by_label("Email address").fill(self.email)
        self.page.get_by_label("Password", exact=True).fill(PASSWORD)
        self.page.get_by_label("Code from your authenticator app").fill(self.second_factor())
        self.press("Sign in")


@pytest.fixture
def clerk(clocked: Portal, chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Clerk]:
    has_script = getattr(request, "param", True)
    with closing(build(clocked._settings, system_clock)) as installed:
        token = installed.admins.invite("owner")
    email = f"owner-{token[:8].lower().strip('-_')}@example.com"
    made = Clerk(chromium.new_context(**SCREEN, java_script_enabled=has_script), clocked.url, email, server=clocked)
    clocked.set_clock(None)
    clocked.advance(0)  # it stands from here on
    if has_script:
        made.page.clock.install()
    made.join(f"{clocked.url}/admin/join/{token}")
    yield made
    made.context.close()
    assert not made.faults, made.faults


def test_r26_typing_keeps_a_session_and_an_open_page_does_not(clerk: Clerk) -> None:
    clerk.open("/admin/customers/new")
    for _number in range(4):
        clerk.pass_time(10 * MINUTE)
        clerk.type_something()
    assert clerk.is_signed_in(), "forty minutes of typing"
    asked: list[str] = []
    clerk.page.on("request", lambda one: asked.append(one.url))
    for _number in range(15):
        clerk.pass_time(MINUTE)
    clerk.page.wait_for_load_state("networkidle")
    assert asked == [], "an open page is nobody at work"
    assert not clerk.is_signed_in()


def test_r26_eight_hours_are_the_end_whatever_is_typed(clerk: Clerk) -> None:
    began = clerk.now
    clerk.open("/admin/customers/new")
    while (clerk.now - began).total_seconds() < 8 * 3600 - 11 * MINUTE:
        clerk.pass_time(10 * MINUTE)
        clerk.type_something()
    assert clerk.is_signed_in()
    clerk.pass_time(12 * MINUTE)
    clerk.type_something()
    assert not clerk.is_signed_in()


@pytest.mark.parametrize("clerk", [True, False], ids=["script", "no script"], indirect=True)
def test_r26_a_form_that_came_too_late_is_typed_once(clerk: Clerk, request: pytest.FixtureRequest) -> None:
    has_script = "no script" not in request.node.name
    page = clerk.open("/admin/journeys/_new")
    page.get_by_label("Name customers see").fill("Check my balance after lunch")
    slug = f"lunch-{'with' if has_script else 'without'}"
    page.get_by_text("Choose the name in the link yourself").click()
    page.get_by_label("Name in the link").fill(slug)
    page.locator("input[name='step1'][value='totp']").check()
    page.locator("#words > summary").click()
    page.locator("textarea[name='texts.landing']").fill("Two lines\nof my own")
    clerk.portal.advance(16 * MINUTE)
    clerk.press("Save the journey")
    assert page.get_by_role("alert").filter(has_text="the form comes back as you typed it").count() == 1
    assert page.evaluate(TOO_WIDE) + page.evaluate(RULES) == []
    clerk.sign_in()
    assert page.get_by_text("These changes aren't saved yet.").count() == 1
    assert page.evaluate(TOO_WIDE) + page.evaluate(RULES) == []
    assert page.get_by_label("Name customers see").input_value() == "Check my balance after lunch"
    assert page.locator("textarea[name='texts.landing']").input_value() == "Two lines\nof my own"
    assert page.locator("input[name='step1'][value='totp']").is_checked()
    clerk.press("Save the journey")
    assert urlsplit(page.url).path == f"/admin/journeys/{slug}", page.locator("main").inner_text()


# What a phone with a fingerprint reader is to Chromium.
DEVICE = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


def test_r40_a_passkey_is_created_signs_in_and_confirms(clerk: Clerk) -> None:
    page, device = clerk.page, clerk.context.new_cdp_session(clerk.page)
    device.send("WebAuthn.enable")
    device.send("WebAuthn.addVirtualAuthenticator", {"options": DEVICE})
    clerk.open("/admin/account").get_by_label("Name of the device").fill("Office phone")
    _shown_well(clerk, "account")
    clerk.press("Add a passkey")
    _shown_well(clerk, "create")
    clerk.press("Create the passkey")
    assert page.get_by_text("The passkey was created.").count() == 1
    assert page.get_by_role("button", name="Remove Office phone").count() == 1
    _shown_well(clerk, "created")
    clerk.context.clear_cookies()
    clerk.open("/admin/api-keys/new")
    _shown_well(clerk, "sign-in")
    clerk.press("Sign in with a passkey")
    assert urlsplit(page.url).path == "/admin/api-keys/new", "signed in, and where they wanted to go"
    clerk.pass_time(11 * MINUTE)
    clerk.open("/admin/api-keys/new").get_by_label("Program").fill("Chat Flow")
    page.locator("input[name=scopes]").first.check()
    _shown_well(clerk, "confirm")
    clerk.press("Use a passkey instead")
    assert page.locator("#key").input_value().startswith("portal_")
    device.send("WebAuthn.disable")
    device.send("WebAuthn.enable")  # a device without this passkey
    clerk.context.clear_cookies()
    clerk.open("/admin/sign-in")
    device.send("WebAuthn.addVirtualAuthenticator", {"options": DEVICE})
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.get_by_text("The device didn't return a passkey.").wait_for()
    assert urlsplit(page.url).path == "/admin/sign-in"


def _shown_well(clerk: Clerk, name: str) -> None:
    """Checks the rules of every page at 360 px."""
    assert clerk.page.evaluate(TOO_WIDE) + clerk.page.evaluate(RULES) == [], name
