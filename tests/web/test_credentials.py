"""What a customer does with a one-time link: looks, chooses a password or enrols an app, once."""

from __future__ import annotations

import re
from functools import partial
from html import unescape

import pyotp
import pytest

from auth_portal.store.models import AuditEvent, CredentialLink
from tests.admin.desk import MAIL_OF, signed_in
from tests.receiver import wait_for
from tests.world import MAIL, PHONE, Browser, World, journey, open_world

GOOD = "seven kudus dance slowly"
ADMIN = "a" * 32


def row(world: World, customer_id: str = "C-1001") -> str:
    return world.services.customers.row_of(customer_id)


def link(world: World, kind: str, customer_id: str = "C-1001") -> str:
    """The path of a fresh link that an admin hands over."""
    made = world.services.credential_links.make(row(world, customer_id), kind, "hand", admin_id=ADMIN)
    assert made.link.startswith("http://127.0.0.1:8000/credentials/")
    return made.link.removeprefix("http://127.0.0.1:8000")


def followed(world: World, path: str) -> Browser:
    browser = world.browser()
    assert browser.open_link(path).status_code == 200
    return browser


def seed_of(browser: Browser) -> str:
    shown = re.search(r'id="key">([^<]+)<', browser.page.text)
    assert shown
    return unescape(shown.group(1)).replace(" ", "")


def told(world: World, contact: str, text: str) -> bool:
    messages = world.receiver.messages
    return any(sent["to"] == contact and text in sent["text"] + sent.get("subject", "") for sent in messages)


def proves(world: World, slug: str, proof: str, reference: str, customer_id: str = "C-1001") -> bool:
    browser = world.browser()
    browser.begin(reference, slug, customer_id)
    browser.prove(proof)
    return browser.path == "/done"


def test_r31_looking_uses_nothing_up_and_following_does(world: World) -> None:
    path = link(world, "password")
    for _ in range(3):
        assert world.browser().get(path).status_code == 200
        world.browser().client.head(path, base_url="http://127.0.0.1:8000")
    browser = followed(world, path)
    assert "Your password is ready to use" in browser.post(path, password=GOOD, repeated=GOOD).text
    assert browser.get(path).status_code == 410
    assert proves(world, "password", GOOD, "with-the-new-one")
    assert [event.kind for event in world.rows(AuditEvent)].count("credential_set_by_link") == 1


def test_r21_the_rules_of_a_new_password(small_world: World) -> None:
    path = link(small_world, "password")
    browser = followed(small_world, path)
    assert "At least 15 characters" in browser.page.text  # a journey takes the password alone
    for password, reason in (
        ("", "Enter a password"),
        ("fourteen chars", "14 characters. It needs at least 15"),
        ("x" * 257, "longer than 256"),
        ("aaaaaaaaaaaaaaaaaaaa", "too easy to guess"),
        ("thandi@example.com", "too easy to guess"),
    ):
        page = browser.post(path, password=password, repeated=password)
        assert (page.status_code, reason in page.text) == (422, True), (password, page.text)
        assert password == "" or f'value="{password}"' not in page.text
    assert browser.post(path, password=GOOD, repeated=f"{GOOD} ").status_code == 422
    assert browser.post(path, password=GOOD, repeated=GOOD).status_code == 200


def test_r21_eight_are_enough_where_no_journey_takes_it_alone(
    tmp_path: object, sqlite_url: str, receiver: object
) -> None:
    config = journey("balance", "password", "sms_code", default=True)
    with open_world(tmp_path, sqlite_url, receiver, config=config) as world:  # type: ignore[arg-type]
        path = link(world, "password")
        browser = followed(world, path)
        assert browser.post(path, password="kzqm-vw", repeated="kzqm-vw").status_code == 422
        assert browser.post(path, password="kzqm-vwx", repeated="kzqm-vwx").status_code == 200
        assert not world.services.customers.get(row(world)).password_is_long


