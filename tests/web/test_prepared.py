"""A page that was rendered in advance is the very page that would be rendered for its visitor, and shows no other's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import g
from markupsafe import escape
from sqlalchemy import insert

from auth_portal.i18n import complete_languages
from auth_portal.services.config.journey import Payment
from auth_portal.services.config.snapshot import Snapshot
from auth_portal.store.models import ChannelState
from auth_portal.web.visitor import PreparedPage
from tests.receiver import Receiver
from tests.security.tools import STILL, code_for, deliver
from tests.ticketed import JOURNEYS, PURPOSE, opened, ticket
from tests.world import CUSTOMERS, MAIL, PASSWORD, PHONE, Browser, World, journey, open_world

OWN = r'(name="(?:csrf_token|opened)" value=")[^"]*'
REFERENCES = ("abc", "a&b=c%23", "<i>'\"", "{0}%(x)s\\1", "x" * 512)


def page(world: World, reference: str, language: str = "en", path: str = "/") -> str:
    answer = world.browser().get(f"{path}?reference={quote(reference, safe='')}", headers={"Accept-Language": language})
    assert answer.status_code == 200
    return answer.text


def seen(
    world: World, path: str, language: str = "en", *, browser: Browser | None = None, is_rendered_now: bool = False
) -> str:
    """The page of a request; one with services of its own, as in a test drive, is never rendered in advance."""
    to = {"base_url": "http://127.0.0.1:8000", "environ_base": {"REMOTE_ADDR": "203.0.113.7"}}
    cookies = "; ".join(f"{name}={value}" for name, value in held(browser).items()) if browser else ""
    headers = {"Accept-Language": language, "Cookie": cookies}
    with world.app.test_request_context(path, headers=headers, **to):
        assert world.app.preprocess_request() is None
        if is_rendered_now:
            g.services = world.services
        text: str = world.app.ensure_sync(world.app.dispatch_request)().get_data(as_text=True)
    return re.sub(OWN, r"\1", text)


def held(browser: Browser) -> dict[str, str]:
    """The cookies of a browser."""
    return {one.key: one.value for one in (browser.client._cookies or {}).values()}


def pages(world: World) -> dict[Any, Any]:
    found: Snapshot = world.services.journeys.current()
    return found.pages


def prompts(world: World) -> list[Any]:
    """The keys of the prepared prompts."""
    return [key for key in pages(world) if key[0] != "visitor/landing.html"]


@pytest.mark.parametrize("path", ["/", "/j/mail", "/j/password"])
def test_it_is_the_page_that_would_be_made_for_its_visitor(small_world: World, path: str) -> None:
    for language in complete_languages():
        seen(small_world, f"{path}?reference=another", language)
        for reference, added in product(REFERENCES, ("", "&fbclid=x&utm_source=y")):
            address = f"{path}?reference={quote(reference, safe='')}{added}"
            assert seen(small_world, address, language) == seen(small_world, address, language, is_rendered_now=True)
    assert len(pages(small_world)) == len(complete_languages())


def test_each_visitor_has_tokens_of_their_own(small_world: World) -> None:
    tokens = {tuple(re.findall(r'name="csrf_token" value="([^"]*)', page(small_world, "abc"))) for _ in range(5)}
    assert len(tokens) == 5
    assert all(len(found) >= 1 and all(found) for found in tokens)


def test_a_change_of_the_configuration_shows_at_once(small_world: World) -> None:
    assert "Balance" in page(small_world, "abc")
    text = small_world.services.configuration.export_toml().replace('name = "Balance"', 'name = "Savings"')
    small_world.services.configuration.import_toml(text, file_name="x.toml")
    small_world.services.journeys.renew()
    assert "Savings" in page(small_world, "abc")


def test_strangers_cannot_fill_the_memory(small_world: World) -> None:
    page(small_world, "abc")
    before = len(pages(small_world))
    for number in range(50):
        small_world.browser().get(f"/?lang=zz{number}&reference=r{number}&x={number}")
        small_world.browser().get(f"/j/none{number}?reference=r{number}")
        page(small_world, f"r{number}", f"en;q=0.{number}")
    assert len(pages(small_world)) <= before + 1


def test_the_first_page_of_a_ticket_is_the_page_that_would_be_made_for_its_visitor(town: World) -> None:
    """With a payment it is rendered each time."""
    wanted: tuple[dict[str, Any], ...] = (
        {},
        {"purpose": "Close <account> 1"},
        {"msisdn": "+27829998877", "purpose": "Order a card & a PIN"},
        {"locale": "fr"},
        {"payment": Payment("9.50", "ZAR", "N. Dlamini")},
    )
    paths = [ticket(town, slug, **values).path for slug in ("pay", "pay-twice") for values in wanted]
    paths += [ticket(town, slug, customer_id="C-1001").path for slug in ("app", "either", "balance")]
    for path, page, language in product([*paths, "/j/pay", "/j/either"], ("", "/stop"), ("en", "ar")):
        address = f"{path}{page}?reference=a%26b"
        assert seen(town, address, language) == seen(town, address, language, is_rendered_now=True)
    assert "Dlamini" not in repr(list(pages(town)))


def test_nothing_of_one_ticket_is_in_the_first_page_of_another(town: World) -> None:
    one = ticket(town, "pay", purpose="Close <account> 1").path
    other = ticket(town, "pay", msisdn="+27829998877", purpose="Order a card & a PIN").path
    for page in ("", "/stop"):
        shown, another = (seen(town, f"{path}{page}?reference=for{path[-6:]}") for path in (one, other))
        assert len(pages(town)) == 1 + bool(page), "the second page was rendered with the first, not for it"
        values, others = {one, f"for{one[-6:]}"}, {other, f"for{other[-6:]}"}
        if not page:
            values |= {"••• 567", "Close &lt;account&gt; 1"}
            others |= {"••• 877", "Order a card &amp; a PIN"}
        assert [value in shown for value in values] == [value in another for value in others] == [True] * len(values)
        assert not [value for value in values if value in another]
        assert not [value for value in others if value in shown]
        kept = repr(list(pages(town)))
        assert not [value for value in ("567", "877", "Close", "Order", one, other) if value in kept]


# --- Prompts

METHODS = ("balance", "mail", "app", "password", "support", "either")  # the journey of each method, and one of several
IDENTIFIERS = ("C-1001", PHONE, MAIL, "o'neil&co@example.com", "much.longer.than.a.number@example.com")
ONCE = journey("once", "sms_code", limits="sends = 1\nidentity_changes = 0\n")
WORDED = (
    journey("worded", "sms_code")
    + """
