"""Rules that hold for every page that a customer or a newcomer can meet, error pages too.

Each is held against them in light and dark; a customer's, once more as it is written from right to left.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.e2e.conftest import Portal
from tests.e2e.phone import Person, Phone, press

Way = Callable[[Phone, Person], Page]
RUN_AXE = """async (options) => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"], ...options });
  return violations.flatMap((finding) => finding.nodes.map(
    (node) => `${finding.id}: ${node.html.slice(0, 150)} ${node.failureSummary.slice(0, 300)}`));
}"""

COLOURS = {"runOnly": ["color-contrast", "link-in-text-block"]}
# axe takes joined letters for the icons of a font, and skips their contrast. Says whether it changed any.
WITHOUT_LIGATURES = """() => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let isChanged = false;
  while (texts.nextNode()) {
    const latin = texts.currentNode.data.replace(/\\p{Script=Arabic}/gu, "x");
    if (latin !== texts.currentNode.data) isChanged = true;
    texts.currentNode.data = latin;
  }
  return isChanged;
}"""
# What a page is, in any language.
STATE = """[...document.querySelectorAll("form, button, a, input, [role], .seal, .note")].map(
  (e) => `${e.tagName}.${e.className}.${e.name || ""}`).join(" ")"""


def at_landing(phone: Phone, _person: Person, journey: str = "balance") -> Page:
    return phone.open(phone.begin(journey).link)


def at_first_prompt(phone: Phone, person: Person, journey: str, *, chooses: bool = False) -> Page:
    page = at_landing(phone, person, journey)
    phone.name(page, person, chooses=chooses)
    return page


def submitted(page: Page, selector: str = "form.main-form button.main") -> Page:
    press(page, page.locator(selector))
    return page


def landing_with_a_fault(phone: Phone, person: Person) -> Page:
    page = at_landing(phone, person)
    page.fill("#identifier", "\u2603" * 20)
    return submitted(page)


def choosing(phone: Phone, person: Person) -> Page:
    return at_first_prompt(phone, person, "balance", chooses=True)


def sms_code(phone: Phone, person: Person) -> Page:
    page = choosing(phone, person)
    phone.choose(page, "sms_code")
    return page


def wrong_code(phone: Phone, person: Person) -> Page:
    page = at_first_prompt(phone, person, "email")
    code = phone.code_sent_to(person.email)
    page.fill("#code", str((int(code) + 1) % 1_000_000).zfill(6))
    return submitted(page)


def email_code(phone: Phone, person: Person) -> Page:
    return at_first_prompt(phone, person, "email")


def totp(phone: Phone, person: Person) -> Page:
    return at_first_prompt(phone, person, "app")


def wrong_password(phone: Phone, person: Person) -> Page:
    page = at_first_prompt(phone, person, "password")
    page.fill("#password", "no")
    return submitted(page)


def second_step(phone: Phone, person: Person) -> Page:
    page = at_first_prompt(phone, person, "transfer")
    phone.prove(page, "password", person)
    phone.choose(page, "sms_code")
    return page


def changing(phone: Phone, person: Person) -> Page:
    return submitted(totp(phone, person), "button[form=change]")


def helped(page: Page) -> Page:
    press(page, page.locator("a[href*='/verify/help']"))
    return page


def stopping(phone: Phone, person: Person) -> Page:
    page = totp(phone, person)
    press(page, page.locator(".safe a"))
    return page


def declining(phone: Phone, person: Person) -> Page:
    page = at_landing(phone, person)
    press(page, page.locator(".safe a"))
    return page


def cancelled(phone: Phone, person: Person) -> Page:
    return told(submitted(helped(totp(phone, person)), "button[name=reason][value=cancelled]"))


def no_code(phone: Phone, person: Person) -> Page:
    page = helped(sms_code(phone, person))
    return told(submitted(page, "button[name=reason][value=no_code]"))


def not_me(phone: Phone, person: Person) -> Page:
    return told(submitted(declining(phone, person), "button.stop"))


def verified(phone: Phone, person: Person) -> Page:
    page = totp(phone, person)
    phone.prove(page, "totp", person)
    return told(page)


def step(phone: Phone, journey: str) -> Page:
    """The first page of a journey that asks for no proof."""
    return submitted(at_landing(phone, Person.with_number(0), journey))


def declining_terms(phone: Phone) -> Page:
    page = step(phone, "terms")
    press(page, page.locator("a[href*='/verify/decline']"))
    return page


def terms_not_accepted(phone: Phone) -> Page:
    page = step(phone, "terms")
    page.locator("#decide").evaluate("(form) => { form.noValidate = true; }")
    return submitted(page)


def question(phone: Phone, number: int, answer: int = 2) -> Page:
    """A question of the survey; all before it are answered."""
    page = step(phone, "survey")
    for _ in range(number - 1):
        if (options := page.locator("form.main-form input[type=radio]")).count():
            options.nth(answer).check(force=True)  # the circle of a scale is not seen
        else:
            page.fill("form.main-form :is(textarea, input[type=text])", "The queue was long.")
        submitted(page)
    return page


def handed_over(phone: Phone) -> Page:
    return told(submitted(step(phone, "agent"), "button[name=choice][value=web]"))


def verified_with_a_chat_code(phone: Phone, person: Person) -> Page:
    page = at_first_prompt(phone, person, "code-back", chooses=True)
    phone.choose(page, "totp")
    phone.prove(page, "totp", person)
    return told(page)


def the_chat_has_ended(phone: Phone, person: Person) -> Page:
    page = phone.open(phone.begin("app", fault="session_ended").link)
    phone.name(page, person)
    phone.prove(page, "totp", person)
    return told(page)


def told(page: Page) -> Page:
    """Opens the last page anew once it has stopped looking by itself."""
    page.goto(page.url.partition("&")[0] + "&looked=10")
    for _ in range(100):
        if not page.locator("a[href*='/done?v=']").count():
            return page
        page.wait_for_timeout(100)
        page.reload()
    raise AssertionError("the chat was not told in time")


def used_link(phone: Phone, person: Person) -> Page:
    link = phone.begin("app").link
    page = phone.open(link)
    press(page, page.locator(".safe a"))
    submitted(page, "button.stop")
    return phone.open(link)


def a_chat(phone: Phone, person: Person) -> Page:
    chat = phone.begin("app")
    page = phone.open(chat.link)
    phone.name(page, person)
    phone.prove(page, "totp", person)
    chat.answered()
    return unfolded(phone.open(f"/sandbox/chat/{chat.id}"))


def unfolded(page: Page) -> Page:
    while (folded := page.locator("details:not([open]) > summary")).count():
        folded.first.click()
    return page


def a_waiting_chat(phone: Phone, _person: Person) -> Page:
    page = phone.open(f"/sandbox/chat/{phone.begin('code-back').id}")
    page.wait_for_url("**live=1")
    return page


def a_sandbox(phone: Phone, _person: Person) -> Page:
    page = phone.open("/sandbox/")
    return unfolded(page)


def an_inbox(phone: Phone, person: Person) -> Page:
    at_first_prompt(phone, person, "email")
    phone.code_sent_to(person.email)
    return phone.open("/sandbox/inbox")


PAGES: dict[str, dict[str, Way]] = {
    "landing": {
        "landing": at_landing,
        "a journey with a password": lambda phone, person: at_landing(phone, person, "transfer"),
        "a fault": landing_with_a_fault,
        "used link": used_link,
        "payment": lambda phone, person: at_landing(phone, person, "pay"),
        "languages": lambda phone, _person: phone.open("/language?to=/&reference=abc"),
        "it was not me": declining,
    },
    "proving": {
        "choosing": choosing,
        "SMS code": sms_code,
        "email code": email_code,
        "wrong code": wrong_code,
        "authenticator app": totp,
        "wrong password": wrong_password,
        "second step": second_step,
        "changing": changing,
        "help with an SMS": lambda phone, person: helped(sms_code(phone, person)),
        "help with an email": lambda phone, person: helped(email_code(phone, person)),
        "help with an app": lambda phone, person: helped(totp(phone, person)),
        "help with a password": lambda phone, person: helped(wrong_password(phone, person)),
        "it was not me": stopping,
    },
    "steps": {
        "terms": lambda phone, _person: step(phone, "terms"),
        "terms not accepted": lambda phone, _person: terms_not_accepted(phone),
        "declining terms": lambda phone, _person: declining_terms(phone),
        "question": lambda phone, _person: step(phone, "survey"),
        "question without an answer": lambda phone, _person: submitted(step(phone, "survey")),
        "question in own words": lambda phone, _person: question(phone, 2),
        "scale": lambda phone, _person: question(phone, 3),
        "last question": lambda phone, _person: question(phone, 4),
        "answered": lambda phone, _person: told(question(phone, 5)),
        "handover": lambda phone, _person: step(phone, "agent"),
        "handed over": lambda phone, _person: handed_over(phone),
    },
    "done": {
        "verified": verified,
        "chat code": verified_with_a_chat_code,
        "chat has ended": the_chat_has_ended,
        "cancelled": cancelled,
        "no code": no_code,
        "not me": not_me,
    },
    "sandbox": {
        "start": a_sandbox,
        "chat waiting": a_waiting_chat,
        "chat": a_chat,
        "inbox": an_inbox,
    },
}
REFUSED = {
    "/": 400,
    "/?reference=a%00b": 400,
    "/j/nothing?reference=abc": 404,
    "/verify": 400,
    "/done": 400,
    "/nothing": 404,
    "/verify/method": 405,
    "/sandbox/chat/nothing": 404,
    "/sandbox/inbox?to=nobody": 200,
}


@pytest.mark.parametrize("group", PAGES)
def test_the_pages_keep_the_rules(phone: Phone, portal: Portal, group: str) -> None:
    phone.has_one_tab = True
    findings = {}
    for name, way in PAGES[group].items():
        page = way(phone, portal.new_person())
        phone.look_at(page)
        findings[name] = axe_findings(page)
        if group != "sandbox":  # which is in English for all
            page = in_arabic(phone, page, lambda way=way: way(phone, portal.new_person()))  # type: ignore[misc]
            findings[f"{name} in Arabic"] = axe_findings(page)
    assert not any(findings.values()), findings


def test_pages_without_a_visit_keep_the_rules(phone: Phone) -> None:
    page = phone.context.new_page()
    findings = {}
    for path, status in REFUSED.items():
        answer = page.goto(phone.server.url + path)
        assert answer is not None
        assert answer.status == status, path
        phone.look_at(page)
        findings[path] = axe_findings(page)
        if not path.startswith("/sandbox"):
            findings[f"{path} in Arabic"] = axe_findings(in_arabic(phone, page))
    assert not any(findings.values()), findings


def in_arabic(phone: Phone, page: Page, walk: Callable[[], Page] | None = None) -> Page:
    """Show the same state in Arabic: asked for again, or reached again where it was the answer to a form."""
    before = page.evaluate(STATE)
    phone.context.set_extra_http_headers({"Accept-Language": "ar"})
    page.reload()
    if page.evaluate(STATE) != before and walk is not None:
        page = walk()
    assert page.evaluate(STATE) == before
    assert page.locator("html").get_attribute("dir") == "rtl"
    phone.look_at(page)
    phone.context.set_extra_http_headers({})
    return page


def axe_findings(page: Page) -> list[str]:
    """What axe finds in light, and with the colours of the dark; one line for each element."""
    page.evaluate(Axe().axe_script)
    found: list[str] = page.evaluate(RUN_AXE, {})
    if page.evaluate(WITHOUT_LIGATURES):
        found += page.evaluate(RUN_AXE, COLOURS)
    page.emulate_media(color_scheme="dark")
    found += page.evaluate(RUN_AXE, COLOURS)
    page.emulate_media(color_scheme="light")
    return found
