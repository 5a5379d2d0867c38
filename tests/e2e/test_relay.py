"""A ticketed conversation, and the attack by a link that is sent on, as people meet both in the sandbox."""

from __future__ import annotations

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.e2e.phone import Phone, press

# Of the demo: the sandbox offers the phones of its people, and no others.
THANDI, THANDIS_MAIL, SIPHO, STRANGER = "+27821234567", "thandi@example.com", "+27831234567", "+27605550199"


def go_on(page: Page) -> None:
    press(page, page.locator("form.main-form button.main"))


def node(chat_page: Page, name: str, state: str) -> None:
    expect(chat_page.locator(f"#branches .node.{state} h3", has_text=name)).to_be_visible()


def test_a_payment_is_confirmed_on_the_phone_of_the_chat(any_phone: Phone) -> None:
    phone, before = any_phone, len(any_phone.messages_to(THANDI))
    chat, chat_page = phone.begin_by_hand("pay", THANDI)
    assert "/j/pay/t/" in chat.link
    node(chat_page, "API Integration", "done")
    node(chat_page, "External Link", "now")
    asked = chat_page.locator("details", has_text="What the API node asked")
    asked.locator("summary").click()
    expect(asked).to_contain_text('"msisdn": "27821234567"')
    expect(asked).to_contain_text(f'"link": "{chat.link.partition("?")[0]}"')
    phone.look_at(chat_page)

    page = phone.tap_link(chat_page)
    expect(page.locator("h1")).to_have_text("Pay R 500 to N. Dlamini?")
    expect(page.locator("dl.receipt")).to_contain_text("••• 567")
    assert page.locator("#identifier").count() == 0
    phone.look_at(page)
    go_on(page)
    expect(page.locator("h1")).to_have_text("Enter the code to pay R 500 to N. Dlamini")
    phone.look_at(page)
    page.fill("#code", phone.code_sent_to(THANDI, count=before + 1))
    assert "is your code to pay R 500.00 to N. Dlamini. Valid" in phone.messages_to(THANDI)[0]["text"]
    go_on(page)
    expect(page.locator("h1")).to_have_text("You approved R 500 to N. Dlamini")
    expect(page.locator("dl.receipt")).to_contain_text("R 500.00")
    phone.look_at(page)

    expect(chat_page.locator("#log .bubble.business").last).to_contain_text("R 500 is on its way")
    node(chat_page, "Compare", "done")
    state = chat.answered()
    names = ("customer_id", "phone_match", "payment_amount", "payment_currency", "payment_payee")
    assert [state["data"][name] for name in names] == ["C-1001", "yes", "500.00", "ZAR", "N. Dlamini"]
    phone.look_at(chat_page)


@pytest.mark.parametrize(
    ("button", "outcome"), [("Stop: it wasn't me", "not_me"), ("Stop: I changed my mind", "cancelled")]
)
def test_a_payment_is_stopped_by_one_confirming_step(any_phone: Phone, button: str, outcome: str) -> None:
    phone = any_phone
    chat, chat_page = phone.begin_by_hand("pay", THANDI)
    page = phone.tap_link(chat_page)
    page.get_by_role("link", name="Don't pay").click()
    expect(page.locator("h1")).to_have_text("Don't pay R 500 to N. Dlamini?")
    phone.look_at(page)
    page.wait_for_timeout(700)  # until then it may be the second half of a double tap
    press(page, page.get_by_role("button", name=button))
    expect(page.locator("p.purpose")).to_contain_text("Not approved: R 500.00 to N. Dlamini")
    phone.look_at(page)
    state = chat.answered()
    assert (state["data"]["outcome"], state["data"]["payment_amount"]) == (outcome, "")


def test_a_chat_on_a_strangers_phone_gets_no_link(any_phone: Phone) -> None:
    phone = any_phone
    chat, chat_page = phone.begin_by_hand("pay", STRANGER)
    expect(chat_page.get_by_role("heading", level=1)).to_have_text("The flow stopped before it sent a link")
    expect(chat_page.locator("#log .bubble.business").last).to_contain_text("We can't verify you in this chat")
    expect(chat_page.locator("a.link-card")).to_have_count(0)
    expect(chat_page.locator("details[open]")).to_contain_text("ticket_nobody")
    phone.look_at(chat_page)
    assert chat.state()["state"] == "stopped"


@pytest.mark.parametrize(
    ("journey", "method", "end"),
    [
        ("balance", "email_code", "The attack worked: the attacker's chat is now Thandi Nkosi"),
        ("code-back", "sms_code", "The attacker's chat stops here"),
        ("pay", "sms_code", "The attack failed: Thandi Nkosi gets no code"),
    ],
)
def test_the_attack_is_played_against_each_defence(phone: Phone, journey: str, method: str, end: str) -> None:
    hers = THANDIS_MAIL if method == "email_code" else THANDI
    before = len(phone.messages_to(hers))
    home = phone.open("/sandbox/")
    press(home, home.get_by_role("link", name="Play it against each"))
    phone.look_at(home)
    form = home.locator("form", has=home.locator(f"input[name=journey][value={journey}]"))
    press(home, form.get_by_role("button"))
    home.wait_for_url("**live=1")
    expect(home.get_by_role("heading", level=1)).to_contain_text("Now be Thandi Nkosi")
    page = phone.tap_link(home)
    if journey != "pay":
        page.fill("#identifier", "C-1001")
    press(page, page.get_by_role("button", name="Use another method"))
    phone.choose(page, method)
    if journey != "pay":
        page.fill("#code", phone.code_sent_to(hers, count=before + 1))
        go_on(page)
    expect(home.get_by_role("heading", level=1)).to_have_text(end)
    phone.look_at(home)
    assert len(phone.messages_to(hers)) == before + (journey != "pay")
    assert phone.messages_to(SIPHO) if journey == "pay" else True
    state = requests.get(home.url.partition("?")[0].replace("/chat/", "/conversations/"), timeout=100).json()
    assert state["stage"] == {"balance": "thanked", "code-back": "code", "pay": "waiting"}[journey]