[journeys.wording.en]
"Need help?" = "<Help> & advice"
"Send again in {time}" = "{time}, then again"
"About {num} minute left" = { one = "About {num} <minute>", other = "About {num} <minutes>" }
"""
)


@pytest.fixture
def town(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    """A portal with a journey for each method, some that demand tickets, and one with words of its own.

    It sends nothing, so that the state of its channels is that of the test.
    """
    config = JOURNEYS + journey("support", "support_code") + ONCE + WORDED
    customers = CUSTOMERS + f"C-1005,Lerato Mokoena,+27829998877,lerato@example.com,en,{PASSWORD},\n"
    with open_world(tmp_path, sqlite_url, receiver, config=config, settings=STILL, customers=customers) as world:
        yield world


def begun(world: World, slug: str, identifier: str = "C-1001", script: str = "") -> Browser:
    browser = world.browser()
    browser.open(f"{slug}-for-{identifier}", slug)
    browser.post(browser.path, identifier=identifier, script=script)
    return browser


def same(world: World, *browsers: Browser, languages: tuple[str, ...] = ("en", "ar"), of: str = "/verify") -> None:
    """Check that what each browser sees, there and on the pages next to it, is what would be rendered for it alone."""
    others = ("/verify", "/verify/help", "/verify/stop") if of == "/verify" else (of, f"{of}?looked=10&x=")
    for language, browser, page in product(languages, browsers, others):
        assert browser.path == of, browser.page.text
        path = browser.page.request.full_path.replace(of, page).replace("x=?", "")
        found = seen(world, path, language, browser=browser)
        assert found == seen(world, path, language, browser=browser, is_rendered_now=True)
        assert f'lang="{language}"' in found


@pytest.mark.parametrize("slug", [*METHODS, "once", "worded"])
def test_a_prompt_is_the_page_that_would_be_rendered_for_its_visit(town: World, slug: str) -> None:
    browsers = [begun(town, slug, identifier, script="1" if "@" in identifier else "") for identifier in IDENTIFIERS]
    same(town, *browsers, languages=complete_languages())
    known = prompts(town)
    same(town, *browsers)
    assert prompts(town) == known
    assert len(known) == 3 * 2 * len(complete_languages()), "each for a short and a long text that was typed"
    for seconds in (2, 29, 270, 133, 1, 1, 1, 1):  # may send again; the code has expired; 62 to 58 seconds are left
        town.clock.advance(seconds)
        same(town, *browsers)
    assert 'id="late" hidden' not in browsers[0].get("/verify").text


def test_a_prompt_says_what_its_own_journey_says(town: World) -> None:
    browsers = [begun(town, slug) for slug in ("balance", "worded", "balance")]
    same(town, *browsers)
    assert ["&lt;Help&gt; &amp; advice" in browser.page.text for browser in browsers] == [False, True, False]


def test_a_prompt_after_a_move_is_the_page_that_would_be_rendered_for_its_visit(town: World) -> None:
    browsers = [begun(town, "balance", identifier) for identifier in IDENTIFIERS]
    for wait in (31, 61):
        town.clock.advance(wait)
        for browser in browsers:
            browser.post("/verify/resend")
            assert "Sent again just now" in browser.page.text
        same(town, *browsers)
    for browser in browsers:
        browser.post("/verify/change")
    same(town, *browsers)
    assert "Change your details" in browsers[0].page.text


def test_a_prompt_while_a_channel_fails_is_the_page_that_would_be_rendered_for_its_visit(town: World) -> None:
    browsers = [begun(town, slug, script=script) for slug in ("balance", "either") for script in ("", "1")]
    for browser in browsers[2:]:
        browser.post("/verify/method", method="sms_code")
    same(town, *browsers)
    with town.database.write() as connection:
        state = {"name": "sms", "failures_in_row": 5, "failed_at": town.clock.now, "reason": ""}
        connection.execute(insert(ChannelState).values(state))
    same(town, *browsers)
    assert "having trouble sending" in browsers[0].get("/verify").text


def test_a_prompt_after_a_proof_is_the_page_that_would_be_rendered_for_its_visit(town: World) -> None:
    browsers = [begun(town, "transfer", identifier) for identifier in ("C-1001", MAIL)]
    for browser in browsers:
        browser.prove(PASSWORD)
        assert "How do you want" in browser.page.text
    same(town, *browsers, languages=("en",))  # the customer's own, after a proof
    for browser in browsers:
        browser.post("/verify/method", method="sms_code")
        assert "••• 567" in browser.page.text
    same(town, *browsers, languages=("en",))


def test_a_prompt_of_a_ticket_is_the_page_that_would_be_rendered_for_its_visit(town: World) -> None:
    """With a payment it is rendered each time."""
    payment = Payment("500.00", "ZAR", "N. <Dlamini> & sons")
    wanted: tuple[dict[str, Any], ...] = (
        {},
        {"purpose": 'Confirm "A" & <b>'},
        {"purpose": PURPOSE},
        {"payment": payment},
    )
    browsers = []
    for number, values in enumerate(wanted):
        browsers.append(opened(town, ticket(town, "pay", **values).path, f"for-{number}"))
    same(town, *browsers)
    assert "N. &lt;Dlamini&gt; &amp; sons" in browsers[-1].page.text
    assert len(prompts(town)) == 3 * 2 * 2, "each with and without a purpose, in two languages"


# --- Last pages


def ended(world: World, browser: Browser, outcome: str) -> Browser:
    """Ends a visit that waits for the newest code."""
    if outcome == "verified":
        browser.prove(code_for(world, PHONE))
    elif outcome == "wrong":
        for _ in range(5):
            browser.prove("000000")
    elif outcome == "expired":
        world.clock.advance(556)
        browser.get("/verify")
    else:
        browser.post("/verify/cancel", reason=outcome)
    return browser


@pytest.mark.parametrize("outcome", ["verified", "cancelled", "not_me", "no_code", "wrong", "expired"])
def test_a_last_page_is_the_page_that_would_be_rendered_for_its_visit(town: World, outcome: str) -> None:
    browsers = [ended(town, begun(town, "balance", script="1"), outcome)]
    browsers.append(ended(town, begun(town, "worded"), outcome))
    for purpose in ("Close <account> 1", "Order a card"):
        browsers.append(ended(town, opened(town, ticket(town, "pay", purpose=purpose).path, purpose[0]), outcome))
    for act in (lambda: None, lambda: deliver(town), lambda: town.clock.advance(700)):
        act()
        same(town, *browsers, of="/done", languages=("en",))
    own = {"Close", "Order a card", *(browser.page.request.args["v"] for browser in browsers)}
    assert not [value for value in own if value in repr(list(pages(town)))]


def test_a_last_page_that_shows_more_is_rendered_for_its_visit(town: World) -> None:
    """A code for the chat, and a payment."""
    one = ended(town, begun(town, "code-back"), "verified")
    payment = Payment("9.50", "ZAR", "N. Dlamini")
    other = ended(town, opened(town, ticket(town, "pay", payment=payment).path, "to-pay"), "verified")
    assert ["chat-code" in one.page.text, "N. Dlamini" in other.page.text] == [True, True]
    same(town, one, other, of="/done", languages=("en",))
    assert not [key for key in prompts(town) if key[0] == "visitor/done.html"]


# --- What is one visit's own


def own_values(page: str, *shown: str) -> set[str]:
    """What a page has of one visit: its forms' tokens, prompts and labels, its seconds, and the texts given."""
    of_forms = re.findall(r'name="(?:csrf_token|prompt|v)" value="([^"]+)"', page)
    assert len(set(of_forms)) == 3
    return {*of_forms, *re.findall(r'data-seconds="\d+"', page), *(str(escape(text)) for text in shown)}


