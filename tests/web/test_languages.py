"""Pages in the customer's language, as a browser sees them."""

from __future__ import annotations

import re

import pytest

from tests.world import World

pytestmark = pytest.mark.usefixtures("languages")


def accepting(header: str) -> dict[str, dict[str, str]]:
    return {"headers": {"Accept-Language": header}}


def test_a_page_is_in_the_language_of_the_browser(small_world: World) -> None:
    browser = small_world.browser()
    page = browser.get("/?reference=abc", **accepting("ar-EG,ar;q=0.9,en;q=0.8"))
    assert '<html lang="ar" dir="rtl">' in page.text
    assert page.headers["Content-Language"] == "ar"
    assert "Accept-Language" in page.headers["Vary"]
    assert "[ar]" in page.text
    page = browser.get("/?reference=abc")
    assert '<html lang="en" dir="ltr">' in page.text
    assert "[ar]" not in page.text
    assert page.headers["Content-Language"] == "en"


def test_a_language_that_is_not_complete_is_not_offered(small_world: World) -> None:
    page = small_world.browser().get("/?reference=abc", **accepting("de, zu;q=0.5"))
    assert '<html lang="zu"' in page.text


def test_errors_are_in_the_language_of_the_browser(small_world: World) -> None:
    browser = small_world.browser()
    for path in ("/", "/verify", "/done", "/nothing-here", "/credentials/none", "/?reference=%00"):
        page = browser.get(path, **accepting("zu"))
        assert page.status_code in (400, 404, 410)
        assert '<html lang="zu"' in page.text, path
        assert "[zu]" in page.text, path


def test_admins_programs_and_probes_read_english(small_world: World) -> None:
    browser = small_world.browser()
    for path in ("/admin/", "/admin/sign-in", "/admin/none", "/api/v1/none", "/healthz", "/sandbox/"):
        page = browser.get(path, **accepting("zu"))
        assert "[zu]" not in page.text, path
        assert "Content-Language" not in page.headers


def test_every_plural_form_reaches_the_script(small_world: World) -> None:
    page = small_world.browser().get("/?reference=abc", **accepting("ar"))
    body = re.search(r"<body [^>]*>", page.text)
    assert body is not None
    for category in ("zero", "one", "two", "few", "many", "other"):
        assert f'data-minutes-{category}="[ar {category}] about {{n}} minutes"' in body[0]
