"""Every language on a narrow screen, with the text at its size and at twice that: nothing scrolls sideways or is cut.

A page is reached once. Its other languages are fetched, as the browser would that asks for them, and take its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from auth_portal.i18n import complete_languages
from tests.e2e.conftest import Portal
from tests.e2e.phone import Phone
from tests.e2e.test_pages import PAGES, REFUSED, wrong_code

NARROW = {"width": 320, "height": 640}
# Text may not leave the screen, nor the box of what is pressed or of the part of the page that holds it.
OVERFLOWS = """() => {
  const root = document.documentElement, faults = [];
  const boxes = "button, .button, .cell span, .who, .receipt, .sheet, .band, .strip, footer";
  for (const percent of [100, 200]) {
    root.style.fontSize = `${percent}%`;
    const width = root.clientWidth, texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const say = (words) => faults.push(`${root.lang}, ${document.title}, at ${percent} %: ${words}`);
    if (root.scrollWidth > width) say(`${root.scrollWidth} px wide`);
    while (texts.nextNode()) {
      const text = texts.currentNode, holder = text.parentElement, range = document.createRange();
      if (!text.data.trim() || holder.closest("script, noscript, .visually-hidden") || !holder.checkVisibility()) continue;
      const { left, right } = holder.closest(boxes).getBoundingClientRect();
      range.selectNodeContents(text);
      if ([...range.getClientRects()].some(
        (at) => at.left < Math.max(left, 0) - 1 || at.right > Math.min(right, width) + 1)) say(text.data.trim());
    }
  }
  return faults;
}"""
# The answer to a form is had by sending the form again.
IN_ALL_LANGUAGES = f"""async ([languages, isAnswer]) => {{
  const overflows = {OVERFLOWS}, root = document.documentElement, faults = [];
  for (const language of languages) {{
    const options = {{ headers: {{ "Accept-Language": language }}, cache: "no-store" }};
    if (isAnswer) {{
      options.method = "POST";
      options.body = new URLSearchParams(new FormData(document.querySelector("form.main-form")));
    }}
    const answer = await fetch(isAnswer ? document.querySelector("form.main-form").action : location.href, options);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    root.lang = page.documentElement.lang;
    root.dir = page.documentElement.dir;
    document.title = page.title;
    document.body.replaceWith(page.body);
    if (root.lang !== language) faults.push(`${{document.title}} is in ${{root.lang}}, not ${{language}}`);
    if (isAnswer && !document.querySelector("[role=alert]")) faults.push(`${{document.title}}: no fault in ${{language}}`);
    faults.push(...overflows());
  }}
  return faults;
}}"""
# The pages that differ most in their parts and their words.
WAYS = {
    "landing": ("landing", "a fault", "payment", "languages"),
    "proving": ("choosing", "changing", "help with an SMS", "it was not me"),
    "steps": ("terms", "declining terms", "question without an answer", "question in own words", "scale", "handover"),
    "done": ("verified", "chat code", "not me"),
}
ANSWERS = ("a fault", "question without an answer")
LANGUAGES = complete_languages()


@pytest.fixture
def narrow_phone(roboto: Browser, portal: Portal) -> Iterator[Phone]:
    context = roboto.new_context(viewport=NARROW, is_mobile=True, has_touch=True)  # type: ignore[arg-type]
    phone = Phone(portal, context, has_one_tab=True)
    yield phone
    context.close()
    # Faults and refusals are fetched here, so their status is none.
    assert [fault for fault in phone.faults if not re.match(r"4\d\d for ", fault)] == []


@pytest.mark.parametrize("group", WAYS)
def test_no_language_overflows_on_a_narrow_screen_with_large_text(
    narrow_phone: Phone, portal: Portal, group: str
) -> None:
    faults = []
    for name in WAYS[group]:
        page = PAGES[group][name](narrow_phone, portal.new_person())
        faults += page.evaluate(IN_ALL_LANGUAGES, [LANGUAGES, name in ANSWERS])
    assert faults == []


def test_no_refusal_overflows_in_any_language(narrow_phone: Phone) -> None:
    faults = []
    for path in REFUSED:
        if not path.startswith("/sandbox"):
            faults += narrow_phone.open(path).evaluate(IN_ALL_LANGUAGES, [LANGUAGES, False])
    assert faults == []


def test_a_wrong_code_overflows_in_no_language(narrow_phone: Phone, portal: Portal) -> None:
    """It is one of a few tries, so each language has a visit of its own."""
    faults = []
    for language in LANGUAGES:
        narrow_phone.context.set_extra_http_headers({"Accept-Language": language})
        page = wrong_code(narrow_phone, portal.new_person())
        assert page.get_by_role("alert").count() == 1
        faults += page.evaluate(OVERFLOWS)
    assert faults == []