def apart(town: World, browsers: Sequence[Browser], shown: tuple[str, ...], others: tuple[str, ...]) -> None:
    """Check that two visits share a prepared page, and that nothing of the one is in the other's."""
    one, other = browsers
    one.get("/verify")
    known = prompts(town)
    page, another = one.get("/verify").text, other.get("/verify").text
    assert prompts(town) == known, "the second page was rendered with the first, not for it"
    values, other_values = own_values(page, *shown), own_values(another, *others)
    assert all(value in page for value in values)
    assert all(value in another for value in other_values)
    assert not [value for value in values if value in another]
    assert not [value for value in other_values if value in page]
    assert not [value for browser in browsers for value in held(browser).values() if value in page + another]


@pytest.mark.parametrize("slug", METHODS)
def test_no_value_of_one_visit_is_in_the_page_of_another(town: World, slug: str) -> None:
    one = begun(town, slug, "C-1001")
    town.clock.advance(7)
    browsers = (one, begun(town, slug, "stranger@example.com"))
    apart(town, browsers, ("C-1001",), ("stranger@example.com",))


def test_no_contact_of_one_visit_is_in_the_page_of_another(town: World) -> None:
    browsers = []
    for identifier in ("C-1001", "C-1005"):
        browser = begun(town, "transfer", identifier)
        browser.prove(PASSWORD)
        browser.post("/verify/method", method="sms_code")
        browsers.append(browser)
        town.clock.advance(7)
    apart(town, browsers, ("••• 567",), ("••• 877",))


