"""Further pages and states of pages that customers meet, for the pictures: see ``tests.e2e.screens``."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import requests
from playwright.sync_api import Page

from auth_portal.services.operations.demo import sandbox_key
from tests.e2e.conftest import Portal
from tests.e2e.phone import Phone, press
from tests.receiver import GIVE_UP_SECONDS

State = Callable[[Phone, Portal], Page]
THANDI = "+27821234567"  # of the demo: the sandbox offers the phones of its people, and no others
UNAVAILABLE = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "pages" / "unavailable.html"
TOO_MANY = 429
MAIN = "form.main-form button.main"
JOURNEYS = """
[[journeys]]
slug = "back"
name = "Check my card"
channels = ["sms", "mail"]
return_url = "https://wa.me/27115550100"
steps = [
  { kind = "identify", by = ["phone"] },
  { kind = "verify", any_of = ["sms_code", "email_code", "totp", "password"] },
]
[journeys.callback]
server = "sandbox"

[[journeys]]
slug = "off"
name = "Check my card"
active = false
steps = [
  { kind = "identify", by = ["email"] },
  { kind = "verify", any_of = ["totp"] },
]
[journeys.callback]
server = "sandbox"

[[journeys]]
slug = "closed"
name = "Talk to a person"
[journeys.callback]
server = "sandbox"
[[journeys.steps]]
kind = "handover"
title = "Talk to a person"
zone = "Africa/Johannesburg"
holidays = ["2026-12-25"]
hours = { DAYS = ["08:00-12:30", "13:30-18:00"] }
options = [
  { key = "whatsapp", kind = "whatsapp", label = "Leave a WhatsApp message", hint = "Answered from 08:00", address = "27115550100", when = "always" },
]

[[journeys]]
slug = "open"
name = "Talk to a person"
[journeys.callback]
server = "sandbox"
[[journeys.steps]]
kind = "handover"
title = "Talk to a person"
hours = { TODAY = ["00:00-24:00"] }
hosts = ["acme.example"]
options = [
  { key = "whatsapp", kind = "whatsapp", label = "Chat on WhatsApp", hint = "Answers in about 4 minutes", address = "27115550100" },
  { key = "call", kind = "call", label = "Call us", hint = "0860 100 200", address = "+27860100200" },
  { key = "web", kind = "chat", label = "Chat on our website", hint = "Opens acme.example", address = "https://acme.example/chat" },
  { key = "page", kind = "url", label = "Book a visit", address = "https://acme.example/visit" },
]

