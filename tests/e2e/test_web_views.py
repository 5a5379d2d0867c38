"""Links are opened in the browsers inside of chat apps: these forget cookies, get killed, and lose the network.

Whatever they do, the customer gets on from the link in the chat, and Flow gets one result, which is true.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from playwright.sync_api import Error, Page, Route, expect

from tests.e2e.phone import Chat, Person, Phone, press
from tests.receiver import GIVE_UP_SECONDS

SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
IPHONE = f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) {SAFARI}"
CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/137.0.7151.115 Mobile Safari/537.36"
ANDROID = f"Mozilla/5.0 (Linux; Android 15; SM-A156B Build/AP3A.240905.015; wv) {CHROME}"
WEB_VIEWS = {
    "WhatsApp on iOS": f"{IPHONE} Mobile/15E148 [FBAN/WhatsApp;FBAV/25.16.81;FBBV/738214511;FBDV/iPhone15,4;FBSV/18.5]",
    "WhatsApp on Android": f"{ANDROID} WhatsApp/2.25.17.79 A",
    "Telegram on iOS": f"{IPHONE} Mobile/15E148 Telegram-iOS/11.12",
    "Telegram on Android": f"{ANDROID} Telegram-Android/11.13.1 (Samsung SM-A156B; Android 15; SDK 35; AVERAGE)",
    "Instagram on iOS": f"{IPHONE} Mobile/22F76 Instagram 384.0.0.25.82 (iPhone15,4; iOS 18_5; en_ZA; scale=3.00)",
    "Instagram on Android": f"{ANDROID} Instagram 384.0.0.46.83 Android (35/15; 450dpi; 1080x2340; samsung; SM-A156B)",
}
DONE = "Done. Go back to your chat"


@pytest.fixture
def phone(new_phone: Callable[..., Phone]) -> Phone:
    """A phone whose chat app is WhatsApp."""
    return new_phone(user_agent=WEB_VIEWS["WhatsApp on Android"])


def go_on(page: Page) -> None:
    press(page, page.locator("form.main-form button.main"))


def at_code(phone: Phone, person: Person, **fields: str) -> tuple[Chat, Page]:
    chat = phone.begin("balance", **fields)
    page = phone.open(chat.link)
    phone.name(page, person)
    expect(page.locator("#code")).to_be_visible()
    return chat, page


def fails(page: Page, act: Callable[[], None]) -> None:
    """Do what fails for want of a network, and wait until the browser has said so."""
    with page.expect_event("requestfailed", lambda request: request.is_navigation_request()):
        act()


def is_verified_once(phone: Phone, chat: Chat, page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text(DONE)
    state = chat.answered()
    assert state["result"] == "verified"
    assert len(state["callbacks"]) == 1


@pytest.mark.parametrize("name", WEB_VIEWS)
def test_a_page_that_was_killed_is_taken_up_from_the_link(
    new_phone: Callable[..., Phone], person: Person, name: str
) -> None:
    phone = new_phone(user_agent=WEB_VIEWS[name])
    chat, page = at_code(phone, person)
    code = phone.code_sent_to(person.phone)
    page.close()  # the customer reads the SMS, and the app gives the memory to something else
    page = phone.open(chat.link)
    expect(page.get_by_role("heading", level=1)).to_have_text("You've already started")
    press(page, page.get_by_role("link", name="Enter my code"))
    page.fill("#code", code)
    go_on(page)
    is_verified_once(phone, chat, page)
    page.close()
    page = phone.open(chat.link)
    expect(page.get_by_role("heading", level=1)).to_have_text("Already done. Go back to your chat")
    assert len(phone.messages_to(person.phone)) == 1


def test_a_cookie_that_is_lost_before_the_landing_form_costs_one_tap(phone: Phone, person: Person) -> None:
    chat = phone.begin("balance")
    page = phone.open(chat.link)
    phone.context.clear_cookies()
    phone.name(page, person)
    expect(page.get_by_role("alert")).to_contain_text("Your browser didn't send our cookie. Try again.")
    expect(page.locator("#identifier")).to_have_value(person.customer_id)
    assert phone.messages_to(person.phone) == []
    go_on(page)
    page.fill("#code", phone.code_sent_to(person.phone))
    go_on(page)
    is_verified_once(phone, chat, page)


def test_a_cookie_that_is_lost_before_the_code_proves_nothing_and_the_link_works(phone: Phone, person: Person) -> None:
    chat, page = at_code(phone, person)
    code = phone.code_sent_to(person.phone)
    phone.context.clear_cookies()
    page.fill("#code", code)
    go_on(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Open the link from your chat again")
    assert chat.state()["state"] == "waiting"
    page = phone.open(chat.link)
    phone.name(page, person)
    page.fill("#code", code)  # it is still the one that is valid
    go_on(page)
    is_verified_once(phone, chat, page)


def test_a_cookie_that_is_lost_on_the_last_page_shows_no_end_to_others(phone: Phone, person: Person) -> None:
    chat, page = at_code(phone, person)
    page.fill("#code", phone.code_sent_to(person.phone))
    go_on(page)
    is_verified_once(phone, chat, page)
    phone.context.clear_cookies()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Open the link from your chat again")
    page = phone.open(chat.link)
    phone.name(page, person)
    expect(page.get_by_role("heading", level=1)).to_have_text("Already done. Go back to your chat")
    assert len(chat.state()["callbacks"]) == 1


def test_the_network_fails_as_the_customer_begins(phone: Phone, person: Person) -> None:
    chat = phone.begin("balance")
    page = phone.open(chat.link)
    page.fill("#identifier", person.customer_id)
    phone.context.set_offline(True)
    fails(page, page.locator("form.main-form button.main").click)
    phone.context.set_offline(False)
    assert phone.messages_to(person.phone) == []
    page.go_back()
    page.fill("#identifier", person.customer_id)
    go_on(page)
    page.fill("#code", phone.code_sent_to(person.phone))
    go_on(page)
    is_verified_once(phone, chat, page)
    assert len(phone.messages_to(person.phone)) == 1


def test_the_network_fails_as_the_code_is_sent(phone: Phone, person: Person) -> None:
    chat, page = at_code(phone, person)
    page.fill("#code", phone.code_sent_to(person.phone))
    phone.context.set_offline(True)
    fails(page, page.locator("form.main-form button.main").click)
    assert chat.state()["state"] == "waiting"
    phone.context.set_offline(False)
    page.go_back()
    assert "5 tries left" in phone.help(page)
    page.fill("#code", phone.code_sent_to(person.phone))
    go_on(page)
    is_verified_once(phone, chat, page)


def answer_is_lost(page: Page, act: Callable[[], None]) -> None:
    """Let the next form reach the server, and the network fail before the browser has the answer."""

    def lose(route: Route) -> None:
        sent = route.request
        if sent.method != "POST":
            return route.fallback()
        # Not by the browser, which would keep the cookie of the answer.
        answer = requests.post(
            sent.url, sent.post_data_buffer, headers=sent.all_headers(), allow_redirects=False, timeout=GIVE_UP_SECONDS
        )
        assert answer.status_code == 303
        return route.abort("internetdisconnected")

    page.route("**/*", lose)
    fails(page, act)
    page.unroute("**/*")


def test_the_answer_to_the_first_form_is_lost(phone: Phone, person: Person) -> None:
    chat = phone.begin("balance")
    page = phone.open(chat.link)
    page.fill("#identifier", person.customer_id)
    answer_is_lost(page, page.locator("form.main-form button.main").click)
    code = phone.code_sent_to(person.phone)
    page = phone.open(chat.link)
    phone.name(page, person)
    page.fill("#code", code)
    go_on(page)
    is_verified_once(phone, chat, page)


def test_the_answer_to_the_right_code_is_lost(phone: Phone, person: Person) -> None:
    """The chat goes on by itself, and the browser learns of it from the page that it has, or from the link."""
    chat, page = at_code(phone, person)
    page.fill("#code", phone.code_sent_to(person.phone))
    shown = page.url
    answer_is_lost(page, page.locator("form.main-form button.main").click)
    assert chat.answered()["result"] == "verified"
    page.goto(shown)
    is_verified_once(phone, chat, page)
    page.goto(chat.link)
    expect(page.get_by_role("heading", level=1)).to_have_text("Already done. Go back to your chat")


def test_the_last_page_says_nothing_wrong_without_a_network_and_catches_up(phone: Phone, person: Person) -> None:
    chat, page = at_code(phone, person, fault="slow")
    page.fill("#code", phone.code_sent_to(person.phone))
    go_on(page)
    phone.context.set_offline(True)
    page.wait_for_event("requestfailed", lambda request: "/done" in request.url)
    assert page.locator("#state").get_attribute("data-state") == "open"
    phone.context.set_offline(False)
    expect(page.locator("#state")).to_contain_text("Your chat has your answer.")
    is_verified_once(phone, chat, page)
    phone.context.set_offline(True)
    with pytest.raises(Error, match="ERR_INTERNET_DISCONNECTED"):
        page.reload()
    phone.context.set_offline(False)
    page.reload()
    is_verified_once(phone, chat, page)
