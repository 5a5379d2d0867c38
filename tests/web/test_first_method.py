"""What the landing button names is taken at once: a code is sent, a password asked for, or the choice shown (R24, R49)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from auth_portal.store.models import AuditEvent, Challenge, Delivery, Verification, Visit
from tests.receiver import Receiver, wait_for
from tests.web.test_way import sent, told
from tests.world import MAIL, PASSWORD, PHONE, STANDARD, Browser, World, journey, open_world

CHOICE = "How do you want to confirm it's you?"
SHORT = journey("short", "sms_code|email_code", limits="sends = 2")


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """The usual journeys, and one that may send twice."""
    with open_world(tmp_path, database_url, receiver, config=STANDARD + SHORT) as opened:
        yield opened


def started(world: World, slug: str, method: str, reference: str = "abc", identifier: str = "C-1001") -> Browser:
    browser = world.browser()
    browser.open(reference, slug)
    browser.post(f"/j/{slug}", method=method, identifier=identifier)
    return browser


def codes(world: World) -> list[tuple[str, str]]:
    return [(row.method, row.identifier_key) for row in world.rows(Challenge)]


def button(page: str, value: str) -> str:
    """The text of the landing page's button with this ``method``."""
    return page.partition(f'name="method" value="{value}">')[2].partition("</button>")[0].strip()


@pytest.mark.parametrize(
    ("slug", "first", "words", "has_others"),
    [
        ("balance", "sms_code", "Send me a code by SMS", False),
        ("either", "sms_code", "Send me a code by SMS", True),
        ("mail", "email_code", "Send me a code by email", False),
        ("app", "totp", "Use my app", False),
        ("transfer", "password", "Enter my password", False),
    ],
)
def test_the_button_says_what_it_does(world: World, slug: str, first: str, words: str, has_others: bool) -> None:
    page = world.browser().open("abc", slug).text
    assert button(page, first) == words
    assert (button(page, "choose") == "Use another method") is has_others
    assert (world.rows(Verification), world.rows(Delivery)) == ([], [])


def test_the_first_method_sends_at_once(world: World) -> None:
    browser = started(world, "either", "sms_code")
    assert browser.path == "/verify"
    assert "Enter the code we sent you" in browser.page.text
    (row,) = world.rows(Verification)
    assert row.sends == 1
    browser.prove(sent(world, PHONE))
    assert told(world).body["data"]["method"] == "sms_code"


@pytest.mark.parametrize("method", ["email_code", "totp"])
def test_any_method_that_the_step_offers_is_taken(world: World, method: str) -> None:
    browser = started(world, "either", method)
    browser.prove(sent(world, MAIL) if method == "email_code" else world.totp())
    assert told(world).body["data"]["method"] == method


@pytest.mark.parametrize("method", ["choose", "password", "support_code", "sms_code ", "x" * 5000, "\N{SNOWMAN}"])
def test_what_is_not_offered_shows_the_choice_and_sends_nothing(world: World, method: str) -> None:
    """A channel may fail between the page and its button; then the page says what there is, and nothing is lost."""
    browser = started(world, "either", method)
    assert CHOICE in browser.page.text
    assert (codes(world), world.rows(Delivery)) == ([], [])
    browser.post("/verify/method", method="totp")
    browser.prove(world.totp())
    assert browser.path == "/done"


@pytest.mark.parametrize("method", ["choose", "email_code"])
def test_not_even_a_single_method_is_used_unasked(world: World, method: str) -> None:
    browser = started(world, "balance", method)
    assert CHOICE in browser.page.text
    assert (codes(world), world.rows(Delivery)) == ([], [])


@pytest.mark.parametrize(("slug", "shows"), [("either", CHOICE), ("balance", "Enter the code we sent you")])
def test_a_form_without_a_method_is_as_before(world: World, slug: str, shows: str) -> None:
    browser = world.browser()
    browser.begin("abc", slug)
    assert shows in browser.page.text


def test_a_later_step_is_not_chosen_by_the_landing_page(world: World) -> None:
    browser = started(world, "transfer", "sms_code")
    assert CHOICE in browser.page.text
    browser.post("/verify/method", method="password")
    browser.prove(PASSWORD)
    browser.open("abc", "transfer")
    browser.post("/j/transfer", method="password", identifier="C-1001")
    assert "Step 2 of 2" in browser.page.text
    browser.open("abc", "transfer")
    browser.post("/j/transfer", method="sms_code", identifier="C-1001")
    assert CHOICE in browser.page.text
    assert world.rows(Delivery) == []


def test_r24_a_stranger_gets_the_same_page_code_and_count(world: World) -> None:
    pages = []
    for reference, identifier in (("known", "C-1001"), ("unknown", "C-4004"), ("nothing on file", "C-1002")):
        browser = started(world, "either", "email_code", reference.replace(" ", "-"), identifier)
        hidden = browser.hidden("/verify")
        text = browser.page.text.replace(identifier, "?")
        for value in hidden.values():
            text = text.replace(value, "")
        pages.append((browser.page.status_code, text))
    assert pages[0] == pages[1] == pages[2]
    assert {(row.sends, row.outcome) for row in world.rows(Verification)} == {(1, None)}
    assert [method for method, _ in codes(world)] == ["email_code"] * 3


