"""Take a picture of every customer page in every state, to look at: ``make screens``.

Each page is reached as a customer reaches it, in each language; there it is taken at each width, in light and in dark.
The pictures go into the folder ``screens``, with one sheet for each language, width and colour scheme. They show what a
phone shows if the fonts of one are installed (Debian: fonts-roboto-unhinted).
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from html import escape
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.conftest import FONTS, Portal
from tests.e2e.phone import ARGUMENTS, CHROMIUM, Phone
from tests.e2e.states import LATER, STATES, State, journeys
from tests.e2e.test_pages import PAGES, REFUSED, Way
from tests.serving import serving

FOLDER = Path(__file__).resolve().parents[2] / "screens"
LANGUAGES = ("en", "zu", "ar")
SIZES = {360: 640, 1280: 800}
SCHEMES = ("light", "dark")


def pages() -> Iterator[tuple[str, State]]:
    """Yield each page: its name, and how it is reached."""
    for group, ways in PAGES.items():
        for name, way in ways.items():
            if group != "sandbox":
                yield f"{group} {name}", partial(of_a_new_person, way)
    yield from STATES.items()
    for path, status in REFUSED.items():
        if not path.startswith("/sandbox"):
            yield f"{status} {path}", partial(refused, path)
    yield from LATER.items()


def of_a_new_person(way: Way, phone: Phone, portal: Portal) -> Page:
    return way(phone, portal.new_person())


def refused(path: str, phone: Phone, _portal: Portal) -> Page:
    """Open a page in a browser that has no visit."""
    phone.context.clear_cookies()
    return phone.open(path)


def take(browser: Browser, folder: Path, language: str, only: str) -> list[Exception]:
    """Take the pictures of one language, of pages whose name matches ``only``. Return what went wrong."""
    portal = Portal(folder, app="tests.clocked_app:app")
    portal.configure(journeys(f"{datetime.now(UTC):%a}".lower()))
    names, failed = [], []
    with serving(portal):
        context = browser.new_context(locale=language, viewport={"width": 360, "height": 640})
        phone = Phone(portal, context, has_one_tab=True)
        for number, (name, reach) in enumerate(pages(), 1):
            names.append(f"{number:02} {re.sub(r'[^a-z0-9]+', ' ', name.lower()).strip()}")
            if not re.search(only, names[-1]):
                continue
            try:
                picture(reach(phone, portal), language, names[-1])
            except Exception as fault:
                fault.add_note(f"{language} {names[-1]}")
                failed.append(fault)
        context.close()
    for width in SIZES:
        for scheme in SCHEMES:
            write_sheet(FOLDER / f"{language}-{width}-{scheme}", names, width if width < 1000 else 640)
    return failed


def picture(page: Page, language: str, name: str) -> None:
    """Take a page at each width, in light and in dark."""
    for width, height in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.screenshot(path=FOLDER / f"{language}-{width}-{scheme}" / f"{name}.png", full_page=True)
    page.set_viewport_size({"width": 360, "height": 640})
    page.emulate_media(color_scheme="light")


def write_sheet(folder: Path, names: list[str], width: int) -> None:
    """Write a page that shows all pictures of a folder next to each other."""
    figures = "".join(
        f'<figure><figcaption>{escape(name)}</figcaption><img src="{escape(name)}.png" width="{width}"></figure>'
        for name in names
    )
    style = "body{background:#e4e8ee;font:13px sans-serif}figure{display:inline-block;margin:8px;vertical-align:top}"
    (folder / "sheet.html").write_text(
        f"<!doctype html><meta charset=utf-8><style>{style}</style>{figures}", encoding="utf-8"
    )


def main() -> None:
    """Take the pictures of the languages that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--languages", default=",".join(LANGUAGES), help="such as en,zu,ar")
    parser.add_argument("--only", default="", help="a regular expression: take the pages whose name it matches")
    asked, failed = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        fonts = Path(folder) / "fonts.conf"
        fonts.write_text(FONTS)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, env={**os.environ, "FONTCONFIG_FILE": str(fonts)}
        )
        for language in asked.languages.split(","):
            (instance := Path(folder) / language).mkdir()
            failed += take(browser, instance, language, asked.only)
        browser.close()
    if failed:
        raise ExceptionGroup("pages that were not reached", failed)


if __name__ == "__main__":
    main()
