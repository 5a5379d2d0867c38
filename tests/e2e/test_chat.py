"""The main job in a real browser: from the link in the chat to the answer in the chat, with script and without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import Portal
from tests.e2e.phone import Person, Phone, press, waited
from tests.serving import serving

# A method, a journey of the demo, and whether the customer asks for the choice: else the landing page takes the first.
METHODS = [
    ("sms_code", "balance", False),
    ("totp", "balance", True),
    ("email_code", "email", False),
    ("totp", "app", False),
    ("password", "password", False),
]
VERIFIED = "Done. Go back to your chat"
DONE = re.compile(r"/done(\?v=[\w-]{8}(&looked=\d+)?)?$")
TIME_IS_UP = "You ran out of time"


@pytest.mark.parametrize(("method", "journey", "chooses"), METHODS)
def test_verified_by_each_method_and_the_chat_goes_on(
    any_phone: Phone, person: Person, method: str, journey: str, chooses: bool
) -> None:
    phone = any_phone
    chat, chat_page = phone.begin_by_hand(journey)
    expect(chat_page.locator("a.link-card")).to_be_visible()
    page = phone.tap_link(chat_page)
    phone.look_at(page)
    phone.name(page, person, chooses=chooses)
    phone.look_at(page)
    if chooses:
        phone.choose(page, method)
        phone.look_at(page)
    phone.prove(page, method, person)
    expect(page).to_have_url(DONE)
    expect(page.get_by_role("heading", level=1)).to_have_text(VERIFIED)

    state = chat.answered()
    success = "verified" if journey == "balance" else f"verified_{journey}"
    assert state["result"] == success
    assert state["data"]["customer_id"] == person.customer_id
    assert state["data"]["method"] == method
    assert [call["header_reference"] for call in state["callbacks"]] == [chat.reference]

    # What the person and the flow's author see, without touching anything.
    thanks = chat_page.locator("#log .bubble.business").last
    expect(thanks).to_contain_text(f"customer {person.customer_id}")
    variables = chat_page.locator("#answer table")
    for key, value in state["data"].items():
        expect(variables.locator("tr", has=chat_page.get_by_text(key, exact=True))).to_contain_text(value)
    expect(chat_page.locator("#branches .taken code")).to_have_text(success)
    phone.look_at(chat_page)
    expect(page.locator("#state")).to_contain_text("has your answer")  # it looks again by itself
    phone.look_at(page)


def test_password_and_then_a_code(any_phone: Phone, person: Person) -> None:
    phone = any_phone
    chat, chat_page = phone.begin_by_hand("transfer")
    page = phone.tap_link(chat_page)
    phone.name(page, person)
    expect(page.get_by_text("Step 1 of 2")).to_be_visible()
    phone.look_at(page)
    phone.prove(page, "password", person)
    expect(page.get_by_text("Step 2 of 2")).to_be_visible()
    phone.look_at(page)
    assert page.locator("button[name=method][value=password]").count() == 0
    assert chat.state()["state"] == "waiting"
    phone.choose(page, "sms_code")
    phone.look_at(page)
    phone.prove(page, "sms_code", person)
    assert chat.answered()["result"] == "verified_transfer"
    expect(chat_page.locator("#log .bubble.business").last).to_contain_text(person.customer_id)


def test_the_code_of_the_page_is_typed_into_the_chat(any_phone: Phone, person: Person) -> None:
    phone = any_phone
    chat, chat_page = phone.begin_by_hand("code-back")
    page = phone.tap_link(chat_page)
    phone.name(page, person, chooses=True)
    phone.choose(page, "totp")
    phone.prove(page, "totp", person)
    code = page.locator(".chat-code").inner_text()
    state = chat.answered()
    assert (state["result"], state["stage"]) == ("check_code_code-back", "code")
    phone.look_at(page)

    expect(chat_page.locator("#text")).to_be_visible()
    phone.look_at(chat_page)
    chat_page.fill("#text", "000000" if code != "000000" else "111111")
    press(chat_page, chat_page.get_by_role("button", name="Send"))
    expect(chat_page.locator("#log .bubble.business").last).to_contain_text("isn't the code")
    chat_page.fill("#text", code)
    press(chat_page, chat_page.get_by_role("button", name="Send"))
    expect(chat_page.locator("#log .bubble.business").last).to_contain_text(person.customer_id)
    assert chat.state()["stage"] == "thanked"


def test_a_raw_reference_is_completed_by_script(phone: Phone, person: Person) -> None:
    chat = phone.begin("app", "raw")
    assert "#" in chat.reference
    assert chat.link.endswith(chat.reference)
    page = phone.open(chat.link)
    phone.name(page, person)
    phone.prove(page, "totp", person)
    state = chat.answered()
    assert [call["header_reference"] for call in state["callbacks"]] == [chat.reference]
    assert [json.loads(call["raw"])["reference"] for call in state["callbacks"]] == [chat.reference]


def test_a_raw_reference_without_script_is_cut_and_the_page_says_so(
    new_phone: Callable[..., Phone], person: Person
) -> None:
    phone = new_phone(has_script=False)
    chat = phone.begin("app", "raw")
    page = phone.open(chat.link)
    expect(page.locator("noscript p")).to_contain_text("If your link contains #")
    phone.look_at(page)
    phone.name(page, person)
    phone.prove(page, "totp", person)
    home = phone.open("/sandbox/")
    cut = chat.reference.partition("#")[0]
    found = home.locator("section[aria-labelledby=unmatched] .reference", has_text=cut)
    waited(lambda: home.reload() and found.count())
    assert found.first.inner_text() == cut
    assert chat.state()["state"] == "waiting"
    expect(page.get_by_role("heading", level=1)).to_have_text("Please start again in your chat")
    phone.look_at(page)


def test_a_double_tap_costs_nothing(any_phone: Phone, person: Person) -> None:
    phone = any_phone
    chat = phone.begin("transfer")
    page = phone.open(chat.link)
    page.fill("#identifier", person.customer_id)
    page.locator("form.main-form button.main").dblclick()
    page.locator("#password").wait_for()
    page.fill("#password", "not the right one")
    page.locator("form.main-form button.main").dblclick()
    page.wait_for_load_state("networkidle")  # a slow second tap is a form of its own, whose answer has no alert
    assert "4 tries left" in phone.help(page)  # one of five is gone, not two
    phone.prove(page, "password", person)
    page.locator("button[name=method][value=sms_code]").dblclick()
    page.locator("#code").wait_for()
    page.fill("#code", phone.code_sent_to(person.phone))
    page.locator("form.main-form button.main").dblclick()
    expect(page).to_have_url(re.compile("/done"))  # the second tap ends the navigation of the first
    state = chat.answered()
    assert (state["result"], len(state["callbacks"])) == ("verified_transfer", 1)
    assert phone.code_sent_to(person.phone, count=1)


def test_back_and_reload_cost_nothing(any_phone: Phone, person: Person) -> None:
    phone = any_phone
    chat = phone.begin("transfer")
    page = phone.open(chat.link)
    phone.name(page, person)
    page.reload()
    phone.prove(page, "password", person)
    expect(page.get_by_text("Step 2 of 2")).to_be_visible()
    page.go_back()
    if page.locator("#password").count():  # the browser may show the old page: its form is of a prompt that is passed
        phone.prove(page, "password", person)
    page.goto(f"{phone.server.url}/verify")
    expect(page.get_by_text("Step 2 of 2")).to_be_visible()
    phone.choose(page, "totp")
    page.fill("#code", "00000x")
    press(page, page.locator("form.main-form button.main"))
    page.reload()  # the form is sent again, and nothing is counted twice
    assert "5 tries left" in phone.help(page)
    phone.prove(page, "totp", person)
    chat.answered()
    page.goto(f"{phone.server.url}/verify")
    expect(page).to_have_url(DONE)
    assert len(chat.state()["callbacks"]) == 1


def test_two_tabs_of_one_link(phone: Phone, person: Person) -> None:
    chat = phone.begin("email")
    first, second = phone.open(chat.link), phone.open(chat.link)
    phone.name(first, person)
    phone.name(second, person)  # takes up the live code: no second message
    code = phone.code_sent_to(person.email)
    first.fill("#code", code)
    press(first, first.locator("form.main-form button.main"))
    chat.answered()
    second.fill("#code", code)
    press(second, second.locator("form.main-form button.main"))
    expect(second).to_have_url(DONE)
    expect(second.get_by_role("heading", level=1)).to_have_text(VERIFIED)
    assert len(chat.state()["callbacks"]) == 1


def test_two_links_in_one_browser(phone: Phone, person: Person) -> None:
    """Each tab goes on with its own, and a link that is opened again knows what its browser has of it."""
    older, newer = phone.begin("app"), phone.begin("password")
    old_page, new_page = phone.open(older.link), phone.open(newer.link)
    phone.name(old_page, person)
    phone.name(new_page, person)
    old_page.reload()
    page = phone.open(older.link)
    expect(page.get_by_role("heading", level=1)).to_have_text("You've already started")
    phone.look_at(page)
    old_page.fill("#code", "12345x")
    press(old_page, old_page.locator("form.main-form button.main"))
    assert "5 tries left" in phone.help(old_page)
    phone.prove(old_page, "totp", person)
    assert older.answered()["result"] == "verified_app"
    expect(old_page.get_by_role("heading", level=1)).to_have_text(VERIFIED)
    phone.prove(new_page, "password", person)
    assert newer.answered()["result"] == "verified_password"
    page.reload()
    expect(page.locator(".sheet")).to_contain_text("You used this link today")
    press(page, page.get_by_role("link", name="See how it ended"))
    expect(page).to_have_url(DONE)
    expect(page.locator("#state")).to_contain_text("has your answer")


def test_a_browser_that_keeps_no_cookies_is_told_where_to_go(phone_without_cookies: Phone, person: Person) -> None:
    phone = phone_without_cookies
    chat = phone.begin("app", "raw")
    page = phone.open(chat.link)
    phone.name(page, person)
    assert page.input_value("#identifier") == person.customer_id
    phone.look_at(page)
    press(page, page.locator("form.main-form button.main"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Open this page in Chrome or Safari")
    phone.look_at(page)
    link = page.input_value("#link")
    assert "#" not in link, "another browser need not have script"
    assert unquote(link.partition("reference=")[2]) == chat.reference


def test_an_encoded_link_needs_no_script(new_phone: Callable[..., Phone], person: Person) -> None:
    """Such as the link of the page above, opened elsewhere."""
    phone = new_phone(has_script=False)
    chat = phone.begin("app", "encoded")
    page = phone.open(chat.link)
    phone.name(page, person)
    phone.prove(page, "totp", person)
    assert chat.answered()["callbacks"][0]["header_reference"] == chat.reference


def test_the_countdown_says_when_the_time_is_up(phone: Phone, person: Person) -> None:
    chat = phone.begin("balance")
    page = phone.context.new_page()
    page.clock.install()
    page.goto(chat.link)
    phone.name(page, person)
    resend = page.get_by_role("button", name="Send again")
    expect(resend).to_be_hidden()
    expect(page.get_by_text("Send again in 0:2")).to_be_visible()
    page.clock.fast_forward(32_000)
    expect(resend).to_be_visible()
    page.clock.fast_forward(410_000)
    expect(page.get_by_text("About 1 minute left")).to_be_visible()
    phone.look_at(page)
    page.clock.fast_forward(180_000)
    expect(page.get_by_role("heading", level=1)).to_have_text(TIME_IS_UP)
    expect(page.locator("#code")).to_be_hidden()
    phone.look_at(page)


def test_whoever_walks_off_leaves_a_chat_that_is_told(new_phone: Callable[..., Phone], tmp_path: Path) -> None:
    clocked = Portal(tmp_path, app="tests.clocked_app:app")
    with serving(clocked) as server:
        phone = new_phone(server=server)
        chat = phone.begin("balance")
        page = phone.open(chat.link)
        phone.name(page, clocked.new_person())
        page.locator("#code").wait_for()
        server.advance(500)
        state = chat.answered()
        assert (state["result"], state["data"]["outcome"]) == ("failed", "expired")
        page.reload()
        expect(page).to_have_url(DONE)
        expect(page.get_by_role("heading", level=1)).to_have_text(TIME_IS_UP)
        phone.look_at(page)


def test_start_again_answers_the_second_question(any_phone: Phone, person: Person) -> None:
    phone = any_phone
    chat, chat_page = phone.begin_by_hand("app")
    page = phone.tap_link(chat_page)
    phone.says_not_me(page)
    assert chat.answered()["data"]["outcome"] == "not_me"
    expect(chat_page.locator("#log .bubble.business").last).to_contain_text("couldn't verify")

    press(chat_page, chat_page.get_by_role("button", name="Ask again"))
    again = phone.tap_link(chat_page)
    if phone.has_script:  # behind "#" there is more of the reference than the server sees, so the link is not known
        phone.name(again, person)
    else:
        again.fill("#identifier", person.customer_id)
    expect(again.get_by_role("heading", level=1)).to_have_text("Already done. Go back to your chat")
    phone.look_at(again)
    press(again, again.get_by_role("button", name="Start again"))
    phone.prove(again, "totp", person)
    state = chat.answered(round_=2)
    assert [call["body"]["result"] for call in state["callbacks"]] == ["failed", "verified_app"]
    expect(chat_page.locator("#log .bubble.business").last).to_contain_text(person.customer_id)


def test_too_many_wrong_tries_end_it(new_phone: Callable[..., Phone], person: Person) -> None:
    phone = new_phone(has_script=False)
    chat = phone.begin("password")
    page = phone.open(chat.link)
    phone.name(page, person)
    for left in (4, 3, 2, 1):
        page.fill("#password", "no")
        press(page, page.locator("form.main-form button.main"))
        expect(page.locator("#note")).to_contain_text(f"{left} tr" if left <= 2 else "Try again")
    page.fill("#password", "no")
    press(page, page.locator("form.main-form button.main"))
    expect(page).to_have_url(DONE)
    assert chat.answered()["data"]["outcome"] == "wrong"


def test_a_mistyped_name_is_changed(new_phone: Callable[..., Phone], person: Person) -> None:
    phone = new_phone(has_script=False)
    chat = phone.begin("app")
    page = phone.open(chat.link)
    page.fill("#identifier", "E-9999")
    press(page, page.locator("form.main-form button.main"))
    expect(page.locator("#code")).to_be_visible()  # a stranger walks the same road
    press(page, page.locator("button[form=change]"))
    phone.look_at(page)
    phone.name(page, person)
    phone.prove(page, "totp", person)
    assert chat.answered()["data"]["customer_id"] == person.customer_id
