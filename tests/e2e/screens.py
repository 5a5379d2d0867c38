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
from html import escape
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.conftest import FONTS, Portal
from tests.e2e.phone import ARGUMENTS, CHROMIUM, Phone
from tests.e2e.test_pages import PAGES, REFUSED

FOLDER = Path(__file__).resolve().parents[2] / "screens"
LANGUAGES = ("en", "zu", "ar")
SIZES = {360: 640, 1280: 800}
SCHEMES = ("light", "dark")


def pages(phone: Phone, portal: Portal) -> Iterator[tuple[str, Page]]:
    """Yield each page under its name, in the order in which customers meet them."""
    for group, ways in PAGES.items():
        if group == "sandbox":
            continue
        for name, way in ways.items():
            yield f"{group} {name}", way(phone, portal.new_person())
    for path, status in REFUSED.items():
        if not path.startswith("/sandbox"):
            yield f"{status} {path}", phone.open(path)


def take(browser: Browser, portal: Portal, language: str) -> list[str]:
    """Take all pictures of one language. Return their names."""
    context = browser.new_context(locale=language, viewport={"width": 360, "height": 640})
    phone, names = Phone(portal, context, has_one_tab=True), []
    for number, (name, page) in enumerate(pages(phone, portal), 1):
        names.append(f"{number:02} {re.sub(r'[^a-z0-9]+', ' ', name.lower()).strip()}")
        for width, height in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                page.screenshot(path=FOLDER / f"{language}-{width}-{scheme}" / f"{names[-1]}.png", full_page=True)
        page.set_viewport_size({"width": 360, "height": 640})
        page.emulate_media(color_scheme="light")
    context.close()
    return names


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
    languages = parser.parse_args().languages.split(",")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        fonts = Path(folder) / "fonts.conf"
        fonts.write_text(FONTS)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, env={**os.environ, "FONTCONFIG_FILE": str(fonts)}
        )
        portal = Portal(Path(folder))
        portal.start()
        try:
            for language in languages:
                names = take(browser, portal, language)
                for width in SIZES:
                    for scheme in SCHEMES:
                        write_sheet(FOLDER / f"{language}-{width}-{scheme}", names, width if width < 1000 else 640)
        finally:
            portal.stop()
            browser.close()


if __name__ == "__main__":
    main()
