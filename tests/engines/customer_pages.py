"""The main way of a customer, and what script adds to it, in engines of which the tests of Chromium say nothing."""

from __future__ import annotations

from html import escape

import pytest
import requests

from tests.e2e.conftest import Portal
from tests.e2e.phone import Chat, Person, Sandbox, waited
from tests.engines.drivers import Engine
from tests.receiver import GIVE_UP_SECONDS

MAIN = "form.main-form button.main"
BAND = "rgb(11, 79, 138)"
# The windows of these engines cannot be as narrow as a phone, so the page itself is.
LEAVES_A_NARROW_SCREEN = """(() => {
  const root = document.documentElement, found = [];
  root.style.width = "320px";
  for (const percent of [100, 200]) {
    root.style.fontSize = `${percent}%`;
    const { left, right } = root.getBoundingClientRect();
    for (const element of document.querySelectorAll("body *:not(.visually-hidden, .code input)")) {
      const at = element.getBoundingClientRect();
      if (at.width && (at.left < left - 1 || at.right > right + 1)) found.push(`${percent} %: ${element.outerHTML.slice(0, 90)}`);
    }
  }
  root.removeAttribute("style");
  return found;
})()"""


@pytest.fixture
def sandbox(portal: Portal) -> Sandbox:
    return Sandbox(portal)


def at_code(engine: Engine, sandbox: Sandbox, person: Person) -> Chat:
    chat = sandbox.begin("balance")
    engine.open(chat.link)
    engine.enter("#identifier", person.customer_id)
    engine.press(MAIN)
    assert engine.text("h1") == "Enter the code we sent you"
    assert engine.script("document.activeElement.id") == "code"
    return chat


def assert_fits(engine: Engine) -> None:
    """The page's own styles took effect, and nothing leaves the screen of the narrowest phone with large text."""
    assert engine.script("getComputedStyle(document.querySelector('.band')).backgroundColor") == BAND
    assert engine.script(LEAVES_A_NARROW_SCREEN) == []


def test_a_code_by_sms_is_tried_and_then_right(engine: Engine, sandbox: Sandbox, person: Person) -> None:
    chat = at_code(engine, sandbox, person)
    assert_fits(engine)
    code = int(sandbox.code_sent_to(person.phone))
    engine.enter("#code", f"{(code + 1) % 10**6:06}")
    engine.press(MAIN)
    assert "isn't the code" in engine.text("[role=alert]")
    assert engine.script("document.activeElement.id") == "code"
    engine.script("location.reload()")  # sends nothing again: script has put the page's own address in place
    engine.gone("[role=alert]")
    engine.enter("#code", f"{code:06}")
    engine.press(MAIN)
    assert engine.text("h1") == "Done. Go back to your chat"
    engine.shows("#state", "Your chat has your answer.")  # script asks until it is so
    assert_fits(engine)
    assert chat.answered()["result"] == "verified"


def test_terms_are_accepted(engine: Engine, sandbox: Sandbox) -> None:
    chat = sandbox.begin("terms")
    engine.open(chat.link)
    engine.press(MAIN)
    assert engine.text("h1") == "Read and accept the savings terms"
    engine.click("input[name=accept]")
    engine.press(MAIN)
    assert engine.text("h1") == "Thanks. Go back to your chat"
    assert chat.answered()["result"] == "completed"


def test_a_question_is_answered_on_a_scale(engine: Engine, sandbox: Sandbox) -> None:
    """Its circles are not seen: the numbers over them are pressed."""
    chat = sandbox.begin("survey")
    engine.open(chat.link)
    engine.press(MAIN)
    engine.click("label.choice")
    engine.press(MAIN)
    engine.click(".cell:last-child")
    assert engine.script("document.querySelector('.cell:last-child input').checked")
    engine.press(MAIN)
    engine.enter("form.main-form textarea", "Nothing")
    engine.press(MAIN)
    assert engine.text("h1") == "Thanks. Go back to your chat"
    assert chat.answered()["data"]["recommend"] == "10"


def test_the_language_becomes_arabic_in_the_middle(engine: Engine, sandbox: Sandbox, person: Person) -> None:
    at_code(engine, sandbox, person)
    engine.press("a.language")
    engine.press("button[name=lang][value=ar]")
    assert engine.script("[document.documentElement.lang, document.documentElement.dir].join()") == "ar,rtl"
    assert engine.script("getComputedStyle(document.querySelector('.sheet')).direction") == "rtl"
    assert engine.script("getComputedStyle(document.querySelector('#code')).direction") == "ltr"
    assert_fits(engine)
    engine.enter("#code", sandbox.code_sent_to(person.phone))
    engine.press(MAIN)
    assert engine.script("document.documentElement.lang") == "ar"
    assert engine.script("document.querySelectorAll('.seal.good').length") == 1


@pytest.mark.parametrize("tail", ["#", "#nK="])
def test_a_reference_reaches_flow_with_what_follows_its_hash(engine: Engine, sandbox: Sandbox, tail: str) -> None:
    whole = f"{engine.name}-{len(tail)}={tail}"
    engine.open(f"{sandbox.server.url}/j/app?reference={whole}")
    engine.press(".safe a")
    engine.press("button.stop")
    page = f"{sandbox.server.url}/sandbox/"
    assert waited(lambda: f">{escape(whole)}<" in requests.get(page, timeout=GIVE_UP_SECONDS).text)
