"""A customer's phone: a browser of 360 px that drives the sandbox's chat and the portal's pages.

What it meets on its way is held against the rules of every page: see ``faults_of``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyotp
import requests
from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Page, Response

from tests.receiver import GIVE_UP_SECONDS
from tests.serving import Server

WIDTHS = (320, 360)
HEIGHT = 740
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-quic", "--no-first-run",
)  # fmt: skip
MISSING = (
    "The browser tests need Chromium, and {path} is not there. "
    "Install it (Debian, Ubuntu: apt-get install chromium), or run `make test`, which does."
)
CODE = re.compile(r"\b\d{6,10}\b")

RULES = r"""() => {
  const faults = [], each = (selector, look) => document.querySelectorAll(selector).forEach(look);
  const say = (text, element) => faults.push(text + (element ? ": " + element.outerHTML.slice(0, 120) : ""));
  if (!document.title.trim()) say("no title");
  if (!document.documentElement.lang) say("no lang");
  if (!document.querySelector("meta[name=viewport]")) say("no viewport");
  if (document.querySelectorAll("h1").length !== 1) say("not exactly one h1");
  if (document.querySelectorAll("main").length !== 1) say("not exactly one main");
  if (document.querySelector("meta[http-equiv=refresh i]")) say("meta refresh");
  each("input:not([type=hidden]), select, textarea", (e) => {
    if (!e.closest("[aria-hidden=true]") && !(e.labels && e.labels.length)) say("no label", e);
  });
  each("button, a", (e) => { if (!e.textContent.trim()) say("no text", e); });
  each("img", (e) => {
    if (!e.hasAttribute("alt")) say("no alt", e);
    if (e.complete && !e.naturalWidth) say("broken picture", e);
  });
  each("style, [style]", (e) => say("inline style", e));
  each("script:not([src])", (e) => say("inline script", e));
  each("*", (e) => {
    for (const { name, value } of e.attributes) {
      if (name.startsWith("on")) say("inline handler", e);
      if (/^\s*(javascript|data):/i.test(value)) say("a javascript: or data: address", e);
    }
  });
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) say("id twice: " + id);
  each("[aria-describedby]", (e) => {
    for (const id of e.getAttribute("aria-describedby").split(/\s+/))
      if (!document.getElementById(id)) say("described by nothing", e);
  });
  each("form[method=post i]", (e) => { if (!e.querySelector("input[name=csrf_token]")) say("no csrf_token", e); });
  return faults;
}"""
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const wide = [...document.querySelectorAll("main *, header *, footer *")]
    .filter((e) => e.getBoundingClientRect().right > width + 1);
  return ["wider than " + width + " px: " + wide.slice(0, 3).map((e) => e.outerHTML.slice(0, 90)).join(" | ")];
}"""
# Texts of one row or list that lie on each other.
OVERLAPPING = """() => {
  const found = [];
  for (const row of document.querySelectorAll("main :is(tr, dl, .head)")) {
    const texts = [], walk = document.createTreeWalker(row, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const node = walk.currentNode;
      if (!node.data.trim() || !node.parentElement.checkVisibility({ visibilityProperty: true })) continue;
      if (node.parentElement.closest("table") !== row.closest("table")) continue;
      const hidden = "thead, caption, .visually-hidden, details:not([open]) > :not(summary)";
      const parent = node.parentElement;
      if (parent.closest(hidden) || parent.matches("details:not([open])")) continue;
      if (parent.getBoundingClientRect().width < 4) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      for (const box of range.getClientRects()) if (box.width > 4 && box.height > 4) texts.push([box, node]);
    }
    for (const [a, one] of texts) for (const [b, other] of texts) {
      if (one === other) continue;
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      if (across > 2 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
        found.push(`“${one.data.trim().slice(0, 30)}” lies on “${other.data.trim().slice(0, 30)}”`);
    }
  }
  return found.slice(0, 3);
}"""

_LOOKED_AT: set[tuple[str, int, bool]] = set()


@dataclass(frozen=True)
class Person:
    """Somebody of the test's own: whom other tests verify does not matter to their limits."""

    customer_id: str
    phone: str
    email: str
    totp_secret: str
    password: str = "acacia under the moon"

    COLUMNS: ClassVar = ("customer_id", "phone", "email", "totp_secret", "password")

    @classmethod
    def with_number(cls, number: int) -> Person:
        """A person who shares nothing with one of another number."""
        return cls(f"E-{number:03}", f"+27825550{number:03}", f"e{number:03}@example.com", pyotp.random_base32())

    def totp(self) -> str:
        """What their authenticator app shows, with a few seconds left to type it."""
        if 30 - time.time() % 30 < 3:
            time.sleep(3)
        return pyotp.TOTP(self.totp_secret).now()


@dataclass
class Chat:
    """A conversation of the sandbox, seen as scripts see it."""

    url: str
    id: str
    link: str
    reference: str

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(
            f"{self.url}/sandbox/conversations/{self.id}", timeout=GIVE_UP_SECONDS
        ).json()
        return found

    def answered(self, *, round_: int = 1) -> dict[str, Any]:
        """The state once the flow has gone on."""
        return waited(
            lambda: found if (found := self.state())["state"] != "waiting" and found["round"] == round_ else None
        )

    @property
    def said(self) -> str:
        """The last thing that the business said."""
        return [line["text"] for line in self.state()["messages"] if line["from"] == "business"][-1]


