"""An admin in a hurry: from a fresh install to a verified chat, with a click for each field, and how many that takes.

The mail relay, the SMS provider, the workbook and the chat are real: an SMTP server, a server that answers as the
provider's documentation says, 200 rows of an `.xlsx`, and the sandbox's Flow.
"""

from __future__ import annotations

import io
import json
import re
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import trustme
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.office import PASSWORD, Office
from tests.e2e.phone import HEIGHT
from tests.e2e.test_first_day import Mailbox, flask, mailbox
from tests.receiver import wait_for
from tests.serving import Server

__all__ = ["mailbox"]  # the fixture

MOST_CLICKS = 60
PEOPLE = 200
NEWEST = PEOPLE - 1


class Provider:
    """A stand-in for Infobip, over TLS: takes SMS as its documentation says."""

    def __init__(self, authority: trustme.CA) -> None:
        self.sent: list[tuple[str, str]] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                is_right = self.path == "/sms/3/messages" and self.headers["Authorization"] == "App s3cr3t"
                (message,) = body["messages"]
                provider.sent += [(one["to"], message["content"]["text"]) for one in message["destinations"]]
                answer = json.dumps({"messages": [{"status": {"groupName": "PENDING"}}]}).encode()
                self.send_response(200 if is_right else 401)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def provider(authority: trustme.CA) -> Iterator[Provider]:
    running = Provider(authority)
    yield running
    running.close()


@pytest.fixture
def installed(tmp_path: Path, authority: trustme.CA) -> Iterator[tuple[Server, str]]:
    """A server on a fresh installation whose operator allows one network, and the link to its first owner."""
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    settings = {
        "PORTAL_SANDBOX": "1",
        "PORTAL_ALLOW_PRIVATE_CALLBACKS": "0",
        "PORTAL_PRIVATE_NETWORKS": "127.0.0.0/8",
        "PORTAL_CA_BUNDLE": str(bundle),
    }
    server = Server(tmp_path, "", server="gunicorn-preload", settings=settings, app="app:app", workers=1)
    assert flask(server, "init").returncode == 0
    created = flask(server, "admin", "create")
    assert created.returncode == 0, created.stderr
    server.start()
    yield server, created.stdout.strip()
    server.stop()


@dataclass
class Hand:
    """Mouse and keyboard of one person, and what they were used for. Nothing else touches the pages."""

    page: Page
    used: Counter[str] = field(default_factory=Counter)

    def click(self, where: Locator) -> None:
        self.used["clicks"] += 1
        where.click()

    def press(self, name: str, within: str = "") -> None:
        """Click a button or a link that leads to the next page; ``within`` is the heading of its card."""
        place = self.page.locator("main section", has_text=within) if within else self.page.locator("main")
        found = place.get_by_role("button", name=name).or_(place.get_by_role("link", name=name))
        with self.page.expect_navigation():
            self.click(found.first)

    def go(self, name: str) -> None:
        """Click an entry of the menu."""
        with self.page.expect_navigation():
            self.click(self.page.locator("nav").get_by_role("link", name=re.compile(f"^{name}")).first)

    def keys(self, text: str) -> None:
        self.used["keys"] += len(text)
        self.page.keyboard.type(text)

    def enter(self, label: str, text: str, *, replace: bool = False) -> None:
        """Click a field and type."""
        self.click(self.page.get_by_label(label, exact=True))
        if replace:
            self.used["keys"] += 1
            self.page.keyboard.press("Control+a")
        self.keys(text)

    def choose(self, label: str, text: str) -> None:
        """Choose from a list by its first letters."""
        found = self.page.get_by_label(label, exact=True)
        self.used["clicks"] += 1
        found.focus()  # a click would open the system's own list, which no test can see
        self.keys(text)
        expect(found.locator("option:checked")).to_have_text(re.compile(f"^{text}"))


@pytest.mark.timeout(900)
def test_from_a_fresh_install_to_a_verified_chat_within_sixty_clicks(
    installed: tuple[Server, str],
    mailbox: tuple[Mailbox, int],
    provider: Provider,
    chromium: Browser,
) -> None:
    server, link = installed
    box, port = mailbox
    office = Office(chromium.new_context(viewport={"width": 1440, "height": HEIGHT}), server.url)
    hand = Hand(office.page)
    join(hand, office, link)
    hand.enter("Name of your business", "Acme Bank", replace=True)
    hand.choose("Country of most phone numbers", "South Africa")
    hand.press("Save and go on")
    add_the_mail_relay(hand, port)
    assert "the channel works" in box.newest_to("ada@example.com", "test of the channel")
    add_the_sms_provider(hand, provider)
    import_customers(hand)
    make_a_journey(hand)
    chat = converse(Hand(office.context.new_page(), hand.used), server, provider)
    expect(chat.get_by_text("10199").first).to_be_visible()
    office.context.close()
    assert not office.faults, office.faults
    assert hand.used["clicks"] <= MOST_CLICKS, hand.used


