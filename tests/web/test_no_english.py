"""On the pages of a customer who reads another language nothing is in English but what admins and customers wrote.

The catalog of these tests puts each text into brackets, so what is outside of them was not translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest
from flask import render_template
from jinja2 import Environment, nodes
from sqlalchemy import update
from werkzeug.test import TestResponse

from auth_portal import i18n
from auth_portal.i18n import CUSTOMER_ERRORS
from auth_portal.services.config.journey import Payment
from auth_portal.services.delivery.texts import CodeMessage, Texts
from auth_portal.services.verification.case import Voice
from auth_portal.services.verification.end import Ending, HandoverLink
from auth_portal.settings import CompiledTemplates
from auth_portal.store.models import ChannelState, DeliveryState
from auth_portal.web.edge import choose_language, error_page
from tests.languages import translate
from tests.receiver import Receiver
from tests.security.tools import STILL, code_for, deliver, wrong_totp
from tests.services.steps import (
    ALL_AT_ONCE,
    HANDOVER,
    IDENTIFY,
    PASSWORD_STEP,
    QUESTIONS,
    SMS_STEP,
    TERMS,
    stepped,
)
from tests.ticketed import JOURNEYS, link, ticket
from tests.web.test_credentials import code_of, seed_of
from tests.web.test_credentials import link as credential_link
from tests.world import PASSWORD, PHONE, Browser, World, journey, open_world
from translations.catalogs import KEYWORDS, ROOT, customer_templates

END = "[/zu]"
MARK = re.compile(r"\[zu(?: [a-z]+)?\] |\[/zu\]")
WORD = re.compile(r"[^\W\d_]{2,}")
READ = ("alt", "title", "placeholder", "aria-label", "data-busy", "data-other", "data-title")
LANGUAGES = ("isiZulu", "English")
EVERY_KIND = """{ kind = "questions", title = "One of each", layout = "all", questions = [
  { key = "one", kind = "single", ask = "One?", options = [ { value = "a", label = "Yes" }, { value = "b", label = "No" } ] },
  { key = "some", kind = "multiple", ask = "Some?", least = 1, most = 1,
    options = [ { value = "a", label = "Yes" }, { value = "b", label = "No" } ] },
  { key = "scale", kind = "scale", ask = "Scale?", low = "Low", high = "High" },
  { key = "nps", kind = "nps", ask = "Likely?" },
  { key = "text", kind = "text", ask = "Text?", least = 3, most = 5 },
  { key = "number", kind = "number", ask = "Number?", least = 3, most = 5 },
  { key = "date", kind = "date", ask = "Date?" },
  { key = "phone", kind = "phone", ask = "Phone?", required = false },
  { key = "email", kind = "email", ask = "Email?", only_if = { key = "one", is = "a" } } ] }""".replace("\n", " ")
CONFIG = (
    JOURNEYS
    + journey("support", "support_code")
    + stepped("terms", TERMS)
    + stepped("linked", '{ kind = "terms", version = "2", title = "Our terms", link = { en = "https://a.example/t" }, '
              f'sha256 = {{ en = "{"ab" * 32}" }} }}')
    + stepped("named", IDENTIFY, TERMS, SMS_STEP)
    + stepped("survey", QUESTIONS)
    + stepped("all", ALL_AT_ONCE)
    + stepped("kinds", EVERY_KIND)
    + stepped("agent", HANDOVER)
    + stepped("proved", IDENTIFY, PASSWORD_STEP, HANDOVER)
)  # fmt: skip
REFERENCES = count()
TYPED = ("C-1001", "C-1002", "nothing such", "Thandi", "Nkosi", "kudu", "abc", "on file", "N. Dlamini", "ZAR")
ADDRESSES = ("reference", "http://", "https://", "acme.example", "credentials", "help")


class PageText(HTMLParser):
    """What a page says outside of translated texts, in pieces between its tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.depth, self.silent, self.found = 0, 0, list[str]()
        self.feed(html)
        self.close()
        assert self.depth == 0, "a translated text that does not end"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.silent += tag in ("script", "style", "code")
        for name, value in attrs:
            says = name in READ or name.startswith("data-minutes") or (tag, name) == ("meta", "content")
            self._say(value or "") if says and dict(attrs).get("name") is None else None

    def handle_endtag(self, tag: str) -> None:
        self.silent -= tag in ("script", "style", "code")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self._say(data)

    def _say(self, text: str) -> None:
        at = 0
        for mark in [*MARK.finditer(text), None]:
            outside = text[at : mark.start() if mark else None]
            self.found += [outside] if self.depth == 0 and WORD.search(outside) else []
            if mark is not None:
                self.depth += -1 if mark[0] == END else 1
                at = mark.end()


