"""Take the pictures for the documents from the running product: ``make screenshots``.

Serves the demo on a free port with a temporary instance folder, plays first the customer and then the admin in
Chromium, and stores what a phone of 360 px or a desktop shows at each stop.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyotp
import requests
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
)
PHONE: ViewportSize = {"width": 360, "height": 700}
WIDE: ViewportSize = {"width": 1040, "height": 800}
DESK: ViewportSize = {"width": 1040, "height": 640}
SHORT = 560  # pixels, of a page with many letters
LARGEST = 120_000  # bytes of a picture
START_SECONDS = 60
SETTLE_MILLISECONDS = 400
WORDS = "seven kudus dance slowly"  # the password of an owner who exists only in this demo
_INSTANCE: dict[str, str] = {}


def main() -> None:
    """Take every picture and print its size. Exit with 1 if one is too large."""
    if not Path(CHROMIUM).exists():
        sys.exit(
            f"The pictures need Chromium, but {CHROMIUM} does not exist (Debian, Ubuntu: apt-get install chromium)."
        )
    IMAGES.mkdir(exist_ok=True)
    with demo() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        take_phone(browser, url)
        take_wide(browser, url)
        take_desk(browser, url)
        browser.close()
    for path in sorted(IMAGES.glob("*.png")):
        size = path.stat().st_size
        sys.stdout.write(f"{path.relative_to(ROOT)}  {size // 1000} kB\n")
        if size > LARGEST:
            sys.exit(f"{path.name} is larger than {LARGEST // 1000} kB.")


@contextmanager
def demo() -> Iterator[str]:
    """Serve the demo as ``make run`` does, and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        _INSTANCE["PORTAL_INSTANCE"] = folder
        environment |= {"PORT": str(port), "WORKERS": "1", **_INSTANCE}
        running = subprocess.Popen(  # noqa: S603 -- our own script
            [ROOT / "deploy" / "demo"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            wait_for(f"{url}/healthz")
            yield url
        finally:
            os.killpg(running.pid, signal.SIGTERM)
            running.wait(20)


def wait_for(url: str) -> None:
    """Wait until the demo answers."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            if requests.get(url, timeout=1).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    sys.exit("The demo did not start.")


def take_phone(browser: Browser, url: str) -> None:
    """Take the customer's pages on a phone."""
    context = browser.new_context(viewport=PHONE, is_mobile=True, has_touch=True, device_scale_factor=1.5)
    chat = context.new_page()
    chat.goto(f"{url}/sandbox/")
    chat.get_by_role("button", name="Start the chat").click()
    chat.wait_for_url("**live=1")
    with context.expect_page() as opened:
        chat.locator("a.link-card").click()
    page = opened.value
    page.locator("#identifier").wait_for()
    take(page, "landing")
    page.fill("#identifier", "082 123 4567")
    page.locator("form.main-form button.main").click()
    page.locator("#code").wait_for()
    inbox = context.new_page()
    inbox.goto(f"{url}/sandbox/inbox")
    code = inbox.locator("strong.code").first.inner_text()
    take(page, "code")
    page.fill("#code", re.sub(r"\D", "", code))
    page.locator("form.main-form button.main").click()
    page.get_by_text("Your chat has your answer").wait_for()
    take(page, "done")
    chat.bring_to_front()
    chat.locator("#log .bubble.business", has_text="Thank you").wait_for()
    chat.locator(".scroller").evaluate("log => log.scrollTo(0, log.scrollHeight)")
    take(chat, "chat")
    context.close()


def take_wide(browser: Browser, url: str) -> None:
    """Take the sandbox on a desktop: the chat, and what Flow received."""
    page = browser.new_page(viewport=WIDE)
    page.goto(f"{url}/sandbox/")
    page.locator(".rows a").first.click()
    page.locator("#answer table").wait_for()
    page.locator(".scroller").evaluate("log => log.scrollTo(0, log.scrollHeight)")
    take(page, "sandbox", **WIDE)


def take_desk(browser: Browser, url: str) -> None:
    """Take the configuration page, after a customer was verified in the sandbox."""
    page = browser.new_page(viewport=WIDE)
    join(page, owner_link(url))
    page.goto(f"{url}/admin/?range=day")
    take(page, "admin-home", **DESK)
    page.goto(f"{url}/admin/journeys/balance")
    take(page, "admin-journey", **DESK)
    page.goto(f"{url}/admin/journeys/balance/setup")
    take(page, "admin-setup", **DESK)
    page.goto(f"{url}/admin/verifications")
    page.locator("main a[href^='/admin/verifications/']").first.click()
    take(page, "admin-story", DESK["width"], SHORT)
    page.goto(f"{url}/admin/journeys")
    take(page, "admin-phone")


def owner_link(url: str) -> str:
    """Return the one-time link for a new owner, as the command prints it."""
    environment = {**os.environ, **_INSTANCE, "PORTAL_PUBLIC_URL": url, "PORTAL_SANDBOX": "1"}
    command = [str(Path(sys.executable).parent / "flask"), "--app", "app", "admin", "create"]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    return made.stdout.strip()


def join(page: Page, link: str) -> None:
    """Become an owner through a one-time link."""
    page.goto(link)
    page.get_by_role("button", name="Start", exact=True).click()
    seed = page.input_value("#key").replace(" ", "")
    for field, text in (("name", "Ada Owner"), ("email", "ada@acme.example"), ("password", WORDS), ("repeated", WORDS)):
        page.fill(f"#{field}", text)
    page.fill("#code", pyotp.TOTP(seed).now())
    page.get_by_role("button", name="Set up my sign-in").click()
    page.get_by_label("I have printed or saved them").check()
    page.get_by_role("button", name="Go to the home page").click()


def take(page: Page, name: str, width: int = PHONE["width"], height: int = PHONE["height"]) -> None:
    """Store a picture of what the screen shows."""
    page.bring_to_front()
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("document.activeElement && document.activeElement.blur()")
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")


if __name__ == "__main__":
    main()
