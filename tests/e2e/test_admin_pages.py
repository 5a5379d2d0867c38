"""Every page of the configuration page, found by following its links as a person would, keeps the rules of all pages.

A page that no link leads to is a failure: nobody would find it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Literal
from urllib.parse import urlsplit

import html5lib
import pytest
from html5lib.html5parser import ParseError
from playwright.sync_api import Browser, Dialog, Page, Route
from playwright.sync_api import Error as PlaywrightError
from werkzeug.exceptions import HTTPException

from auth_portal.bootstrap import create_app
from auth_portal.clock import system_clock
from auth_portal.services.serving import build
from tests.e2e.conftest import Portal
from tests.e2e.office import Office
from tests.e2e.phone import HEIGHT, OVERLAPPING, RULES, TOO_WIDE, Phone, waited
from tests.e2e.test_pages import axe_findings

SCREENS: tuple[tuple[int, Literal["dark", "light"]], ...] = ((360, "dark"), (1440, "light"))
PER_ENDPOINT = 2  # pages of one kind that are looked at: the first and another
NOT_PAGES = (
    "_export",
    "_download",
    "_faults_csv",
    ".csv",
    ".json",
    "_logo",
    "_theme",
    "_options",
)  # files, or parts of a page
_URLS = create_app().url_map.bind("localhost")


def endpoint_of(path: str) -> str:
    """The admin endpoint of a path, or nothing."""
    with suppress(HTTPException):
        endpoint = str(_URLS.match(path, method="GET")[0])
        return endpoint if endpoint.startswith("admin.") else ""
    return ""


ALL_PAGES = {
    rule.endpoint
    for rule in create_app().url_map.iter_rules()
    if rule.endpoint.startswith("admin.")
    and "GET" in (rule.methods or ())
    and not rule.endpoint.endswith(NOT_PAGES)
    and "join" not in rule.endpoint
    and rule.endpoint not in ("admin.access_sign_in_form", "admin.access_recovery_codes")
}


@pytest.fixture
def office(portal: Portal, chromium: Browser) -> Iterator[Office]:
    """A new owner's browser."""
    with closing(build(portal._settings, system_clock)) as installed:
        token = installed.admins.invite("owner")
    context = chromium.new_context(viewport={"width": 1440, "height": HEIGHT})
    made = Office(context, portal.url, email=f"owner-{token[:8].lower().strip('-_')}@example.com")
    made.join(f"{portal.url}/admin/join/{token}")
    yield made
    context.close()
    assert not made.faults, made.faults


def html_faults(text: str) -> list[str]:
    """What the HTML standard's parser objects to."""
    parser = html5lib.HTMLParser(strict=True)
    try:
        parser.parse(text)
    except ParseError as error:
        return [f"invalid HTML: {error} at {parser.errors[-1] if parser.errors else '?'}"]
    return []


def standing(route: Route) -> None:
    """Some pages look again by themselves; while one is looked at, it stands."""
    with suppress(PlaywrightError):  # of what such a page had asked for when it was left
        answer = route.fetch()
        headers = {name: value for name, value in answer.headers.items() if name != "refresh"}
        route.fulfill(response=answer, headers=headers)


def looked_at(page: Page, path: str) -> list[str]:
    answer = page.goto(path)
    assert answer is not None, path
    found = html_faults(answer.text())
    if answer.status >= 400:
        return [f"status {answer.status}"]
    if not page.locator(".head p.help").inner_text().strip():
        found.append("no help line")
    found += page.evaluate(RULES)
    for width, scheme in SCREENS:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        page.emulate_media(color_scheme=scheme)
        found += page.evaluate(TOO_WIDE) + page.evaluate(OVERLAPPING)
        found += [f"{scheme}: {finding}" for finding in axe_findings(page)]
    return found