def test_r15_an_app_is_enrolled_by_its_own_code(world: World) -> None:
    path = link(world, "totp", "C-1002")
    browser = followed(world, path)
    seed = seed_of(browser)
    assert len(seed) * 5 == 160
    assert f"secret={seed}" in unescape(browser.page.text)
    assert 'fill="#fff"' in browser.page.text  # a scanner needs white around it, also on a dark page
    for wrong in ("", "000000", "12345", pyotp.TOTP(seed).at(world.clock.now.timestamp() + 120)):
        page = browser.post(path, code=wrong)
        assert (page.status_code, "the code your app shows now" in page.text) == (422, True)
    code = pyotp.TOTP(seed).at(world.clock.now.timestamp())
    assert "Your app is ready to use" in browser.post(path, code=f"{code[:3]} {code[3:]}").text
    assert world.services.customers.get(row(world, "C-1002")).has_totp
    spent = world.browser()
    spent.begin("spent", "app", "C-1002")
    spent.prove(code)
    assert spent.path == "/verify"  # R17: the code that confirmed is used
    world.clock.advance(31)
    spent.prove(pyotp.TOTP(seed).at(world.clock.now.timestamp()))
    assert spent.path == "/done"


def test_r47_each_view_of_a_link_has_its_own_seed(world: World) -> None:
    """What was shown before the customer came, to anyone, is worth nothing afterwards."""
    path = link(world, "totp", "C-1002")
    early = world.browser()
    assert "secret=" not in early.get(path).text, "a preview, which only looks, sees no seed"
    assert early.client.get(path, base_url="http://127.0.0.1:8000").status_code == 200
    early.open_link(path)
    taken = seed_of(early)
    browser = followed(world, path)
    seeds = [seed_of(browser), *(seed_of(_looked(browser, path)) for _ in range(3))]
    assert len({taken, *seeds}) == 5
    browser.post(path, code=code_of(world, seeds[-1]))
    assert "Your app is ready to use" in browser.page.text
    world.clock.advance(31)
    assert not proves(world, "app", code_of(world, taken), "with-the-copy", "C-1002")
    assert proves(world, "app", code_of(world, seeds[-1]), "with-the-app", "C-1002")


def _looked(browser: Browser, path: str) -> Browser:
    browser.get(path)
    return browser


def code_of(world: World, seed: str) -> str:
    return pyotp.TOTP(seed).at(world.clock.now.timestamp())


def test_r47_an_older_view_works_in_its_own_browser(small_world: World) -> None:
    path = link(small_world, "totp", "C-1002")
    browser = followed(small_world, path)
    older, fields = seed_of(browser), browser.hidden(path)
    page = browser.post(path, code="000000")
    assert (page.status_code, seed_of(browser)) == (422, older), "a wrong code does not change the key"
    assert seed_of(_looked(browser, path)) != older
    small_world.clock.advance(3600)
    browser.post(path, **{**fields, "code": code_of(small_world, older)})
    assert "Your app is ready to use" in browser.page.text


@pytest.mark.parametrize("of", ["another link", "another browser", "another person", "no link", "a used link"])
def test_r47_a_seed_that_was_shown_elsewhere_is_not_taken(small_world: World, of: str) -> None:
    path = link(small_world, "totp", "C-1002")
    strange = followed(small_world, path)
    if of == "another person":
        strange = followed(small_world, link(small_world, "totp", "C-1001"))
    elif of == "another link":
        path = link(small_world, "totp", "C-1002")
    seed, sealed = seed_of(strange), re.search(r'name="seed" value="([^"]+)"', strange.page.text)
    assert sealed
    browser = strange if of in ("another link", "a used link") else followed(small_world, path)
    if of == "another link":
        browser.open_link(path)
    if of == "a used link":
        browser.post(path, code=code_of(small_world, seed))
        small_world.clock.advance(31)
        answer = browser.client.post(
            path,
            data={"csrf_token": "x", "seed": sealed[1], "code": code_of(small_world, seed)},
            base_url=browser.base_url,
        )
        assert answer.status_code == 410
        return
    given = "bm90IHNlYWxlZA" if of == "no link" else sealed[1]
    page = browser.post(path, code=code_of(small_world, seed), seed=given)
    assert (page.status_code, "shows a new key" in page.text) == (422, True)
    assert seed_of(browser) != seed
    assert not small_world.services.customers.get(row(small_world, "C-1002")).has_totp


