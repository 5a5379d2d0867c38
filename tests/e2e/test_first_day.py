"""From a fresh install to a verified conversation, by mouse and keyboard alone, with script and without.

The channel is a real SMTP server's, the customers come from a file, the journey is made by form, the chat is the
sandbox's. Nothing is prepared but what `auth-portal init` and `auth-portal admin create` leave.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from playwright.sync_api import Browser, Error, Page

from tests.e2e.office import Office
from tests.e2e.phone import HEIGHT, press
from tests.programs import ROOT
from tests.receiver import GIVE_UP_SECONDS
from tests.serving import Server, free_port

CUSTOMERS = """Client no.;Full name;Cell phone;E-mail
10001;Thandi Nkosi;082 123 4567;thandi@example.com
10002;Sipho Dlamini;083 123 4567;sipho@example.com
10003;Amahle Zulu;;amahle@example.com
"""
IMPORT = "Import 3 customers"


class Mailbox:
    """What a mail server took in."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], str, str]] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: object) -> str:
        mail = message_from_bytes(envelope.content, policy=default)  # type: ignore[attr-defined]
        body = mail.get_body(("plain",))
        self.mails.append((envelope.rcpt_tos, str(mail["subject"]), body.get_content() if body else ""))  # type: ignore[attr-defined]
        return "250 OK"

    def newest_to(self, address: str, subject: str = "", words: str = "") -> str:
        """The newest text to an address that has these words; waits for one."""
        until = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < until:
            found = [text for to, about, text in self.mails if address in to and subject in about and words in text]
            if found:
                return found[-1]
            time.sleep(0.05)
        raise AssertionError(f"no mail to {address}: {self.mails}")


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box, port = Mailbox(), free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, port
    controller.stop()


@pytest.fixture
def installed(tmp_path: Path, mailbox: tuple[Mailbox, int]) -> Iterator[tuple[Server, str]]:
    """A server on a fresh installation, and the link that `auth-portal admin create` printed."""
    settings = {
        "PORTAL_SANDBOX": "1",
        "PORTAL_ALLOW_PRIVATE_CALLBACKS": "0",
        "PORTAL_PRIVATE_TARGETS": f"127.0.0.1:{mailbox[1]}",
    }
    server = Server(tmp_path, "", server="gunicorn-preload", settings=settings, app="app:app", workers=2)
    assert flask(server, "init").returncode == 0
    created = flask(server, "admin", "create")
    assert created.returncode == 0, created.stderr
    server.start()
    yield server, created.stdout.strip()
    server.stop()


def flask(server: Server, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "flask"), "--app", "app", *command],
        cwd=ROOT, env=server.environment, capture_output=True, text=True, timeout=GIVE_UP_SECONDS, check=False,
    )  # fmt: skip


@pytest.mark.timeout(900)
@pytest.mark.parametrize("has_script", [True, False], ids=["script", "no script"])
def test_from_a_fresh_install_to_a_verified_conversation(
    installed: tuple[Server, str], mailbox: tuple[Mailbox, int], chromium: Browser, tmp_path: Path, *, has_script: bool
) -> None:
    server, link = installed
    box, port = mailbox
    context = chromium.new_context(viewport={"width": 1440, "height": HEIGHT}, java_script_enabled=has_script)
    office = Office(context, server.url)
    office.join(link)
    assert office.page.get_by_role("heading", name="Welcome, Ada").is_visible()
    make_a_channel(office, port)
    try_the_channel(office, box)
    import_customers(office, tmp_path)
    make_a_journey(office)
    assert box.newest_to("ada@example.com", "configuration was changed", "balance"), "owners are told (R19)"
    converse(office.context.new_page(), server, box, has_script=has_script)
    page = office.open("/admin/")
    assert "First steps" not in page.content()
    until = time.monotonic() + 30
    while page.locator("ol.stages .count").all_inner_texts() != ["1"] * 6:  # counts are written with each heartbeat
        assert time.monotonic() < until, page.locator("main").inner_text()
        page = office.open("/admin/")
    office.open("/admin/verifications").locator("main a[href^='/admin/verifications/']").first.click()
    assert "verified" in office.page.locator("main").inner_text()
    context.close()
    assert not office.faults, office.faults


