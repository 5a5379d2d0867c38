"""The frame of the customer's pages, and what script adds to them: in a browser as people have it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from auth_portal.i18n import complete_languages
from tests.e2e.conftest import SCREEN, Portal
from tests.e2e.phone import Person, Phone, press

FIRST_VIEW_BYTES = 14_336  # what a server may send before the first acknowledgement (RFC 6928: 10 segments)
FIRST_VIEW_RESPONSES = 5
KEYBOARD_AT = 340  # px: a keyboard of 300 px on a screen of 640
STRIP = "document.querySelector('.strip').offsetHeight"


def bottom_of_main_button(page: Page) -> float:
    """Where the main button ends, without the strip that only a sandbox has."""
    found: float = page.evaluate(
        f"document.querySelector('.sheet button.main').getBoundingClientRect().bottom - {STRIP}"
    )
    return found


def wrong(phone: Phone, page: Page, person: Person) -> None:
    code = int(phone.code_sent_to(person.phone))
    page.fill("#code", f"{(code + 1) % 10**6:06}")
    press(page, page.locator("button.main"))


def test_the_first_view_fits_into_what_a_server_may_send_at_once(phone: Phone) -> None:
    page, received, urls = phone.context.new_page(), [], {}
    network = phone.context.new_cdp_session(page)
    network.send("Network.enable")
    network.on("Network.responseReceived", lambda e: urls.update({e["requestId"]: e["response"]["url"]}))
    network.on("Network.loadingFinished", lambda e: received.append((urls[e["requestId"]], e["encodedDataLength"])))
    page.goto(phone.begin("balance").link, wait_until="networkidle")
    assert len(received) >= 3, received
    assert len(received) <= FIRST_VIEW_RESPONSES, received
    assert sum(size for _url, size in received) <= FIRST_VIEW_BYTES, received


def test_field_and_button_stay_above_the_keyboard(roboto: Browser, portal: Portal, person: Person) -> None:
    context = roboto.new_context(viewport={"width": 360, "height": 640})
    phone = Phone(portal, context)
    page = phone.open(phone.begin("balance").link)
    assert bottom_of_main_button(page) <= KEYBOARD_AT
    phone.name(page, person)
    assert page.locator("#code").count()
    assert bottom_of_main_button(page) <= KEYBOARD_AT
    wrong(phone, page, person)
    assert bottom_of_main_button(page) <= KEYBOARD_AT
    context.close()


# The page as it is for a browser of each language, in its place.
IN_EACH_LANGUAGE = f"""async (languages) => {{
  const found = {{}};
  for (const language of languages) {{
    const answer = await fetch(location.href, {{ headers: {{ "Accept-Language": language }}, cache: "no-store" }});
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.documentElement.lang = page.documentElement.lang;
    document.documentElement.dir = page.documentElement.dir;
    document.body.replaceWith(page.body);
    found[document.documentElement.lang] =
      document.querySelector(".sheet button.main").getBoundingClientRect().bottom - {STRIP};
  }}
  return found;
}}"""


def test_field_and_button_stay_above_the_keyboard_in_every_language(
    roboto: Browser, portal: Portal, person: Person
) -> None:
    context = roboto.new_context(viewport={"width": 360, "height": 640})
    phone, languages = Phone(portal, context), list(complete_languages())
    page = phone.open(phone.begin("balance").link)
    for is_named in (False, True):
        if is_named:
            page.reload()
            phone.name(page, person)
        found = page.evaluate(IN_EACH_LANGUAGE, languages)
        assert list(found) == languages
        assert {name: bottom for name, bottom in found.items() if bottom > KEYBOARD_AT} == {}
    context.close()


@pytest.mark.parametrize("journey", ["balance", "password"])
def test_the_page_of_a_proof_asks_for_one_thing(phone: Phone, person: Person, journey: str) -> None:
    """The main button, and links: to change, to send again or show, for help, and that it was not them."""
    page = phone.open(phone.begin(journey).link)
    phone.name(page, person)
    words = page.locator(".sheet").inner_text().split()
    controls = page.locator(".sheet :is(a, button, input:not([type=hidden], .visually-hidden)):visible")
    assert len(words) <= 50, words
    assert controls.count() <= 6
    assert page.locator(".sheet .main:visible").count() == 1


def test_the_seal_shows_in_forced_colours(chromium: Browser, portal: Portal, person: Person) -> None:
    context = chromium.new_context(**SCREEN, forced_colors="active")
    phone = Phone(portal, context)
    page = phone.open(phone.begin("app").link)
    phone.name(page, person)
    phone.prove(page, "totp", person)
    colours: list[str] = page.evaluate(
        "['.seal svg', '.seal'].map((s) => getComputedStyle(document.querySelector(s)))"
        ".map((style, at) => at ? style.backgroundColor : style.color)"
    )
    assert colours[0] != colours[1]
    context.close()


def test_back_and_reload_after_a_wrong_code_show_the_page_and_send_nothing(phone: Phone, person: Person) -> None:
    page = phone.open(phone.begin("balance").link)
    phone.name(page, person)
    wrong(phone, page, person)
    expect(page.get_by_role("alert")).to_contain_text("isn't the code")
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    page.reload()
    expect(page.locator("#code")).to_be_visible()
    page.goto(f"{phone.server.url}/verify/help")
    page.go_back()
    expect(page.locator("#code")).to_be_visible()
    assert page.locator("#code").input_value() == ""
    assert posts == []
    assert "4 tries left" in phone.help(page)


def test_back_after_a_fault_on_the_landing_page_shows_it_again(phone: Phone) -> None:
    chat = phone.begin("balance")
    page = phone.open(chat.link)
    page.fill("#identifier", " ")
    press(page, page.locator("button.main"))
    expect(page.get_by_role("alert")).to_be_visible()
    page.reload()
    expect(page.locator("#identifier")).to_be_visible()
    assert page.locator("input[name=reference]").first.input_value() == chat.reference


def test_a_whole_message_is_pasted(phone: Phone, person: Person) -> None:
    page = phone.open(phone.begin("balance").link)
    phone.name(page, person)
    phone.code_sent_to(person.phone)
    text = phone.messages_to(person.phone)[0]["text"]
    page.evaluate(
        """(text) => {
          const data = new DataTransfer();
          data.setData("text/plain", text);
          const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
          document.getElementById("code").dispatchEvent(event);
        }""",
        text,
    )
    assert page.locator("#code").input_value() == phone.code_sent_to(person.phone)


def test_the_browser_reads_the_code_out_of_the_message(phone: Phone, person: Person) -> None:
    """WebOTP: a stand-in for the part of the browser that reads SMS, which no desktop has."""
    phone.context.add_init_script(
        """window.OTPCredential = class {};
        const asked = new Promise((resolve) => { window.giveCode = (code) => resolve({ code }); });
        if (navigator.credentials) navigator.credentials.get = (options) => options.otp ? asked : Promise.reject();"""
    )
    chat = phone.begin("balance")
    page = phone.open(chat.link)
    phone.name(page, person)
    code = phone.code_sent_to(person.phone)
    with page.expect_navigation():
        page.evaluate("(code) => { window.giveCode(code); }", code)
    assert chat.answered()["result"] == "verified"


def test_a_password_is_shown_and_hidden(phone: Phone, person: Person) -> None:
    page = phone.open(phone.begin("password").link)
    phone.name(page, person)
    field = page.locator("#password")
    page.get_by_role("button", name="Show").click()
    assert field.get_attribute("type") == "text"
    page.get_by_role("button", name="Hide").click()
    assert field.get_attribute("type") == "password"


def test_the_code_for_the_chat_is_copied(phone: Phone, person: Person) -> None:
    phone.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = phone.open(phone.begin("code-back").link)
    phone.name(page, person)
    page.fill("#code", phone.code_sent_to(person.phone))
    press(page, page.locator("button.main"))
    shown = page.locator("#chat-code").inner_text()
    page.get_by_role("button", name="Copy code").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == shown.replace(" ", "")


def test_the_last_page_is_updated_in_place(phone: Phone, person: Person) -> None:
    chat = phone.begin("app", fault="slow")
    page = phone.open(chat.link)
    phone.name(page, person)
    page.fill("#code", person.totp())
    press(page, page.locator("button.main"))
    loads: list[str] = []
    page.on("framenavigated", lambda frame: loads.append(frame.url))
    page.evaluate("document.body.dataset.mark = 'kept'")
    expect(page.get_by_role("status")).to_contain_text("Your chat has your answer.")
    assert page.evaluate("document.body.dataset.mark") == "kept"
    assert loads == []


def test_while_a_form_is_on_its_way_the_button_says_so(phone: Phone, person: Person) -> None:
    page = phone.open(phone.begin("balance").link)
    phone.name(page, person)
    page.evaluate("addEventListener('submit', (event) => event.preventDefault())")  # the answer never comes
    page.fill("#code", "000000")
    page.locator("button.main").click()
    button = page.locator("button.main")
    expect(button).to_have_text("Checking…")
    expect(button).to_have_attribute("aria-disabled", "true")
    colours: dict[str, Any] = button.evaluate("(e) => ({ colour: getComputedStyle(e).backgroundColor })")
    assert colours["colour"] == "rgb(11, 79, 138)"


def test_a_link_preview_says_whose_page_it_is_and_nothing_of_the_person(phone: Phone) -> None:
    page = phone.open(phone.begin("balance").link)
    assert page.locator("meta[property='og:title']").get_attribute("content") == "Check my balance · Acme Bank"
    described = page.locator("meta[property='og:description']").get_attribute("content")
    assert described == "Only continue if you started this chat."
    assert page.locator("meta[name='theme-color']").get_attribute("content") == "#0b4f8a"


def test_templates_and_styles_of_customers_have_short_lines_and_one_stylesheet() -> None:
    root = Path(__file__).resolve().parents[2]
    templates = root / "templates"
    files = [root / "static" / "customer.css", root / "static" / "app.js", templates / "error.html"]
    for folder in ("visitor", "methods", "steps"):
        files += sorted((templates / folder).glob("*.html"))
    files += [templates / "layouts" / f"{name}.html" for name in ("page", "prompt", "method", "sent_code")]
    names = ("icon", "notes", "time", "fields", "prompt", "credentials")
    files += [templates / "macros" / f"{name}.html" for name in names]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    long = [
        f"{path.name}:{n}" for path, text in texts.items() for n, t in enumerate(text.splitlines(), 1) if len(t) > 120
    ]
    assert long == []
    assert not [path.name for path, text in texts.items() if "simple.css" in text]
    assert not [path.name for path, text in texts.items() if "<svg" in text and path.name != "icon.html"]


NewPhone = Callable[..., Phone]


def test_without_script_the_last_page_looks_again_by_itself(new_phone: NewPhone, person: Person) -> None:
    phone = new_phone(has_script=False)
    chat = phone.begin("app", fault="slow")
    page = phone.open(chat.link)
    phone.name(page, person)
    phone.prove(page, "totp", person)
    expect(page.locator("#state")).to_contain_text("Your chat has your answer.")