@pytest.mark.parametrize("kind", ["password", "totp"])
def test_r47_a_link_that_another_browser_opened_first_says_so_and_its_admin_hears(
    small_world: World, kind: str
) -> None:
    issuer = signed_in(small_world, "support")
    made = small_world.services.credential_links.make(
        row(small_world), kind, "hand", admin_id=issuer.admin_id, reason="called"
    )
    path = made.link.removeprefix("http://127.0.0.1:8000")
    first = followed(small_world, path)
    second = small_world.browser("198.51.100.9")
    assert "opened in another browser" in second.get(path).text
    assert "ask for this”." in second.page.text
    assert "opened in another browser" not in first.get(path).text
    first.get(path)
    first.client.post(path, data={**first.hidden(path), "open": "1"}, base_url=first.base_url)
    assert not told(small_world, MAIL_OF["support"], "second browser"), "the same browser again is no other"
    second.post(path, open="1")
    assert "opened in another browser" in second.page.text
    assert "contact Acme Bank." in second.page.text
    assert "opened in another browser" in first.get(path).text
    wait_for(lambda: told(small_world, MAIL_OF["support"], "opened in a second browser"))
    followed(small_world, path)
    kinds = [event.facts["number"] for event in small_world.rows(AuditEvent) if event.kind == "credential_link_opened"]
    assert kinds == [1, 2], "more browsers say nothing new"


def test_r47_who_did_not_ask_ends_the_link_and_its_admin_hears(small_world: World) -> None:
    issuer = signed_in(small_world, "support")
    made = small_world.services.credential_links.make(row(small_world), "totp", "hand", admin_id=issuer.admin_id)
    path = made.link.removeprefix("http://127.0.0.1:8000")
    thief = followed(small_world, path)
    browser = small_world.browser()
    browser.get(path)
    assert "This link no longer works" in browser.post(path, decline="1").text
    assert browser.get(path).status_code == 410
    assert thief.post(path, code=code_of(small_world, seed_of(thief))).status_code == 410
    wait_for(lambda: told(small_world, MAIL_OF["support"], "was declined"))


@pytest.mark.parametrize("kind", ["password", "totp"])
def test_r47_a_form_whose_browser_has_opened_nothing_sets_nothing(small_world: World, kind: str) -> None:
    path = link(small_world, kind)
    browser = followed(small_world, path)
    typed = (
        {"password": GOOD, "repeated": GOOD} if kind == "password" else {"code": code_of(small_world, seed_of(browser))}
    )
    browser.client.delete_cookie("link", domain="127.0.0.1")
    page = browser.post(path, **typed)
    assert (page.status_code, "didn't send our cookie" in page.text) == (400, True)
    assert not [event for event in small_world.rows(AuditEvent) if event.kind == "credential_set_by_link"]


def test_a_link_is_over_after_a_day_and_when_a_newer_one_is_made(small_world: World) -> None:
    first, app = link(small_world, "password"), link(small_world, "totp")
    second = link(small_world, "password")
    browser = small_world.browser()
    assert browser.get(first).status_code == 410
    assert "Ask for a new one" in browser.page.text
    assert browser.get(app).status_code == 200
    assert browser.get("/credentials/never-made").status_code == 410
    browser = followed(small_world, second)
    small_world.clock.advance(24 * 3600)
    assert browser.post(second, password=GOOD, repeated=GOOD).status_code == 410