def join(hand: Hand, office: Office, link: str) -> None:
    hand.page.goto(link)
    hand.press("Start")
    office.seed = hand.page.input_value("#key").replace(" ", "")
    for label, text in (
        ("Your name", "Ada Owner"),
        ("Your email address", office.email),
        ("Password", PASSWORD),
        ("Password again", PASSWORD),
    ):
        hand.enter(label, text)
    hand.enter("Code in your app", office.second_factor())
    hand.press("Set up my sign-in")
    hand.click(hand.page.get_by_label("I have printed or saved them"))
    hand.press("Go to the home page")


def add_the_mail_relay(hand: Hand, port: int) -> None:
    hand.press("Add a channel")
    hand.press("Mail server")
    hand.enter("Name", "mail")
    hand.enter("Mail server", "127.0.0.1")
    hand.enter("Port", str(port), replace=True)
    hand.choose("Security", "none")
    hand.enter("Sender", "Acme Bank <no-reply@acme.example>")
    hand.press("Create the channel")
    hand.press("Send the test")


def add_the_sms_provider(hand: Hand, provider: Provider) -> None:
    hand.go("Channels")
    hand.press("Infobip")
    hand.enter("Base URL", provider.host)
    hand.enter("API key", "s3cr3t")
    hand.enter("Sender", "Acme")
    hand.enter("Daily cap", "5000")
    hand.press("Create the channel")
    hand.enter("Your mobile number", "0821234567")
    hand.press("Send the test")
    to, text = wait_for(lambda: provider.sent[-1] if provider.sent else None)
    assert (to, "the channel works" in text) == ("27821234567", True)


def import_customers(hand: Hand) -> None:
    book = openpyxl.Workbook()
    sheet: Any = book.active
    sheet.append(["Client no.", "Full name", "Cell phone", "E-mail"])
    for n in range(PEOPLE):
        sheet.append([10_000 + n, f"Person {n}", f"082 555 {n:04d}", f"person{n}@example.com"])
    content = io.BytesIO()
    book.save(content)
    hand.go("Import")
    with hand.page.expect_file_chooser() as chooser:
        hand.click(hand.page.get_by_label(re.compile("^Workbook or CSV file")))
    hand.used["clicks"] += 1  # on the file in the system's own window
    chooser.value.set_files({"name": "clients.xlsx", "mimeType": "application/zip", "buffer": content.getvalue()})
    hand.press("Upload the file")
    if hand.page.get_by_label("Client no.", exact=True).input_value() != "customer_id":
        hand.choose("Client no.", "Customer ID")
    hand.press("Check the file")
    expect(hand.page.get_by_role("button", name=f"Import {PEOPLE} customers")).to_be_visible()
    hand.press(f"Import {PEOPLE} customers")
    expect(hand.page.get_by_text("Undo this import").first).to_be_visible()


def make_a_journey(hand: Hand) -> None:
    hand.go("Journeys")
    hand.press("New journey")
    hand.enter("Name customers see", "Check my balance")
    hand.click(hand.page.locator("input[name=step1][value=sms_code]"))
    hand.click(hand.page.locator("input[name=step1][value=email_code]"))
    hand.click(hand.page.locator("input[name=server][value=sandbox]"))
    hand.press("Save the journey")
    expect(hand.page).to_have_url(re.compile("/admin/journeys/check-my-balance$"))


def converse(hand: Hand, server: Server, provider: Provider) -> Page:
    """Walk through the chat as a customer does."""
    page = hand.page
    page.goto(f"{server.url}/sandbox/")
    hand.press("Start the chat")
    page.wait_for_url(re.compile("live=1"))
    with page.context.expect_page() as opened:
        hand.click(page.locator("a.link-card").last)
    phone = Hand(opened.value, hand.used)
    phone.enter("Customer number", str(10_000 + NEWEST))
    phone.press("Send me a code by SMS")
    to = f"2782555{NEWEST:04d}"
    text = wait_for(lambda: next((text for number, text in provider.sent if number == to), None))
    code = re.search(r"\b\d{6}\b", text)
    assert code, text
    phone.click(phone.page.locator("#code"))
    phone.keys(code[0])
    with phone.page.expect_navigation():
        phone.click(phone.page.locator("form.main-form button.main"))
    expect(phone.page.get_by_text("Go back to your chat")).to_be_visible()
    return page