def test_no_purpose_of_one_visit_is_in_the_page_of_another(town: World) -> None:
    browsers, purposes = [], ("Close <account> 1", "Order a card & a PIN")
    for number, purpose in ((PHONE, purposes[0]), ("+27829998877", purposes[1])):
        path = ticket(town, "pay", msisdn=number, purpose=purpose).path
        browsers.append(opened(town, path, f"for-{number[-4:]}"))
        town.clock.advance(7)
    apart(town, browsers, ("••• 567", purposes[0]), ("••• 877", purposes[1]))


def test_what_is_kept_has_nothing_of_a_customer_and_an_end(town: World) -> None:
    browser = opened(town, ticket(town, "pay", purpose="Close account 1").path)
    for page in (browser.page.text, begun(town, "mail", MAIL).page.text):
        values = own_values(page, MAIL, "••• 567", "Close account 1")
        assert not [value for value in values if value in repr(list(pages(town)))]
    found = pages(town)
    for number in range(PreparedPage.MOST):
        found[number,] = PreparedPage("")
    begun(town, "app")
    assert len(found) <= 2
    changed = town.services.configuration.export_toml().replace('name = "App"', 'name = "By app"')
    town.services.configuration.import_toml(changed, file_name="x.toml")
    assert town.services.journeys.renew().pages is not found