def test_a_link_is_used_once_by_two_browsers(small_world: World) -> None:
    path = link(small_world, "password")
    one, other = followed(small_world, path), followed(small_world, path)
    assert one.post(path, password=GOOD, repeated=GOOD).status_code == 200
    assert other.post(path, password=f"{GOOD}!", repeated=f"{GOOD}!").status_code == 410


def test_a_person_switched_off_or_erased_has_no_link(small_world: World) -> None:
    off, gone = link(small_world, "password"), link(small_world, "totp", "C-1002")
    small_world.services.customers.set_active(row(small_world), is_active=False)
    small_world.services.erasure.erase(row(small_world, "C-1002"))
    for path in (off, gone):
        assert small_world.browser().get(path).status_code == 410
    assert len(small_world.rows(CredentialLink)) == 1
    assert small_world.services.credential_links.make(row(small_world), "totp", "hand", admin_id=ADMIN).fault


def test_r13_a_link_goes_one_way_and_the_others_are_told(small_world: World) -> None:
    made = small_world.services.credential_links.make(row(small_world), "password", "sms", admin_id=ADMIN)
    assert (made.link, made.fault) == ("", "")
    wait_for(lambda: told(small_world, PHONE, "http://127.0.0.1:8000/credentials/"))
    wait_for(lambda: told(small_world, MAIL, "We created a link to set your password"))
    assert not told(small_world, MAIL, "/credentials/")
    text = next(sent["text"] for sent in small_world.receiver.messages if "/credentials/" in sent["text"])
    path = re.search(r"/credentials/[\w-]+", text)
    assert path
    followed(small_world, path.group()).post(path.group(), password=GOOD, repeated=GOOD)
    for contact in (PHONE, MAIL):
        wait_for(partial(told, small_world, contact, "Your password was set"))


@pytest.mark.parametrize(
    ("kind", "words"),
    [("password", "We created a link to set your password"), ("totp", "setting up an authenticator app with you")],
)
def test_a_handed_over_link_is_in_no_message(small_world: World, kind: str, words: str) -> None:
    path = link(small_world, kind)
    for contact in (PHONE, MAIL):
        wait_for(partial(told, small_world, contact, words))
    assert not any(path in sent["text"] for sent in small_world.receiver.messages)


def test_no_way_to_send_is_said_and_makes_no_link(small_world: World) -> None:
    made = small_world.services.credential_links.make(row(small_world, "C-1002"), "password", "email", admin_id=ADMIN)
    assert made.fault == "no_contact"
    assert not small_world.rows(CredentialLink)


def test_r06_a_new_credential_begins_without_the_wrong_tries_of_the_old(small_world: World) -> None:
    for number in range(3):
        browser = small_world.browser()
        browser.begin(f"wrong-{number}", "app")
        for _ in range(5):
            browser.prove("000000")
    path = link(small_world, "totp")
    browser = followed(small_world, path)
    app = pyotp.TOTP(seed_of(browser))
    browser.post(path, code=app.at(small_world.clock.now.timestamp()))
    small_world.clock.advance(31)
    assert proves(small_world, "app", app.at(small_world.clock.now.timestamp()), "after")


def test_r30_a_form_without_its_cookie_comes_again(small_world: World) -> None:
    path = link(small_world, "password")
    browser = followed(small_world, path)
    browser.client.delete_cookie("csrf", domain="127.0.0.1")
    page = browser.post(path, password=GOOD, repeated=GOOD)
    assert (page.status_code, "didn't send our cookie" in page.text) == (400, True)
    assert browser.post(path, password=GOOD, repeated=GOOD).status_code == 200


def test_r42_the_link_is_not_logged(small_world: World, caplog: pytest.LogCaptureFixture) -> None:
    path = link(small_world, "password")
    followed(small_world, path).post(path, password=GOOD, repeated=GOOD)
    written = " ".join(str(vars(record)) for record in caplog.records)
    assert "/credentials/<token>" in written
    assert path.rpartition("/")[2] not in written
