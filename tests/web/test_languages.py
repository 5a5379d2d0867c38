"""Pages in the customer's language, as a browser sees them."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from werkzeug.test import TestResponse

from auth_portal.i18n import matched
from auth_portal.services.verification.tickets import TicketRequest
from auth_portal.store.models import Visit
from tests.receiver import Receiver
from tests.world import CONFIG, MAIL, PASSWORD, PHONE, TOTP_SECRET, World, open_world

pytestmark = pytest.mark.usefixtures("languages")


def accepting(header: str) -> dict[str, dict[str, str]]:
    return {"headers": {"Accept-Language": header}}


def test_a_page_is_in_the_language_of_the_browser(small_world: World) -> None:
    browser = small_world.browser()
    page = browser.get("/?reference=abc", **accepting("ar-EG,ar;q=0.9,en;q=0.8"))
    assert '<html lang="ar" dir="rtl">' in page.text
    assert page.headers["Content-Language"] == "ar"
    assert "Accept-Language" in page.headers["Vary"]
    assert "[ar]" in page.text
    page = browser.get("/?reference=abc")
    assert '<html lang="en" dir="ltr">' in page.text
    assert "[ar]" not in page.text
    assert page.headers["Content-Language"] == "en"


def test_a_language_that_is_not_complete_is_not_offered(small_world: World) -> None:
    page = small_world.browser().get("/?reference=abc", **accepting("de, zu;q=0.5"))
    assert '<html lang="zu"' in page.text


def test_errors_are_in_the_language_of_the_browser(small_world: World) -> None:
    browser = small_world.browser()
    for path in ("/", "/verify", "/done", "/nothing-here", "/credentials/none", "/?reference=%00"):
        page = browser.get(path, **accepting("zu"))
        assert page.status_code in (400, 404, 410)
        assert '<html lang="zu"' in page.text, path
        assert "[zu]" in page.text, path


def test_admins_programs_and_probes_read_english(small_world: World) -> None:
    browser = small_world.browser()
    for path in ("/admin/", "/admin/sign-in", "/admin/none", "/api/v1/none", "/healthz", "/sandbox/"):
        page = browser.get(path, **accepting("zu"))
        assert "[zu]" not in page.text, path
        assert "Content-Language" not in page.headers


def test_every_plural_form_reaches_the_script(small_world: World) -> None:
    page = small_world.browser().get("/?reference=abc", **accepting("ar"))
    body = re.search(r"<body [^>]*>", page.text)
    assert body is not None
    for category in ("zero", "one", "two", "few", "many", "other"):
        assert f'data-minutes-{category}="[ar {category}] About {{n}} minutes left"' in body[0]


def language_link(page: TestResponse) -> str:
    found = re.search(r'<a class="language" href="([^"]+)"', page.text)
    assert found is not None, page.text
    return unescape(found[1])


def choices(page: TestResponse) -> dict[str, str]:
    """The address of each language on the page, by its code."""
    links = re.findall(r'<a class="row" href="([^"]+)" data-tail lang="([^"]+)"', page.text)
    return {code: unescape(href) for href, code in links}


RAW = "f7_4hn5=8f&%25#nK=".partition("#")[0]  # as the server sees what Flow sends


def test_a_link_chooses_a_language_before_its_reference_alone(small_world: World) -> None:
    browser = small_world.browser()
    assert '<html lang="zu"' in browser.get("/?lang=zu&reference=abc", **accepting("fr")).text
    assert '<html lang="zu"' in browser.get("/?lang=ZU-za&reference=abc").text
    page = browser.get("/?reference=abc&lang=zu")
    assert '<html lang="en"' in page.text
    assert 'name="reference" value="abc&amp;lang=zu"' in page.text
    for unknown in ("de", "xx", "../zu", "zu%0d%0a", ""):
        assert '<html lang="fr"' in browser.get(f"/?lang={unknown}&reference=abc", **accepting("fr")).text


def test_a_language_is_chosen_on_the_landing_page_and_everything_in_the_link_stays(small_world: World) -> None:
    browser = small_world.browser()
    page = browser.get(f"/j/either?reference={RAW}")
    page = browser.get(language_link(page))
    assert "Choose your language" in page.text
    assert re.search(r'lang="zu" hreflang="zu" dir="ltr"><span><b>isiZulu', page.text)
    assert re.search(r'lang="ar" hreflang="ar" dir="rtl"><span><b>العربية', page.text)
    assert re.search(r'lang="en" hreflang="en" dir="ltr" aria-current="true"><span><b>English', page.text)
    assert "Deutsch" not in page.text, "it misses texts"
    assert choices(page)["zu"] == f"/j/either?lang=zu&reference={RAW}"
    page = browser.get(choices(page)["zu"])
    assert '<html lang="zu"' in page.text
    assert 'name="reference" value="f7_4hn5=8f&amp;%"' in page.text
    page = browser.get(language_link(page))
    assert '<html lang="zu"' in page.text, "the page that offers languages is in the one that was chosen"
    assert (
        unescape(re.findall(r'<a class="back" href="([^"]+)" data-tail>', page.text)[0])
        == f"/j/either?lang=zu&reference={RAW}"
    )


def test_a_chosen_language_stays_in_the_visit(world: World) -> None:
    browser = world.browser()
    browser.get("/?lang=fr&reference=abc")
    page = browser.name("C-1001")
    assert page.request.path == "/verify"
    assert '<html lang="fr"' in page.text
    page = browser.get(language_link(page))
    assert '<html lang="fr"' in page.text
    assert 'value="fr" lang="fr" dir="ltr" aria-current="true"' in page.text
    page = browser.post("/language", lang="ar")
    assert page.request.path == "/verify"
    assert '<html lang="ar" dir="rtl"' in page.text
    page = browser.prove("000000")
    assert page.status_code == 422
    assert "[ar] Try again." in page.text
    page = browser.post("/verify/cancel", reason="cancelled")
    assert page.request.path == "/done"
    assert '<html lang="ar" dir="rtl"' in page.text
    page = browser.get(language_link(page))
    assert browser.post("/language", lang="zu").request.path == "/done"
    assert '<html lang="zu"' in browser.page.text


def test_choosing_a_language_is_a_post_with_our_token(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin("abc")
    before = small_world.rows(Visit)
    browser.get("/language")
    browser.get("/language?lang=zu")
    assert small_world.rows(Visit) == before
    answer = browser.client.post("/language", data={"lang": "zu"}, base_url=browser.base_url)
    assert answer.status_code in (303, 400)
    assert small_world.rows(Visit) == before
    browser.get("/language")
    for wrong in ("de", "xx", "", "zu'"):
        assert browser.post("/language", lang=wrong).status_code == 400
        assert small_world.rows(Visit) == before
        browser.get("/language")
    browser.post("/language", lang="zu")
    assert [row.locale for row in small_world.rows(Visit)] == ["zu"]


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example", "javascript:alert(1)",
        "/j/x/../../admin", "/admin/", "/j//evil.example", "/language", "/verify", "/j/x?y", "/j/x\n", "/j/X%2f",
    ],
)  # fmt: skip
def test_r33_no_link_leads_anywhere_but_to_a_customers_page(small_world: World, target: str) -> None:
    page = small_world.browser().get(f"/language?to={quote(target, safe='')}&reference=abc")
    assert page.status_code == 200
    links = [unescape(href) for href in re.findall(r'<a [^>]*href="([^"]*)"', page.text)]
    assert {link for link in links if "lang=" in link} == {f"/?lang={code}" for code in ("en", "zu", "ar", "fr")}
    assert not [link for link in links if "evil" in link or "admin" in link or "javascript" in link]


def test_errors_offer_languages_and_keep_what_was_in_the_link(small_world: World) -> None:
    browser = small_world.browser()
    page = browser.get("/j/balance/t/gone?reference=a%25b&c")
    assert page.status_code == 410
    page = browser.get(language_link(page))
    assert choices(page)["ar"] == "/j/balance/t/gone?lang=ar&reference=a%25b&c"
    page = browser.get(choices(page)["ar"])
    assert page.status_code == 410
    assert '<html lang="ar"' in page.text
    page = browser.get("/verify")
    assert page.status_code == 400
    assert choices(browser.get(language_link(page)))["zu"] == "/?lang=zu"
    page = browser.get("/credentials/none?lang=fr")
    assert '<html lang="fr"' in page.text
    assert choices(browser.get(language_link(page)))["zu"] == "/credentials/none?lang=zu"


def test_an_error_in_a_visit_is_in_its_language(small_world: World) -> None:
    browser = small_world.browser()
    browser.get("/?lang=zu&reference=abc")
    browser.name("C-1001")
    page = browser.post("/verify/cancel", reason="no such reason")
    assert page.status_code == 400
    assert '<html lang="zu"' in page.text


ZULU_CUSTOMER = f"""customer_id,name,phone,email,locale,password,totp_secret
C-1001,Thandi Nkosi,{PHONE},{MAIL},zu,{PASSWORD},{TOTP_SECRET}
"""


def test_r24_what_is_on_file_changes_pages_only_after_a_proof(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, customers=ZULU_CUSTOMER) as world:
        browser = world.browser()
        page = browser.begin("abc", "transfer")
        assert '<html lang="en"' in page.text
        page = browser.prove(PASSWORD)
        assert '<html lang="zu"' in page.text
        assert "[zu]" in page.text
        browser.post("/verify/method", method="totp")
        page = browser.prove(world.totp())
        assert page.request.path == "/done"
        assert '<html lang="zu"' in page.text
        stranger = world.browser().begin("abd", "transfer", "C-9999")
        assert '<html lang="en"' in stranger.text


def test_a_choice_comes_before_what_is_on_file(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    with open_world(tmp_path, sqlite_url, receiver, customers=ZULU_CUSTOMER) as world:
        browser = world.browser()
        browser.get("/j/transfer?lang=fr&reference=abc")
        browser.name("C-1001")
        assert '<html lang="fr"' in browser.prove(PASSWORD).text


def test_the_settings_say_which_languages_are_offered_and_which_is_the_portals_own(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    base = CONFIG.replace('name = "Acme Bank"', 'name = "Acme Bank"\nlanguage = "fr"\nlanguages = ["ar"]')
    with open_world(tmp_path, sqlite_url, receiver, base=base) as world:
        browser = world.browser()
        world.services.journeys.renew()
        page = browser.get("/?reference=abc", **accepting("zu"))
        assert '<html lang="fr"' in page.text
        assert set(choices(browser.get(language_link(page)))) == {"fr", "ar"}
        assert '<html lang="ar"' in browser.get("/?reference=abc", **accepting("ar")).text


def test_a_portal_with_one_language_offers_none(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    base = CONFIG.replace('name = "Acme Bank"', 'name = "Acme Bank"\nlanguages = ["en"]')
    with open_world(tmp_path, sqlite_url, receiver, base=base) as world:
        world.services.journeys.renew()
        assert 'class="language"' not in world.browser().get("/?reference=abc").text


def test_a_ticket_brings_its_language(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    with open_world(tmp_path, sqlite_url, receiver) as world:
        ticket = world.services.verifications.tickets.register(TicketRequest("balance", msisdn=PHONE, locale="ar-EG"))
        browser = world.browser()
        page = browser.get(f"{ticket.path}?reference=abc", **accepting("zu"))
        assert '<html lang="ar" dir="rtl"' in page.text
        assert 'name="lang"' not in page.text
        other_tab = world.browser()
        other_tab.client = browser.client
        other_tab.get(f"{ticket.path}?lang=fr&reference=abc")
        page = browser.post(ticket.path)
        assert page.request.path == "/verify"
        assert '<html lang="ar" dir="rtl"' in page.text
        page = browser.get(f"{ticket.path}?lang=fr&reference=abc")
        assert '<html lang="fr"' in page.text
        assert '<html lang="fr"' in other_tab.post(ticket.path).text, "the same visit, in the language of its new link"


def test_a_form_with_a_long_language_costs_no_time(small_world: World) -> None:
    """Each part that is cut off its end is another text: 20,000 of them took as long as a hundred sign-ins."""
    browser = small_world.browser()
    browser.get("/?reference=abc")
    before = matched.cache_info().misses
    page = browser.post("/", identifier="?", lang="zu-" + "-".join(["a1"] * 20_000))
    assert page.status_code == 422
    assert '<html lang="en"' in page.text
    assert matched.cache_info().misses == before
    assert '<html lang="zu"' in browser.post("/", identifier="?", lang="zu-ZA").text
