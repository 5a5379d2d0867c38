"""References behind "#", and several visits in one browser, in a real one: only it knows what it sends and keeps."""

from __future__ import annotations

import pytest

from tests.e2e.phone import Phone, press, waited


@pytest.mark.parametrize("tail", ["#", "##", "#nK=", "#a#", "#%23", "#%", "#a?b&c=%41"])
def test_a_reference_reaches_flow_with_all_that_follows_its_first_hash(phone: Phone, tail: str) -> None:
    """``location.hash`` is empty where nothing follows the "#"; the browser's address is not."""
    whole = f"e2e-{abs(hash(tail))}={tail}"
    page = phone.open(f"/j/app?reference={whole}")
    assert page.evaluate("location.hash") == ("" if tail == "#" else tail)
    press(page, page.locator("button[name=decline]"))
    expected = whole.replace("%23", "#").replace("%41", "A")
    home = phone.open("/sandbox/")
    found = home.locator("section[aria-labelledby=unmatched] .reference")
    assert waited(lambda: home.reload() and expected in found.all_inner_texts())