@pytest.mark.timeout(900)
def test_every_page_is_reached_by_links_and_keeps_the_rules(office: Office, phone: Phone, portal: Portal) -> None:
    something_happened(phone, portal)
    drive, trial = something_was_made(office), a_channel_was_tried(office)
    office.page.route("**/admin/**", standing)
    seen: dict[str, list[str]] = {}
    todo = ["/admin/", drive, trial]
    known = set(todo)
    findings: dict[str, list[str]] = {}
    while todo:
        path = todo.pop(0)
        endpoint = endpoint_of(urlsplit(path).path)
        visited = seen.setdefault(endpoint, [])
        if not endpoint or len(visited) >= PER_ENDPOINT or endpoint.endswith(NOT_PAGES):
            continue
        visited.append(path)
        findings[path] = looked_at(office.page, portal.url + path)
        for link in office.page.eval_on_selector_all(
            "a[href]", "links => links.map(link => link.getAttribute('href'))"
        ):
            target = re.sub("#.*", "", link)
            if target.startswith("/admin/") and target not in known:
                known.add(target)
                todo.append(target)
    assert not {path: found for path, found in findings.items() if found}
    assert ALL_PAGES - set(seen) == set(), "no link leads there"


def something_happened(phone: Phone, portal: Portal) -> None:
    """One customer verified, one ended it, the answer for a third was refused: there is something of each to show."""
    phone.has_one_tab = True
    for proves in (True, False):
        person = portal.new_person()
        chat = phone.begin("app")
        page = phone.open(chat.link)
        phone.name(page, person)
        if proves:
            phone.prove(page, "totp", person)
        else:
            page.get_by_role("link", name="Need help?").click()
            page.locator("button[name=reason][value=cancelled]").click()
        chat.answered()
    refused = phone.begin("app", fault="400")
    phone.says_not_me(phone.open(refused.link))
    waited(lambda: refused.state()["callbacks"])


def something_was_made(office: Office) -> str:
    """A key, a webhook, a second version of a journey, and a test drive, whose path is given."""
    office.open("/admin/api-keys/new").get_by_label("Program").fill("Chat Flow")
    office.page.locator("input[name=scopes]").first.check()
    office.press("Create the key")
    office.open("/admin/api-keys/webhooks/new").get_by_label("Address").fill("https://crm.example/hook")
    office.page.locator("input[name=events]").first.check()
    office.press("Create the webhook")
    office.open("/admin/journeys/app/edit").get_by_label("Name customers see").fill("Use an app")
    office.press("Save as version 2")
    office.open("/admin/journeys/app/drive")
    office.press("Start the test drive")
    office.page.wait_for_url("**live=1")
    return urlsplit(office.page.url).path + "?live=1"


def a_channel_was_tried(office: Office) -> str:
    """The page that says what the provider answered to a test, which follows the button."""
    office.open("/admin/channels").locator("main th a").first.click()
    office.page.get_by_label("Your mobile number").fill("082 123 4567")
    office.press("Send the test")
    office.page.get_by_text("The provider accepted the message").wait_for()  # the page looks again by itself
    return urlsplit(office.page.url).path


def test_the_pages_before_signing_in_keep_the_rules(portal: Portal, chromium: Browser) -> None:
    with closing(build(portal._settings, system_clock)) as installed:
        token = installed.admins.invite("auditor", email="new@example.com")
    context = chromium.new_context(viewport={"width": 360, "height": HEIGHT})
    page = context.new_page()
    for path in ("/admin/sign-in", f"/admin/join/{token}"):
        assert looked_at(page, portal.url + path) == [], path
    page.get_by_role("button", name="Start").click()
    page.get_by_label("Code in your app").wait_for()
    assert looked_at(page, page.url) == [], "the form behind the button"
    context.close()