def make_a_channel(office: Office, port: int) -> None:
    page = office.open("/admin/")
    page.get_by_role("link", name="Add a channel").click()
    page.get_by_role("link", name=re.compile("SMTP|mail server", re.IGNORECASE)).first.click()
    page.get_by_label("Name", exact=True).fill("mail")
    page.get_by_label("Mail server").fill("127.0.0.1")
    page.get_by_label("Port", exact=True).fill(str(port))
    page.get_by_label("Security").select_option("none")
    page.get_by_label("Sender").fill("Acme Bank <no-reply@acme.example>")
    office.press("Create the channel")


def try_the_channel(office: Office, box: Mailbox) -> None:
    page = office.page
    if "/admin/channels/mail" not in page.url:
        page = office.open("/admin/channels/mail")
    office.press("Send the test")
    assert "the channel works" in box.newest_to("ada@example.com", "test of the channel")


def import_customers(office: Office, folder: Path) -> None:
    file = folder / "clients.csv"
    file.write_text(CUSTOMERS, encoding="utf-8")
    page = office.open("/admin/imports")
    page.get_by_role("link", name="Set the default country").click()
    page.get_by_label("Default country").select_option("ZA")
    office.press("Save")
    page = office.open("/admin/imports")
    page.get_by_label("CSV file").set_input_files(file)
    office.press("Upload the file")
    page.get_by_label("Client no.").select_option(label="Customer ID")
    office.press("Check the file")
    waited_for(page, IMPORT)
    assert "3" in page.locator("main").inner_text()
    office.press(IMPORT)
    page.get_by_text("Undo this import").first.wait_for(timeout=GIVE_UP_SECONDS * 1000)
    assert "10003" in office.open("/admin/customers").locator("main").inner_text()


def waited_for(page: Page, button: str) -> None:
    """The page looks again by itself until there is this button."""
    try:
        page.get_by_role("button", name=button).first.wait_for(timeout=GIVE_UP_SECONDS * 1000)
    except Error:
        raise AssertionError(page.locator("main").inner_text()) from None


def make_a_journey(office: Office) -> None:
    page = office.open("/admin/journeys")
    page.get_by_role("link", name="New journey").click()
    page.get_by_label("Name customers see").fill("Check my balance")
    page.get_by_text("Choose the name in the link yourself").click()
    page.get_by_label("Name in the link").fill("balance")
    page.locator("#default-1").check()
    for kind in ("customer_id", "email"):
        page.locator(f"input[name=by][value={kind}]").check()
    page.locator("input[name=step1][value=email_code]").check()
    assert page.locator("#channel-1").input_value() == "mail"
    page.locator("input[name=server][value=sandbox]").check()
    office.press("Save the journey")
    assert "/admin/journeys/balance" in page.url, page.locator("main").inner_text()[:2000]
    assert "verified" in office.open("/admin/journeys/balance/setup").content()


def converse(page: Page, server: Server, box: Mailbox, *, has_script: bool) -> None:
    """The customer's side: a chat, its link, a code out of the mail, and the chat goes on."""
    page.goto(f"{server.url}/sandbox/")
    page.locator("input[name=journey][value=balance]").check()
    page.locator("details.options summary").click()
    page.get_by_label("How does the reference look").select_option("encoded")
    press(page, page.get_by_role("button", name="Start the chat"))
    chat = page.url.partition("?")[0]
    if has_script:  # the chat's own move would cancel the one to the link
        page.wait_for_url(re.compile("live=1"))
    page.goto(str(page.locator("a.link-card").last.get_attribute("href")))
    page.fill("#identifier", "10001")
    press(page, page.locator("form.main-form button.main"))
    code = re.search(r"\b\d{6}\b", box.newest_to("thandi@example.com"))
    assert code
    page.fill("#code", code.group())
    press(page, page.locator("form.main-form button.main"))
    assert "Done. Go back to your chat" in page.content()
    page.goto(chat)
    page.get_by_text("10001").first.wait_for(timeout=GIVE_UP_SECONDS * 1000)