def in_english(text: str) -> list[str]:
    """The pieces of a page or message that are neither translated nor written by admins or customers."""
    texts = re.findall(r'"((?:[^"\\\n]|\\.)+)"', CONFIG)
    own = {part.strip("#-* ") for text in texts for part in re.split(r"\\n|\*\*", text) if WORD.search(part)}
    own |= {name.capitalize().replace("-", " ") for name in re.findall(r'slug = "([^"]+)"', CONFIG)}
    known = sorted({*own, *TYPED, *ADDRESSES, *LANGUAGES, "Acme Bank", "Auth Portal"}, key=len, reverse=True)
    left = []
    for piece in PageText(text).found:
        rest = re.sub("|".join(map(re.escape, known)), "", " ".join(piece.replace("*", "").split()))
        left += [piece.strip()] if WORD.search(rest) else []
    return left


class ZuluBrowser(Browser):
    """A browser that holds each page that it sees against the rule."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.client.environ_base |= {"HTTP_ACCEPT_LANGUAGE": "zu"}

    def _followed(self) -> TestResponse:
        page = super()._followed()
        assert '<html lang="zu"' in page.text, page.text
        assert in_english(page.text) == [], page.request.path
        return page

    def see(self, *paths: str) -> None:
        """Look at other pages, and come back to this one."""
        for path in paths:
            self.get(path)
        self.get("/verify")


@pytest.fixture(scope="module")
def bracketed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bracketed")
    translate(folder, "zu", end=END)
    return folder


@pytest.fixture
def world(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, bracketed: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.setattr(i18n, "TRANSLATIONS", bracketed)
    i18n.forget_languages()
    with open_world(tmp_path, sqlite_url, receiver, config=CONFIG, settings=STILL) as opened:
        yield opened
    monkeypatch.undo()
    i18n.forget_languages()


@pytest.fixture
def browser(world: World) -> ZuluBrowser:
    return ZuluBrowser(world)


def started(browser: ZuluBrowser, slug: str, **fields: str) -> ZuluBrowser:
    browser.open(f"reference-{next(REFERENCES)}", slug)
    browser.post(f"/j/{slug}", **fields)
    return browser


def test_the_rule_sees_what_is_not_translated() -> None:
    page = "<p>[zu] Code for <b>[zu] you[/zu]</b> is <bdi>C-1001</bdi>.[/zu] Acme Bank<i title='Go'>12</i></p>"
    assert in_english(page) == ["Go"]
    assert in_english(page.replace("is <bdi>", "[/zu] is <bdi>[zu] ")) == ["is", "Go"]


def test_the_link_s_first_pages(browser: ZuluBrowser, world: World) -> None:
    for slug in ("balance", "mail", "app", "password", "either", "support", "terms", "survey", "agent", "pay"):
        page = browser.open("abc", slug)
        assert page.status_code == 200
        browser.get(f"/j/{slug}/stop?reference=abc")
    browser.get("/language?to=/j/app&reference=abc")
    started(browser, "app", identifier="")
    browser.post("/j/app", identifier="\u2603" * 20)
    browser.open("abc", "app")
    browser.client.delete_cookie("session", domain="127.0.0.1")
    browser.post("/j/app", csrf_token="", identifier="C-1001")
    browser.post("/j/app", csrf_token="", cookieless="1", identifier="C-1001")
    assert started(ZuluBrowser(world), "pay").path == "/done"


def test_a_link_that_was_used_or_is_under_way(browser: ZuluBrowser, world: World) -> None:
    for slug in ("app", "balance"):
        browser.begin("abc", slug)
        browser.open("abc", slug)
        browser.get("/verify")
        browser.prove(world.totp() if slug == "app" else code_for(world, PHONE))
        browser.open("abc", slug)
        world.clock.advance(24 * 3600)
        browser.open("abc", slug)


def test_payments(browser: ZuluBrowser, world: World) -> None:
    path = ticket(world, payment=Payment("500.00", "ZAR", "N. Dlamini"), purpose="on file").path
    world.clock.advance(60)
    browser.get(link(path, "abc"))
    browser.get(f"{path}/stop?reference=abc")
    browser.get(link(path, "abc"))
    browser.post(path, method="sms_code")
    browser.see("/verify/help", "/verify/stop")
    browser.prove(code_for(world, PHONE))
    assert browser.path == "/done"


@pytest.mark.parametrize("customer", ["C-1001", "nothing such"])
@pytest.mark.parametrize("method", ["sms_code", "email_code", "totp"])
def test_every_prompt_with_a_code(browser: ZuluBrowser, world: World, method: str, customer: str) -> None:
    started(browser, "either", identifier=customer, method="choose")
    browser.post("/verify/method", method="")
    browser.post("/verify/method", method=method)
    browser.see("/verify/help", "/verify/stop", "/language?v=x")
    for code in ("", "1", wrong_totp(world), wrong_totp(world)):
        browser.prove(code)
    if method != "totp":
        browser.post("/verify/resend")
        world.clock.advance(45)
        browser.post("/verify/resend")
        assert browser.prove("000000").status_code == 422
        world.clock.advance(301)
        assert browser.prove("000000").status_code == 422
    browser.post("/verify/cancel", reason="no_code" if method == "sms_code" else "cancelled")
    assert browser.path == "/done"


def test_passwords_and_codes_of_support(browser: ZuluBrowser, world: World) -> None:
    started(browser, "password", identifier="C-1001")
    browser.see("/verify/help")
    for password in ("", "x" * 300, "no", "no", "no"):
        browser.prove(password)
    browser.post("/verify/change")
    browser.post("/verify", identifier="")
    browser.post("/verify", identifier="\u2603" * 20)
    for _ in range(6):
        browser.post("/verify", identifier="C-1002")
        browser.post("/verify/change")
    other = started(ZuluBrowser(world), "support", identifier="C-1001")
    other.see("/verify/help")
    other.prove("12345678")


def test_a_channel_in_trouble_and_no_sends_left(browser: ZuluBrowser, world: World) -> None:
    started(browser, "balance", identifier="C-1001")
    deliver(world)
    with world.database.write() as connection:
        connection.execute(update(ChannelState).values(failures_in_row=5, failed_at=world.clock.now))
    browser.get("/verify")
    for _ in range(6):
        world.clock.advance(61)
        browser.post("/verify/resend") if "/verify/resend" in browser.page.text else browser.get("/verify")
    browser.see("/verify/help")


def test_the_steps_without_a_proof(browser: ZuluBrowser, world: World) -> None:
    started(browser, "terms")
    browser.post("/verify")
    browser.see("/verify/decline")
    browser.get("/verify/decline")
    browser.post("/verify", decline="terms")
    started(ZuluBrowser(world), "linked")
    survey = started(ZuluBrowser(world), "survey")
    for one in ("", "problem", "x" * 41, "it broke", "11", "9", ""):
        survey.post("/verify", answer=one)
    assert survey.path == "/done"
    kinds = started(ZuluBrowser(world), "kinds")
    kinds.post("/verify")
    for text, number in (("x", "1"), ("x" * 9, "9"), ("x" * 4, "x")):
        kinds.post("/verify", answer_one="a", answer_some=["a", "b"], answer_text=text, answer_number=number,
                   answer_date="x", answer_phone="x", answer_email="x", answer_scale="99")  # fmt: skip
    started(ZuluBrowser(world), "all").post("/verify", answer_why="problem")


@pytest.mark.parametrize("hours", [-1, 21, 6 * 24])
def test_hand_overs(browser: ZuluBrowser, world: World, hours: int) -> None:
    """Sunday, Monday and Saturday; Tuesday is a holiday."""
    world.clock.advance(hours * 3600)
    english = world.browser()  # what a template works out once is not for all languages
    english.open(f"reference-{next(REFERENCES)}", "agent")
    english.post("/j/agent")
    started(browser, "agent")
    browser.post("/verify", choice="nowhere")
    browser.post("/verify", choice="mine")
    assert browser.path == "/done"


ENDINGS = (
    *("verified", "wrong", "expired", "cancelled", "not_me", "no_code", "unavailable"),
    *("completed", "declined", "handed_over"),
)


@pytest.mark.parametrize("outcome", ENDINGS)
def test_every_ending(world: World, outcome: str) -> None:
    snapshot = world.services.journeys.current()
    payment = Payment("500.00", "ZAR", "N. Dlamini").shown("ZA")
    handover = HandoverLink("chat", {"": "Chat on our website"}, "https://a.example/t")
    states, voice = ("", *DeliveryState), Voice((), snapshot.journeys["app"].config)
    for state, has_payment, is_long, code in product(states, (False, True), (False, True), ("", "123456")):
        ending = Ending(
            outcome, "app", "Acme Bank", "tel:+27860100200" if is_long else "https://acme.example/help",
            "https://wa.me/1" if is_long else "", "", snapshot.portal_look, voice, "", state, code, False,
            24 if is_long else 0, "on file" if has_payment else "", payment if has_payment else None, world.clock.now,
            has_proof=is_long, handover=handover if is_long and not code else None, may_be_cut=is_long,
        )  # fmt: skip
        with world.app.test_request_context("/done", headers={"Accept-Language": "zu"}):
            choose_language()
            values: dict[str, Any] = {"ending": ending, "v": "x", "is_open": True, "can_look": is_long}
            values["approved_at"] = snapshot.portal.shown_time(world.clock.now, world.clock.now)
            assert in_english(render_template("visitor/done.html", **values)) == []


@pytest.mark.parametrize("code", sorted(CUSTOMER_ERRORS))
def test_every_error(world: World, code: str) -> None:
    for status in (400, 410, 429, 503):
        with world.app.test_request_context("/j/app", headers={"Accept-Language": "zu"}):
            choose_language()
            html = error_page(code, status).get_data(as_text=True)
        assert [one for one in in_english(html) if not re.fullmatch(r"[0-9a-f ]+", one)] == []


def test_one_time_links(browser: ZuluBrowser, world: World) -> None:
    path = credential_link(world, "password")
    browser.get(path)
    browser.post(path, csrf_token="")
    browser.post(path, password=PASSWORD)
    browser.open_link(path)
    for password in ("", "short", "x" * 257, "aaaaaaaaaaaaaaaaaaaa", "seven kudus dance slowly"):
        browser.post(path, password=password, repeated=f"{password}!")
    ZuluBrowser(world).open_link(path)
    browser.get(path)
    ZuluBrowser(world).get(path)
    browser.post(path, password="seven kudus dance slowly", repeated="seven kudus dance slowly")
    browser.get(path)
    path = credential_link(world, "totp")
    browser.open_link(path)
    browser.post(path, code="000000")
    browser.post(path, code="000000", seed="another")
    browser.get(path)
    browser.post(path, code=code_of(world, seed_of(browser)))
    path = credential_link(world, "totp")
    browser.get(path)
    browser.post(path, decline="1")


def test_messages(world: World) -> None:
    texts = Texts("portal.example", ROOT / "templates", CompiledTemplates("messages."))
    for payment, journey_name in product((None, Payment("500.00", "ZAR", "N. Dlamini").shown("ZA")), ("App", "")):
        message = CodeMessage(
            "123456", "Acme Bank", journey_name, "", 300, "https://acme.example/help", payment=payment
        )
        for kind in ("sms", "email"):
            sent = texts.outgoing(kind, PHONE, message, "m", "zu")
            for text in (sent.subject, sent.text, sent.html):
                assert in_english(text) == []


# --- Templates, in every state


def words_outside(name: str) -> list[str]:
    """The words of a template that no function translates."""
    source = (ROOT / "templates" / name).read_text(encoding="utf-8")
    tree = Environment(extensions=["jinja2.ext.i18n"]).parse(source)
    reads = re.compile(r"[A-Z][a-z]|[^\W\d_]{2,}[,.!?:]? [^\W\d_]{2,}")
    found = [text for text in _constants(tree) if reads.search(text)]
    bare = re.sub(r"\{#.*?#\}|\{%-?\s*trans\b.*?endtrans\s*-?%\}|\{%.*?%\}|\{\{.*?\}\}", "", source, flags=re.DOTALL)
    bare = re.sub(r"<[^>]*>|[\w-]+=\"[^\"]*\"", "\n", bare)
    return found + re.findall(r"[A-Z][a-z].*|[^\W\d_]{2,} [^\W\d_]{2,}.*", bare)


def _constants(node: nodes.Node) -> Iterator[str]:
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name in KEYWORDS:
        return
    if isinstance(node, nodes.Const) and isinstance(node.value, str):
        yield node.value
    for child in node.iter_child_nodes():
        yield from _constants(child)


@pytest.mark.parametrize("name", customer_templates(ROOT / "templates"))
def test_a_template_has_no_words_of_its_own(name: str) -> None:
    assert words_outside(name) == []