[[journeys]]
slug = "every-kind"
name = "Answer our questions"
[journeys.callback]
server = "sandbox"
[[journeys.steps]]
kind = "questions"
title = "Tell us about your visit"
layout = "all"
store_days = 30
anonymous = true
questions = [
  { key = "a", kind = "single", ask = "Which branch?", options = [{ value = "a", label = "Cape Town" }, { value = "b", label = "Durban" }] },
  { key = "b", kind = "multiple", ask = "What did you do there?", hint = "Choose all that fit.", options = [{ value = "a", label = "Paid in" }, { value = "b", label = "Talked to a person about a loan or a mortgage" }] },
  { key = "c", kind = "scale", ask = "How was it?", low = "Bad", high = "Good" },
  { key = "d", kind = "nps", ask = "How likely are you to recommend us?", low = "Not at all", high = "Very likely" },
  { key = "e", kind = "number", ask = "How many minutes did you wait?" },
  { key = "f", kind = "date", ask = "When were you there?" },
  { key = "g", kind = "phone", ask = "Which number may we call?", required = false },
  { key = "h", kind = "email", ask = "Your email address", required = false },
  { key = "i", kind = "text", ask = "Your reference", most = 20 },
  { key = "j", kind = "text", ask = "What could we do better?", hint = "Leave out account numbers.", required = false },
]
"""


def journeys(today: str) -> str:
    """The journeys of these states; one is open today alone, one on all other days."""
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    hours = ", ".join(f'{day} = ["08:00-12:30", "13:30-18:00"]' for day in days if day != today)
    return JOURNEYS.replace('DAYS = ["08:00-12:30", "13:30-18:00"]', hours).replace("TODAY", today)


# --- How a page is reached


def went_on(page: Page, selector: str = MAIN) -> Page:
    press(page, page.locator(selector).first)
    return page


def named(phone: Phone, portal: Portal, journey: str, *, chooses: bool = False) -> Page:
    person = portal.new_person()
    page = phone.open(phone.begin(journey).link)
    page.fill("#identifier", person.phone if journey == "back" else person.customer_id)
    page = went_on(page, f"form.main-form button{'[value=choose]' if chooses else '.main'}")
    page.evaluate("(phone) => { document.body.dataset.phone = phone }", person.phone)
    return page


def phone_of(page: Page) -> str:
    found: str = page.evaluate("document.body.dataset.phone")
    return found


def coded(phone: Phone, page: Page, number: str, *, count: int = 1) -> Page:
    page.fill("#code", phone.code_sent_to(number, count=count))
    return went_on(page)


def mistyped(page: Page, times: int = 1) -> Page:
    for _ in range(times):
        page.fill("#code", "000000")
        went_on(page)
    return page


def settled(page: Page) -> Page:
    page.locator("#state:not([data-state=open])").wait_for()
    return page


def slid(page: Page, name: str) -> Page:
    """The second half of a double tap ends nothing: the button takes a tap later."""
    page.wait_for_function(
        "name => getComputedStyle(document.querySelector(`button[name=${name}]`)).pointerEvents != 'none'", arg=name
    )
    return page


def paying(phone: Phone, _portal: Portal) -> Page:
    return phone.open(phone.begin("pay", phone=THANDI).link)


def approving(phone: Phone, portal: Portal) -> Page:
    return went_on(paying(phone, portal))


def approved(phone: Phone, portal: Portal) -> Page:
    count = len(phone.messages_to(THANDI))
    return settled(coded(phone, approving(phone, portal), THANDI, count=count + 1))


def not_paying(phone: Phone, portal: Portal) -> Page:
    return went_on(paying(phone, portal), ".safe a")


def not_paid(phone: Phone, portal: Portal) -> Page:
    return settled(went_on(slid(not_paying(phone, portal), "decline"), "button[name=decline][value=cancelled]"))


def ticketed(phone: Phone, portal: Portal, journey: str, **values: object) -> Page:
    """A page whose ticket asks for no payment."""
    answer = requests.post(
        f"{portal.url}/api/v1/tickets",
        json={"journey": journey, **values},
        headers={"Authorization": f"Bearer {sandbox_key(portal.folder)}"},
        timeout=GIVE_UP_SECONDS,
    ).json()
    return phone.open(f"{answer['link']}?reference=screens-{time.time_ns()}")


def begun(phone: Phone, journey: str) -> Page:
    return went_on(phone.open(phone.begin(journey).link))


def question(phone: Phone, number: int) -> Page:
    page = begun(phone, "survey")
    answers = ("input[value=problem]", "", "input[value='8']", "")
    for at in range(number - 1):
        if answers[at]:
            page.locator(answers[at]).check(force=True)
        else:
            page.fill("textarea, input[type=text]", "The queue was long.")
        went_on(page)
    return page


def every_question(phone: Phone, portal: Portal) -> Page:
    page = begun(phone, "every-kind")
    page.locator("input[type=radio]").first.check()
    page.locator("input[type=checkbox]").first.check()
    page.locator(".cell input").nth(3).check(force=True)
    return page


def credential(phone: Phone, portal: Portal, kind: str) -> Page:
    return phone.open(portal.new_link(portal.new_person(), kind))


def opened(phone: Phone, portal: Portal, kind: str) -> Page:
    return went_on(credential(phone, portal, kind))


def password_faults(phone: Phone, portal: Portal) -> Page:
    page = opened(phone, portal, "password")
    page.fill("#password", "short")
    page.fill("#repeated", "other")
    return went_on(page)


def password_set(phone: Phone, portal: Portal) -> Page:
    page = opened(phone, portal, "password")
    for field in ("#password", "#repeated"):
        page.fill(field, "acacia under the moon")
    return went_on(page)


def credential_used(phone: Phone, portal: Portal) -> Page:
    page = password_set(phone, portal)
    page.reload()
    return phone.open(page.url)


def started(phone: Phone, portal: Portal) -> Page:
    link = phone.begin("balance").link
    page = phone.open(link)
    page.fill("#identifier", portal.new_person().phone)
    went_on(page)
    return phone.open(link)


def without_cookies(phone: Phone, times: int) -> Page:
    page = phone.open(phone.begin("balance").link)
    for _ in range(times):
        page.fill("#identifier", "C-1001")
        phone.context.clear_cookies()
        went_on(page)
    return page


def faulty(page: Page) -> Page:
    page.fill("#identifier", " ")
    return went_on(page)


def checking(phone: Phone, portal: Portal) -> Page:
    """The answer never comes."""
    page = named(phone, portal, "balance")
    page.evaluate("addEventListener('submit', (event) => event.preventDefault())")
    page.fill("#code", "482913")
    page.locator(MAIN).click()
    page.locator(f"{MAIN}[aria-disabled]").wait_for()
    return page


def typed_code(phone: Phone, portal: Portal) -> Page:
    page = named(phone, portal, "back")
    page.fill("#code", "482913")
    return page


def resent(phone: Phone, portal: Portal) -> Page:
    page = named(phone, portal, "balance")
    portal.advance(40)
    went_on(page, "#send-again >> visible=true") if page.locator("#send-again").is_visible() else page.reload()
    if page.locator("#send-again").is_visible():
        went_on(page, "#send-again")
    return page


def late(phone: Phone, portal: Portal) -> Page:
    """The last minute, as script counts it."""
    page = named(phone, portal, "balance")
    page.evaluate("document.querySelector('progress').dataset.seconds = 50")
    page.locator("#late").wait_for()
    return page


def stale(phone: Phone, portal: Portal) -> Page:
    """The code has expired, the chat has not."""
    page = named(phone, portal, "balance")
    portal.advance(450)
    page.reload()
    return page


def expired(phone: Phone, portal: Portal) -> Page:
    page = named(phone, portal, "back")
    portal.advance(600)
    page.reload()
    return page


def over(phone: Phone, portal: Portal) -> Page:
    """What script shows in place of the page."""
    page = named(phone, portal, "back")
    page.evaluate("document.querySelector('progress').dataset.seconds = 0")
    page.locator("#over").wait_for()
    return page


def unsigned(phone: Phone, portal: Portal) -> Page:
    """A form whose cookie is of another browser."""
    page = named(phone, portal, "app")
    page.evaluate("for (const field of document.querySelectorAll('[name=csrf_token]')) field.value = 'x'")
    page.fill("#code", "123456")
    return went_on(page)


def locked(phone: Phone, portal: Portal) -> Page:
    """The database is busy for longer than a request waits."""
    portal.advance(600)  # an address that began much before is slowed
    page = named(phone, portal, "app")
    page.fill("#code", "123456")
    file = portal.folder / "portal.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        return went_on(page)


def too_many(phone: Phone, portal: Portal) -> Page:
    """More begin from one address than the portal allows in a minute."""
    portal.configure("[portal.limits]\nbegins_per_minute = 1")
    while True:
        page = phone.open(phone.begin("app").link)
        page.fill("#identifier", "C-1001")
        with page.expect_navigation() as answer:
            page.locator(MAIN).click()
        if answer.value.status == TOO_MANY:
            return page


def unavailable(phone: Phone) -> Page:
    """What a proxy shows while no server answers."""
    page = phone.open("/")
    page.goto(UNAVAILABLE.as_uri())
    return page


STATES: dict[str, State] = {
    "landing fault": lambda phone, _: faulty(phone.open(phone.begin("back").link)),
    "landing ticket with a number": lambda phone, portal: ticketed(phone, portal, "pay", msisdn="27821234567"),
    "landing ticket with a purpose": lambda phone, portal: ticketed(
        phone, portal, "balance", customer_id="C-1001", purpose="Change your address to 12 Long Street"
    ),
    "landing started": started,
    "landing cookie missing": lambda phone, _: without_cookies(phone, 1),
    "landing no cookie": lambda phone, _: without_cookies(phone, 2),
    "landing journey off": lambda phone, _: phone.open("/j/off?reference=abc"),
    "landing without its ticket": lambda phone, _: phone.open("/j/pay?reference=abc"),
    "landing terms": lambda phone, _: phone.open(phone.begin("terms").link),
    "landing survey": lambda phone, _: phone.open(phone.begin("survey").link),
    "language": lambda phone, _: went_on(phone.open(phone.begin("balance").link), "a.language"),
    "language in a visit": lambda phone, portal: went_on(named(phone, portal, "balance"), "a.language"),
    "payment": paying,
    "payment stop": not_paying,
    "payment not approved": not_paid,
    "payment code": approving,
    "payment approved": approved,
    "code four methods": lambda phone, portal: named(phone, portal, "back", chooses=True),
    "code typed": typed_code,
    "code checking": checking,
    "code two tries left": lambda phone, portal: mistyped(named(phone, portal, "balance"), 3),
    "code no tries left": lambda phone, portal: settled(mistyped(named(phone, portal, "back"), 5)),
    "terms": lambda phone, _: begun(phone, "terms"),
    "terms decline": lambda phone, _: went_on(begun(phone, "terms"), "a[href*=decline]"),
    "terms declined": lambda phone, _: settled(
        went_on(slid(went_on(begun(phone, "terms"), "a[href*=decline]"), "decline"), "button.stop")
    ),
    "survey choice": lambda phone, _: question(phone, 1),
    "survey choice fault": lambda phone, _: went_on(question(phone, 1)),
    "survey short text": lambda phone, _: question(phone, 2),
    "survey scale": lambda phone, _: question(phone, 3),
    "survey text": lambda phone, _: question(phone, 4),
    "survey done": lambda phone, _: settled(question(phone, 5)),
    "survey every kind": every_question,
    "survey every kind faults": lambda phone, _: went_on(begun(phone, "every-kind")),
    "handover always open": lambda phone, _: begun(phone, "agent"),
    "handover open": lambda phone, _: begun(phone, "open"),
    "handover chosen": lambda phone, _: settled(went_on(begun(phone, "open"), "button[value=web]")),
    "handover closed": lambda phone, _: begun(phone, "closed"),
    "credential open": lambda phone, portal: credential(phone, portal, "password"),
    "credential password": lambda phone, portal: opened(phone, portal, "password"),
    "credential password faults": password_faults,
    "credential set": password_set,
    "credential used 410": credential_used,
    "credential declined": lambda phone, portal: went_on(credential(phone, portal, "totp"), "button[name=decline]"),
    "credential app": lambda phone, portal: opened(phone, portal, "totp"),
    "done back to WhatsApp": lambda phone, portal: settled(
        coded(phone, page := named(phone, portal, "back"), phone_of(page))
    ),
    "done over": over,
    "nginx 502": lambda phone, _: unavailable(phone),
}
# With the clock of the portal moved: it goes forward only, and the last is the last.
LATER: dict[str, State] = {
    "code resent": resent,
    "code late": late,
    "code stale": stale,
    "done expired": expired,
    "error form": unsigned,
    "error 503": locked,
    "error 429": too_many,
}
