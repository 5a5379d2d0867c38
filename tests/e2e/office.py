"""An admin's browser in the e2e tests: follows the one-time link of `auth-portal admin create`, then works by hand."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pyotp
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Response

from tests.receiver import GIVE_UP_SECONDS

PASSWORD = "seven kudus dance slowly"
STEP_SECONDS = 30


@dataclass
class Office:
    """One admin at work; whatever goes wrong on the way is in ``faults``."""

    context: BrowserContext
    url: str
    email: str = "ada@example.com"
    seed: str = ""
    faults: list[str] = field(default_factory=list)
    _last_step: int = 0

    def __post_init__(self) -> None:
        self.context.set_default_timeout(GIVE_UP_SECONDS * 1000)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(f"script fault: {error}"))
        self.page.on("response", self._answered)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.faults.append(f"console on {self.page.url}: {message.text}")

    def _answered(self, response: Response) -> None:
        is_page = response.request.is_navigation_request()
        if response.status >= 500 or (response.status >= 400 and not is_page):
            self.faults.append(f"{response.status} for {response.url}")

    def second_factor(self) -> str:
        """A code of the app that was not used yet; waits for the next step where this one is spent."""
        while (step := int(time.time()) // STEP_SECONDS) <= self._last_step:
            time.sleep(0.2)
        self._last_step = step
        return pyotp.TOTP(self.seed).at(step * STEP_SECONDS)

    def join(self, link: str) -> None:
        """Becomes an admin by a one-time link, by keyboard and mouse alone."""
        page = self.page
        page.goto(link)
        self.press("Start")
        self.seed = page.input_value("#key").replace(" ", "")
        page.get_by_label("Your name").fill("Ada Owner")
        page.get_by_label("Your email address").fill(self.email)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_label("Password again").fill(PASSWORD)
        page.get_by_label("Code in your app").fill(self.second_factor())
        self.press("Set up my sign-in")
        page.get_by_label("I have printed or saved them").check()
        self.press("Go to the home page")

    def open(self, path: str) -> Page:
        """Goes to a page."""
        self.page.goto(self.url + path)
        return self.page

    def press(self, name: str, *, within: Any = None) -> Page:
        """Presses a button that leads to the next page."""
        with self.page.expect_navigation():
            (within or self.page.locator("main")).get_by_role("button", name=name, exact=True).first.click()
        return self.page