def test_the_same_identifier_reuses_its_code_from_any_browser(world: World) -> None:
    first = started(world, "either", "sms_code")
    prompt = first.hidden("/verify")["prompt"]
    code = sent(world, PHONE)
    first.open("abc", "either")
    first.post("/j/either", method="sms_code", identifier="C-1001")
    assert first.hidden("/verify")["prompt"] == prompt  # a code page in another tab stays good
    other = started(world, "either", "sms_code")
    (row,) = world.rows(Verification)
    assert (row.sends, len(world.rows(Visit)), len(codes(world))) == (1, 2, 1)
    other.prove(code)
    assert other.path == "/done"


def test_another_method_at_the_landing_page_is_chosen_in_the_visit(world: World) -> None:
    browser = started(world, "either", "sms_code")
    code = sent(world, PHONE)
    browser.open("abc", "either")
    browser.post("/j/either", method="email_code", identifier="C-1001")
    assert "Enter the code we sent you" in browser.page.text
    assert sent(world, MAIL)
    browser.open("abc", "either")
    browser.post("/j/either", method="choose", identifier="C-1001")
    assert CHOICE in browser.page.text
    browser.open("abc", "either")
    browser.post("/j/either", method="sms_code", identifier="C-1001")
    (row,) = world.rows(Verification)
    assert (row.sends, len(world.rows(Visit)), len(codes(world))) == (2, 1, 2)
    browser.prove(code)
    assert told(world).body["data"]["method"] == "sms_code"
    kinds = [row.kind for row in world.rows(AuditEvent) if row.verification_id is not None]
    assert kinds.count("method_chosen") == 2


def test_another_identifier_is_named_and_counted(world: World) -> None:
    browser = started(world, "either", "sms_code", identifier="C-1002")
    browser.open("abc", "either")
    browser.post("/j/either", method="sms_code", identifier="C-1001")
    (row,) = world.rows(Verification)
    assert (row.sends, row.identity_changes) == (2, 1)
    browser.prove(sent(world, PHONE))
    assert told(world).body["data"]["customer_id"] == "C-1001"


def test_no_more_is_sent_than_the_journey_allows(world: World) -> None:
    browser = started(world, "short", "sms_code")
    for method in ("email_code", "sms_code", "email_code", "sms_code"):
        world.clock.advance(1)
        browser.open("abc", "short")
        browser.post("/j/short", method=method, identifier="C-1001")
    world.clock.advance(301)  # both codes have expired
    browser.open("abc", "short")
    browser.post("/j/short", method="sms_code", identifier="C-1001")
    assert "We can't send more codes in this chat" in browser.page.text
    (row,) = world.rows(Verification)
    assert (row.sends, len(codes(world))) == (2, 2)


def test_the_button_sends_again_once_the_code_has_expired(world: World) -> None:
    browser = started(world, "either", "sms_code")
    old = sent(world, PHONE)
    world.clock.advance(301)
    browser.open("abc", "either")
    browser.post("/j/either", method="sms_code", identifier="C-1001")
    wait_for(lambda: world.receiver.code_for(PHONE) != old)
    browser.prove(world.receiver.code_for(PHONE))
    assert browser.path == "/done"


def test_after_a_change_the_button_names_the_method_too(world: World) -> None:
    browser = started(world, "either", "email_code", identifier="C-1002")
    browser.post("/verify/change")
    assert button(browser.page.text, "sms_code") == "Send me a code by SMS"
    assert button(browser.page.text, "choose") == "Use another method"
    browser.post("/verify", method="sms_code", identifier="C-1001")
    browser.prove(sent(world, PHONE))
    assert told(world).body["data"]["method"] == "sms_code"


def test_a_refused_identifier_keeps_the_button_and_sends_nothing(world: World) -> None:
    browser = started(world, "either", "sms_code", identifier="not@an@address")
    assert browser.page.status_code == 422
    assert button(browser.page.text, "sms_code") == "Send me a code by SMS"
    assert world.rows(Verification) == []


def test_starting_again_asks_how(world: World) -> None:
    """Its button says "Start again", so it sends nothing where there is a choice."""
    browser = started(world, "either", "sms_code")
    browser.post("/verify/cancel", reason="cancelled")
    browser.open("abc", "either")
    assert "Already done. Go back to your chat" in browser.page.text
    assert button(browser.page.text, "sms_code") == ""
    browser.post("/j/either", identifier="C-1001")
    assert CHOICE in browser.page.text


def test_a_closed_journey_names_no_method(world: World) -> None:
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE channels SET is_active = false")
        connection.exec_driver_sql("UPDATE portal SET version = version + 1")
    world.accept()
    world.clock.advance(5)
    page = world.browser().open("abc", "balance").text
    assert 'name="method"' not in page
    assert button(world.browser().open("abc", "either").text, "totp") == "Use my app"
