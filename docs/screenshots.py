"""Takes the README's pictures from the running product: ``make screenshots`` or ``python -m docs.screenshots``.

It serves the demo on a free port with an instance folder of its own, goes the customer's way in Chromium, and keeps
what a phone of 360 px shows at each stop.
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

import requests
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-quic", "--no-first-run", "--hide-scrollbars",
)  # fmt: skip
PHONE = {"width": 360, "height": 700}
WIDE = {"width": 1040, "height": 800}
LARGEST = 120_000  # bytes of a picture
START_SECONDS = 60
SETTLE_MILLISECONDS = 400


def main() -> None:
    """Takes every picture, and says how large each is."""
    if not Path(CHROMIUM).exists():
        sys.exit(f"The pictures need Chromium, and {CHROMIUM} is not there (Debian, Ubuntu: apt-get install chromium).")
    IMAGES.mkdir(exist_ok=True)
    with demo() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        take_phone(browser, url)
        take_wide(browser, url)
        browser.close()
    for path in sorted(IMAGES.glob("*.png")):
        size = path.stat().st_size
        sys.stdout.write(f"{path.relative_to(ROOT)}  {size // 1000} kB\n")
        if size > LARGEST:
            sys.exit(f"{path.name} is larger than {LARGEST // 1000} kB.")


@contextmanager
def demo() -> Iterator[str]:
    """The demo, as ``make run`` serves it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        environment |= {"PORT": str(port), "PORTAL_INSTANCE": folder, "WORKERS": "1"}
        running = subprocess.Popen(  # noqa: S603 -- our own script
            [ROOT / "deploy" / "run"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            wait_for(f"{url}/healthz")
            yield url
        finally:
            os.killpg(running.pid, signal.SIGTERM)
            running.wait(20)


def wait_for(url: str) -> None:
    """Waits until the demo answers."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            if requests.get(url, timeout=1).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    sys.exit("The demo did not start.")


def take_phone(browser: Browser, url: str) -> None:
    """The customer's way on a phone."""
    context = browser.new_context(viewport=PHONE, is_mobile=True, has_touch=True, device_scale_factor=1.5)
    chat = context.new_page()
    chat.goto(f"{url}/sandbox/")
    chat.get_by_role("button", name="Start the chat").click()
    chat.wait_for_url("**live=1")
    with context.expect_page() as opened:
        chat.locator("a.link-card").click()
    page = opened.value
    page.locator("#identifier").wait_for()
    keep(page, "landing")
    page.fill("#identifier", "082 123 4567")
    page.locator("form.main-form button.main").click()
    page.locator("button[name=method][value=sms_code]").click()
    page.locator("#code").wait_for()
    inbox = context.new_page()
    inbox.goto(f"{url}/sandbox/inbox")
    code = inbox.locator("strong.code").first.inner_text()
    keep(inbox, "inbox", height=520)
    keep(page, "code")
    page.fill("#code", re.sub(r"\D", "", code))
    page.locator("form.main-form button.main").click()
    page.get_by_text("Your chat with").wait_for()
    keep(page, "done")
    chat.bring_to_front()
    chat.locator("#log .bubble.business", has_text="Thank you").wait_for()
    chat.locator(".scroller").evaluate("log => log.scrollTo(0, log.scrollHeight)")
    keep(chat, "chat")
    context.close()


def take_wide(browser: Browser, url: str) -> None:
    """The sandbox on a desk: the chat, and what Flow received."""
    page = browser.new_page(viewport=WIDE)
    page.goto(f"{url}/sandbox/")
    page.locator(".rows a").first.click()
    page.locator("#answer table").wait_for()
    page.locator(".scroller").evaluate("log => log.scrollTo(0, log.scrollHeight)")
    keep(page, "sandbox", **WIDE)


def keep(page: Page, name: str, width: int = PHONE["width"], height: int = PHONE["height"]) -> None:
    """Takes one picture of what the screen shows."""
    page.bring_to_front()
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("document.activeElement && document.activeElement.blur()")
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")


if __name__ == "__main__":
    main()
