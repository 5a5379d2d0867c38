"""Flow's other uses of the node in a real browser: accept terms, answer a survey, go on with a person."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import requests
from openapi_core import OpenAPI
from openapi_core.contrib.requests import RequestsOpenAPIRequest
from playwright.sync_api import Page, expect

from tests.e2e.phone import Chat, Phone, press, waited

SPEC = Path(__file__).parent.parent / "external-link-callback.openapi.json"
DONE = re.compile(r"/done(\?.*)?$")


def judged(chat: Chat) -> dict[str, Any]:
    """The state of a chat that got one result, which Flow's own description of the callback accepts."""
    state = chat.answered()
    (call,) = state["callbacks"]
    openapi = OpenAPI.from_path(SPEC)
    server = "https://flow-callback.clickatell.com"
    headers = {"reference": call["header_reference"], "Content-Type": "application/json"}
    sent = requests.Request("POST", f"{server}/callback", headers=headers, data=call["raw"]).prepare()
    openapi.validate_request(RequestsOpenAPIRequest(sent))
    assert json.loads(call["raw"])["reference"] == call["header_reference"] == chat.reference
    return state


def begun(phone: Phone, journey: str) -> tuple[Chat, Page, Page]:
    chat, chat_page = phone.begin_by_hand(journey)
    page = phone.tap_link(chat_page)
    phone.look_at(page)
    expect(page.locator("input[name=identifier]")).to_have_count(0)
    press(page, page.locator("form.main-form button.main"))
    phone.look_at(page)
    return chat, chat_page, page


def test_terms_are_accepted_and_the_chat_goes_on(any_phone: Phone) -> None:
    chat, chat_page, page = begun(any_phone, "terms")
    expect(page.get_by_role("heading", level=1)).to_have_text("Read and accept the savings terms")
    page.get_by_label("I've read these terms and I accept them").check()
    press(page, page.get_by_role("button", name="Accept"))
    expect(page).to_have_url(DONE)
    any_phone.look_at(page)
    state = judged(chat)
    assert (state["result"], state["data"]["terms_version"], state["data"]["tips"]) == ("completed", "3", "no")
    expect(chat_page.locator("#log .bubble.business").last).to_contain_text("Your savings account is open.")


def test_declined_terms_are_an_answer_too(any_phone: Phone) -> None:
    chat, chat_page, page = begun(any_phone, "terms")
    press(page, page.get_by_role("link", name="Decline"))
    any_phone.look_at(page)
    waited(lambda: page.evaluate("performance.now()") > 600)  # the second half of a double tap ends nothing
    press(page, page.get_by_role("button", name="Yes, decline"))
    any_phone.look_at(page)
    assert judged(chat)["result"] == "declined"
    expect(chat_page.locator("#log .bubble.business").last).to_contain_text("Without the terms")


def test_a_survey_is_answered_one_question_at_a_time(any_phone: Phone) -> None:
    chat, chat_page, page = begun(any_phone, "survey")
    press(page, page.get_by_role("button", name="Next"))
    expect(page.get_by_role("alert")).to_contain_text("Choose an answer.")
    any_phone.look_at(page)
    page.get_by_label("To report a problem").check()
    press(page, page.get_by_role("button", name="Next"))
    page.get_by_label("What went wrong?").fill("The queue was long.")
    any_phone.look_at(page)
    press(page, page.get_by_role("button", name="Next"))
    page.get_by_label("8", exact=True).check()
    any_phone.look_at(page)
    press(page, page.get_by_role("button", name="Back", exact=True))
    expect(page.get_by_label("What went wrong?")).to_have_value("The queue was long.")
    press(page, page.get_by_role("button", name="Next"))
    page.get_by_label("9", exact=True).check()
    press(page, page.get_by_role("button", name="Next"))
    press(page, page.get_by_role("button", name="Send"))
    expect(page).to_have_url(DONE)
    any_phone.look_at(page)
    data = judged(chat)["data"]
    assert [data[key] for key in ("why", "problem", "recommend", "better")] == [
        "problem",
        "The queue was long.",
        "9",
        "",
    ]
    expect(chat_page.locator("#log .bubble.business").last).to_contain_text("Your answers help us.")


def test_a_customer_is_handed_over_and_the_chat_knows(any_phone: Phone) -> None:
    chat, chat_page, page = begun(any_phone, "agent")
    press(page, page.get_by_role("button", name=re.compile("Chat on our website")))
    expect(page).to_have_url(DONE)
    any_phone.look_at(page)
    address = page.get_by_role("link", name="Chat on our website").get_attribute("href") or ""
    assert address.startswith("https://acme.example/chat?handover=")
    state = judged(chat)
    assert (state["result"], state["data"]["handover"]) == ("handed_over", "web")
    expect(chat_page.locator("#log .bubble.business").last).to_contain_text("You're in good hands.")