@dataclass
class Sandbox:
    """What surrounds a browser: the chat that sends it a link, and the messages that reach its owner."""

    server: Server

    def begin(self, journey: str = "balance", style: str = "encoded", **fields: str) -> Chat:
        """A chat that has just been sent its link."""
        answer = requests.post(
            f"{self.server.url}/sandbox/conversations", timeout=GIVE_UP_SECONDS,
            json={"journey": journey, "reference_style": style, **fields},
        ).json()  # fmt: skip
        return Chat(self.server.url, answer["id"], answer["link"], answer["reference"])

    def code_sent_to(self, address: str, *, count: int = 1) -> str:
        """The code of the newest of so many messages."""
        return waited(lambda: self._newest_code(address, count))

    def messages_to(self, address: str) -> list[dict[str, str]]:
        """What a phone or mailbox got so far, the newest first."""
        answer = requests.get(f"{self.server.url}/sandbox/inbox.json", params={"to": address}, timeout=GIVE_UP_SECONDS)
        found: list[dict[str, str]] = answer.json()["messages"]
        return found

    def _newest_code(self, address: str, count: int) -> str | None:
        found = self.messages_to(address)
        return CODE.search(found[0]["text"]).group() if len(found) >= count else None  # type: ignore[union-attr]


@dataclass
class Phone(Sandbox):
    """One browser of one person, whose every page is looked at."""

    context: BrowserContext
    has_script: bool = True
    has_one_tab: bool = False  # a tab costs more than all that is done in it
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.set_default_timeout(GIVE_UP_SECONDS * 1000)
        self.context.on("page", self._watch)

    def _watch(self, page: Page) -> None:
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.faults.append(f"script fault: {error}"))
        page.on("response", self._answered)

    def _heard(self, message: ConsoleMessage) -> None:
        # What the server answered is watched by itself, where a page's own 422 can be told from a missing file.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.faults.append(f"console: {message.text}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and not response.request.is_navigation_request():
            self.faults.append(f"{response.status} for {response.url}")
        if response.status >= 500:
            self.faults.append(f"{response.status} for {response.url}")

    def look_at(self, page: Page) -> None:
        """Holds the page against the rules of every page; what it found is said at the end of the test.

        Each kind of page once in a process: a second look at the same page finds the same and costs as much.
        """
        kind = (page.title(), page.locator("form").count(), self.has_script)
        if kind not in _LOOKED_AT:
            self.faults += [f"{kind[0]}: {fault}" for fault in faults_of(page)]
            _LOOKED_AT.add(kind)

    def open(self, address: str) -> Page:
        """A new tab, or the one tab of a phone that keeps to it."""
        page = self.context.pages[0] if self.has_one_tab and self.context.pages else self.context.new_page()
        page.goto(address if address.startswith("http") else self.server.url + address)
        return page

    def begin_by_hand(self, journey: str, number: str = "") -> tuple[Chat, Page]:
        """The same as people do it: from the sandbox's start, with references as the browser can carry them.

        ``number`` is the phone that the chat is on, one of those on the page.
        """
        home = self.open("/sandbox/")
        self.look_at(home)
        home.locator(f"input[name=journey][value={journey}]").check()
        home.locator("details.options summary").click()
        home.get_by_label("How does the reference look").select_option("raw" if self.has_script else "encoded")
        if number:
            home.get_by_label("Whose phone is the chat on").select_option(number)
        press(home, home.get_by_role("button", name="Start the chat"))
        found = requests.get(
            f"{self.server.url}/sandbox/conversations/{_last_part(home.url)}", timeout=GIVE_UP_SECONDS
        ).json()
        return Chat(self.server.url, found["id"], found["link"], found["reference"]), home

    def tap_link(self, chat_page: Page) -> Page:
        """The card in the chat opens the portal in a tab of its own."""
        with self.context.expect_page() as opened:
            chat_page.locator("a.link-card").last.click()
        page = opened.value
        page.locator(".safe").wait_for()
        return page

    def name(self, page: Page, person: Person, *, chooses: bool = False) -> None:
        """Says who it is, and takes the first method, or asks which others there are."""
        page.fill("#identifier", person.customer_id)
        press(page, page.locator(f"form.main-form button{'[value=choose]' if chooses else '.main'}"))

    def prove(self, page: Page, method: str, person: Person) -> None:
        """Answers the prompt that the page shows."""
        if method == "password":
            page.fill("#password", person.password)
        else:
            page.fill("#code", self.proof_of(method, person))
        press(page, page.locator("form.main-form button.main"))

    def proof_of(self, method: str, person: Person) -> str:
        """A code that is right now."""
        if method == "totp":
            return person.totp()
        return self.code_sent_to(person.phone if method == "sms_code" else person.email)

    def choose(self, page: Page, method: str) -> None:
        """Takes a way to prove it."""
        press(page, page.locator(f"button[name=method][value={method}]"))

    def help(self, page: Page) -> str:
        """Says what the help page of this browser's visit shows, which has the tries that are left."""
        v = page.locator("input[name=v]").first.input_value()
        answer = page.request.get(f"{self.server.url}/verify/help?v={v}")
        assert answer.ok
        return answer.text()

    def says_not_me(self, page: Page) -> None:
        """Says that it was not them, and confirms it."""
        press(page, page.locator(".safe a"))
        self.look_at(page)
        press(page, page.locator("button.stop"))


def _last_part(url: str) -> str:
    return url.partition("?")[0].rsplit("/", 1)[-1]


def press(page: Page, button: Locator) -> None:
    """Presses a button that leads to the next page, and waits for it."""
    with page.expect_navigation():
        button.click()


def waited(look: Callable[[], Any]) -> Any:
    """What ``look`` finds in the end."""
    until = time.monotonic() + GIVE_UP_SECONDS
    while not (found := look()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)
    return found


def faults_of(page: Page) -> list[str]:
    """What is wrong with a page by the rules that hold for every one."""
    found: list[str] = list(page.evaluate(RULES))
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        found += page.evaluate(TOO_WIDE)
    return found
