"""Languages in a real browser: what script counts down, and what stays in a link."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.receiver import Receiver
from tests.serving import free_port
from tests.world import open_world


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        """Nothing: the address has a reference."""


@pytest.fixture
def address(languages: None, tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[str]:
    """A portal of this process, so that it has the made-up languages, behind a socket."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with open_world(tmp_path, sqlite_url, receiver, settings={"PORTAL_PUBLIC_URL": url}) as world:
        server = make_server("127.0.0.1", port, world.app, threaded=True, request_handler=_Quiet)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield url
        server.shutdown()
        thread.join()


def test_script_counts_down_in_every_plural_form_of_the_language(chromium: Browser, address: str) -> None:
    page = chromium.new_context(locale="ar-EG").new_page()
    page.clock.install()
    page.goto(f"{address}/?reference=abc")
    assert page.locator("html").get_attribute("dir") == "rtl"
    page.fill("[name=identifier]", "C-1001")
    page.click("button.main")
    page.wait_for_url("**/verify*")
    line = page.locator("progress")
    expect(line).to_have_attribute("aria-label", "[ar few] About 8 minutes left")
    page.clock.fast_forward(6 * 60 * 1000)
    page.clock.run_for(2000)
    expect(line).to_have_attribute("aria-label", "[ar two] About 2 minutes left")
    page.clock.fast_forward(60 * 1000)
    page.clock.run_for(2000)
    expect(line).to_have_attribute("aria-label", "[ar one] About 1 minutes left")
    page.context.close()


def test_what_stands_behind_the_hash_stays_while_a_language_is_chosen(chromium: Browser, address: str) -> None:
    page = chromium.new_context(locale="en-ZA").new_page()
    page.goto(f"{address}/?reference=f7_4hn5=8f&%#nK=")
    page.click("a.language")
    page.wait_for_url(re.compile("/language"))
    page.click("a[hreflang=zu]")
    page.wait_for_url(re.compile("/.lang=zu"))
    assert page.locator("html").get_attribute("lang") == "zu"
    assert page.input_value("[name=reference]") == "f7_4hn5=8f&%"
    assert page.input_value("[name=reference_tail]") == "#nK="
    page.context.close()
