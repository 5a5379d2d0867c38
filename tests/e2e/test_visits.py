"""References behind "#", and several visits in one browser, in a real one: only it knows what it sends and keeps."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.e2e.phone import Person, Phone, press, waited


@pytest.mark.parametrize("tail", ["#", "##", "#nK=", "#a#", "#%23", "#%", "#a?b&c=%41"])
def test_a_reference_reaches_flow_with_all_that_follows_its_first_hash(phone: Phone, tail: str) -> None:
    """``location.hash`` is empty where nothing follows the "#"; the browser's address is not."""
    whole = f"e2e-{abs(hash(tail))}={tail}"
    page = phone.open(f"/j/app?reference={whole}")
    assert page.evaluate("location.hash") == ("" if tail == "#" else tail)
    phone.says_not_me(page)
    expected = whole.replace("%23", "#").replace("%41", "A")
    home = phone.open("/sandbox/")
    found = home.locator("section[aria-labelledby=unmatched] .reference")
    assert waited(lambda: home.reload() and expected in found.all_inner_texts())


def test_a_link_is_declined_whole_from_the_page_that_asks(phone: Phone) -> None:
    """What stands behind "#" stays with the browser, from page to page."""
    page = phone.open("/j/app/stop?reference=stopped&%#nK=")
    phone.look_at(page)
    assert page.locator("a[data-tail].button").get_attribute("href").endswith("reference=stopped%26%25#nK=")  # type: ignore[union-attr]
    press(page, page.get_by_role("button", name="Yes, it wasn't me"))
    home = phone.open("/sandbox/")
    found = home.locator("section[aria-labelledby=unmatched] .reference")
    assert waited(lambda: home.reload() and "stopped&%#nK=" in found.all_inner_texts())


def test_help_and_stop_keep_the_rules(any_phone: Phone, person: Person) -> None:
    phone = any_phone
    chat = phone.begin("balance")
    page = phone.open(chat.link)
    phone.name(page, person)
    page.goto(page.url.replace("/verify?", "/verify/help?"))
    phone.look_at(page)
    press(page, page.get_by_role("link", name="It wasn't me"))
    phone.look_at(page)
    press(page, page.get_by_role("link", name="Go back"))
    page.locator("#code").wait_for()
    page.goto(page.url.replace("/verify?", "/verify/stop?"))
    press(page, page.get_by_role("button", name="Yes, it wasn't me"))
    assert chat.answered()["data"]["outcome"] == "not_me"
    expect(page.locator("#state")).to_contain_text("let the chat know")  # with script, it asks by itself