# Colours of what is on the paper that are too light on white, and what a reader cannot press there.
ON_PAPER = """() => {
  const found = [];
  const seen = (one) => one.checkVisibility({ visibilityProperty: true }) && one.getClientRects().length;
  for (const one of document.querySelectorAll("button, a.button, .seek, #menu, .pager")) {
    if (seen(one)) found.push(`a control: ${one.outerHTML.slice(0, 80)}`);
  }
  const light = (channel) => (channel /= 255) <= .03928 ? channel / 12.92 : ((channel + .055) / 1.055) ** 2.4;
  for (const one of document.querySelectorAll("main *")) {
    const text = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!text || !seen(one)) continue;
    const [r, g, b] = getComputedStyle(one).color.match(/[\\d.]+/g).map(Number);
    const luminance = .2126 * light(r) + .7152 * light(g) + .0722 * light(b);
    if (1.05 / (luminance + .05) < 4.5) found.push(`too light: ${one.outerHTML.slice(0, 80)}`);
  }
  if (!document.querySelector("main").innerText.trim().includes("\\n")) found.push("only a heading");
  if (document.documentElement.scrollWidth > innerWidth) found.push("wider than the paper");
  return found;
}"""
PRINTED = (
    *("", "verifications", "deliveries", "customers", "imports", "journeys", "journeys/app/edit", "channels"),
    *("channels/sms", "channels/sms/edit", "admins", "api-keys", "audit", "settings"),
)


def test_pages_on_paper_are_dark_on_white_and_have_no_controls(office: Office, phone: Phone, portal: Portal) -> None:
    """Also where the screen is dark; the settings and a journey show their values there."""
    something_happened(phone, portal)
    found = {}
    for path in PRINTED:
        page = office.open(f"/admin/{path}")
        page.set_viewport_size({"width": 794, "height": 1123})
        page.emulate_media(color_scheme="dark", media="print")
        found[path] = page.evaluate(ON_PAPER)
        page.emulate_media(media="screen")
    assert {path: faults for path, faults in found.items() if faults} == {}
    page = office.open("/admin/settings")
    page.emulate_media(media="print")
    assert page.get_by_text("codes 24 hours, verifications 30 days").is_visible()


def test_on_a_phone_boxes_are_large_and_find_stands_by_its_field_and_lists_are_sorted(
    office: Office, phone: Phone, portal: Portal
) -> None:
    something_happened(phone, portal)
    page = office.open("/admin/deliveries?state=failed")
    page.set_viewport_size({"width": 360, "height": HEIGHT})
    box, field, button = (
        page.locator(place).first.bounding_box() for place in ("td > .checkbox", "#wanted", "form.find button")
    )
    assert box
    assert field
    assert button
    assert min(box["width"], box["height"]) >= 44
    assert (button["y"], button["height"]) == (field["y"], field["height"])
    page = office.open("/admin/journeys")
    with page.expect_navigation():
        page.locator("thead").get_by_role("link", name="Verified").click()
    assert page.url.endswith("/admin/journeys?sort=-verified")
    assert page.locator("th[aria-sort]").inner_text().strip() == "Verified"


def test_forced_colours_show_which_result_is_chosen_and_where_one_is(office: Office) -> None:
    page = office.open("/admin/settings")
    page.emulate_media(forced_colors="active")
    here = page.locator("#menu [aria-current]")
    assert here.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("/")
    page.keyboard.type("journey")
    page.locator(".panel [role=option]").first.wait_for()
    page.keyboard.press("ArrowDown")
    outlines = page.locator(".panel [role=option]").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).outlineStyle)"
    )
    assert outlines.count("solid") == 1
    assert outlines[0] == "solid"


def test_the_page_of_the_recovery_codes_and_a_refused_form_keep_the_rules(office: Office, portal: Portal) -> None:
    """What no link leads to: codes that are shown once, a fault at its field, and a conflict of two admins."""
    office.open("/admin/account")
    office.press("Create new recovery codes")
    assert looked_at(office.page, office.page.url) == []
    office.page.get_by_label("I have printed or saved them").check()
    office.press("Go to the home page")
    page = office.open("/admin/settings")
    page.locator("summary", has_text="How long data is stored").click()
    page.get_by_label("Codes, in hours").fill("1")
    office.press("Save")
    assert page.locator("details.fold[open]").count() == 1
    assert axe_findings(page) == []
    portal.configure('[portal]\nsupport_contact = "tel:+27115550100"\n')
    page.get_by_label("Codes, in hours").fill("48")
    office.press("Save")
    page.get_by_text("Another admin saved this after you opened it").wait_for()
    assert axe_findings(page) == []
    assert page.get_by_label("Help for customers").input_value() == "tel:+27115550100"
    portal.configure('[portal]\nsupport_contact = "https://acme.example/help"\n')


@pytest.mark.parametrize("path", ["settings", "channels/sms/edit", "channels/_new?preset=twilio", "customers/new"])
def test_a_form_asks_before_it_is_left_unsaved_also_after_a_refusal(office: Office, path: str) -> None:
    asked: list[str] = []

    def leaves(page: Page) -> bool:
        asked.clear()
        page.locator("#menu").get_by_role("link", name="Audit", exact=True).click()
        page.wait_for_url("**/admin/audit")
        return asked == ["beforeunload"]

    def agree(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page = office.page
    page.on("dialog", agree)
    office.open(f"/admin/{path}")
    assert not leaves(page), "nothing was typed"
    office.open(f"/admin/{path}")
    for fold in page.locator("form[data-keep] summary").all()[:1]:
        fold.click()
    field = page.locator("form[data-keep] input[type=text]").first
    field.click()
    page.keyboard.type("É")
    assert leaves(page)
    office.open(f"/admin/{path}")
    page.locator("form[data-keep] input[type=text]").first.evaluate("field => { field.value = '\\u0001'.repeat(300); }")
    page.locator("form[data-keep]").evaluate("form => form.requestSubmit()")
    page.locator(".fault").first.wait_for(state="attached")
    page.locator("h1").click()
    assert leaves(page), "what was refused is not saved"


def test_the_search_is_reached_by_a_key_but_not_while_someone_types(office: Office) -> None:
    page = office.open("/admin/customers")
    box, other = page.get_by_label("Search", exact=True).first, page.get_by_label("Find a customer")
    other.focus()
    page.keyboard.type("a/b")
    assert other.input_value() == "a/b"
    other.blur()
    page.keyboard.press("Control+/")
    assert not box.evaluate("box => box === document.activeElement")
    page.keyboard.type("/journ")
    assert box.input_value() == "journ"
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert urlsplit(page.url).path == "/admin/search"
    page.keyboard.press("Tab")
    page.locator("main .found a", has_text="Journeys").click()
    page.wait_for_url("**/admin/journeys")
    office.open("/admin/account").get_by_label("Single keys open the search").uncheck()
    box = office.open("/admin/customers").get_by_label("Search", exact=True).first
    page.keyboard.press("/")
    assert not box.evaluate("box => box === document.activeElement")


def test_the_search_shows_what_it_finds_while_someone_types(office: Office, portal: Portal) -> None:
    """By keyboard, with what a screen reader needs, and with no address that holds what was typed."""
    person, asked = portal.new_person(), []
    page = office.open("/admin/audit")
    page.on("request", lambda request: asked.append((request.method, request.url)))
    box = page.get_by_role("combobox", name="Search")
    page.keyboard.press("/")
    national = f"0{person.phone.removeprefix('+27')}"
    page.keyboard.type(national, delay=10)
    option = page.locator(".panel [role=option]").first
    option.wait_for()
    searches = [url for method, url in asked if method == "POST"]
    assert 1 <= len(searches) <= 2, "it waits for a pause"
    assert not [url for _method, url in asked if national[-9:] in url]
    assert box.get_attribute("aria-expanded") == "true"
    assert page.locator(f"#{box.get_attribute('aria-controls')}").get_attribute("role") == "listbox"
    page.get_by_text("was read as +27").first.wait_for()
    assert page.locator(".seek [role=status]").first.inner_text().startswith("1 result. 0")
    assert axe_findings(page) == []
    page.keyboard.press("ArrowDown")
    assert option.get_attribute("aria-selected") == "true"
    assert box.get_attribute("aria-activedescendant") == option.get_attribute("id")
    page.keyboard.press("Escape")
    option.wait_for(state="detached")
    assert box.get_attribute("aria-expanded") == "false"
    assert box.input_value() == national
    page.keyboard.press("Escape")
    assert box.input_value() == ""
    page.keyboard.type("imp", delay=10)
    page.get_by_role("option", name="Import", exact=True).wait_for()
    page.keyboard.press("ArrowUp")
    assert page.locator(".panel [role=option]").last.get_attribute("aria-selected") == "true"
    page.get_by_role("option", name="Import", exact=True).click()
    page.wait_for_url("**/admin/imports")
    assert "imp" not in urlsplit(page.url).query


def test_keys_open_sections_and_say_what_they_do(office: Office) -> None:
    page = office.open("/admin/")
    for key, path in {"v": "verifications", "d": "deliveries", "c": "customers", "j": "journeys", "a": "audit"}.items():
        page.keyboard.press("g")
        page.keyboard.press(key)
        page.wait_for_url(f"**/admin/{path}")
    page.keyboard.press("g")
    page.keyboard.press("Control+h")
    page.keyboard.press("x")
    page.keyboard.press("h")
    page.get_by_label("Find an event").or_(page.locator("main input[type=search]")).first.fill("gh")
    assert urlsplit(page.url).path == "/admin/audit", "not after another key, and not in a field"
    page.locator("h1").click()
    shown = page.locator("#keys")
    page.keyboard.press("?")
    shown.wait_for()
    assert axe_findings(page) == []
    page.keyboard.press("Escape")
    shown.wait_for(state="hidden")
    page.keyboard.press("g")
    page.keyboard.press("h")
    page.wait_for_url("**/admin/")
    office.open("/admin/account").get_by_label("Single keys open the search").uncheck()
    page.keyboard.press("g")
    page.keyboard.press("h")
    page.locator("h1").click()
    page.keyboard.press("?")
    assert urlsplit(page.url).path == "/admin/account"
    assert shown.is_hidden()


def test_the_menu_of_a_phone_opens_by_keyboard_and_without_script(
    office: Office, chromium: Browser, portal: Portal
) -> None:
    state = office.page.context.storage_state()
    context = chromium.new_context(
        viewport={"width": 360, "height": HEIGHT}, storage_state=state, java_script_enabled=False
    )
    page = context.new_page()
    page.goto(f"{portal.url}/admin/")
    menu, entry = page.get_by_role("button", name="Menu"), page.get_by_role("link", name="Audit", exact=True)
    assert menu.is_visible()
    assert not entry.is_visible()
    menu.press("Enter")
    entry.wait_for()
    page.keyboard.press("Escape")
    entry.wait_for(state="hidden")
    page.set_viewport_size({"width": 1440, "height": HEIGHT})
    assert entry.is_visible()
    assert not menu.is_visible()
    page.set_viewport_size({"width": 360, "height": HEIGHT})
    page.get_by_role("link", name="Search", exact=True).click()
    page.locator("#search").fill("no such thing")
    page.locator("#search").press("Enter")
    page.get_by_text("Nothing found.").wait_for()
    context.close()


def test_a_long_name_of_who_acted_leaves_the_time_alone_on_a_phone(office: Office) -> None:
    page = office.open("/admin/audit")
    page.set_viewport_size({"width": 360, "height": HEIGHT})
    name = page.locator("table.dated td.state strong").first
    name.evaluate("one => { one.textContent = 'auth-portal customers import'; }")
    assert page.evaluate(OVERLAPPING) == []
