"""Codes that travel by real SMTP and by Clickatell's API, and what people see when a channel is down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from auth_portal.services.delivery.texts import SMS_LENGTH, CodeMessage, gsm, sms_text
from auth_portal.store.models import Attempt, ChannelState, Delivery
from tests.receiver import Receiver, wait_for
from tests.serving import free_port
from tests.world import PHONE, World, journey, open_world

SMTP = """
[[channels]]
name = "mail"
kind = "smtp"
host = "127.0.0.1"
port = {port}
security = "none"
username = ""
password = ""
sender = "Acme Bank <no-reply@acme.example>"
"""
CLICKATELL = """
[[channels]]
name = "sms"
kind = "clickatell"
base_url = "{receiver}"
api_key = "the-key"
countries = ["ZA"]
daily_cap = 5000
"""


class Mailbox:
    """Keeps what an SMTP server is given."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    kept, port = Mailbox(), free_port()
    controller = Controller(kept, hostname="127.0.0.1", port=port)
    controller.start()
    yield kept, port
    controller.stop()


def test_a_code_by_smtp(tmp_path: Path, sqlite_url: str, receiver: Receiver, mailbox: tuple[Mailbox, int]) -> None:
    kept, port = mailbox
    config = SMTP.format(port=port) + journey("mail", "email_code", default=True, channels=("mail",))
    with open_world(tmp_path, sqlite_url, receiver, config=config, base="") as world:
        browser = world.browser()
        browser.begin("abc")
        (mail,) = wait_for(lambda: kept.mails)
        code = mail["Subject"].split()[0]
        assert re.fullmatch(r"\d{6}", code)
        assert mail["From"] == "Acme Bank <no-reply@acme.example>"
        for part in ("plain", "html"):
            text = mail.get_body((part,)).get_content()  # type: ignore[union-attr]
            assert code in text
            assert "Acme Bank" in text
            assert "5 minutes" in text
            assert "Never share this code" in text
        browser.prove(code)
        wait_for(lambda: receiver.callbacks)
        assert receiver.callbacks[0].body["data"]["method"] == "email_code"


def test_a_code_by_clickatell(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    config = CLICKATELL + journey("sms", "sms_code", default=True, channels=("sms",))
    with open_world(tmp_path, sqlite_url, receiver, config=config, base="") as world:
        browser = world.browser()
        browser.begin("abc")
        (request,) = wait_for(lambda: receiver.platform)
        (message,) = json.loads(request["body"])["messages"]
        assert request["authorization"] == "the-key"
        assert message["to"] == PHONE.removeprefix("+")
        assert message["channel"] == "sms"
        browser.prove(message["content"].split()[0])
        assert browser.path == "/done"


def test_an_unreachable_mail_server_is_told_to_everybody_alike(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    config = SMTP.format(port=free_port()) + journey("mail", "email_code|totp", default=True, channels=("mail",))
    with open_world(tmp_path, sqlite_url, receiver, config=config, base="") as world:
        browser = world.browser()
        browser.begin("abc")
        browser.post("/verify/method", method="email_code")
        wait_for(lambda: [row for row in world.rows(ChannelState) if row.failures_in_row >= 2])
        assert "having trouble sending" in browser.get("/verify").text
        stranger = world.browser()
        stranger.begin("def", identifier="C-404")
        stranger.post("/verify/method", method="email_code")
        assert "having trouble sending" in stranger.page.text
        (message,) = [
            row for row in world.rows(Delivery) if row.kind == "message" and row.reason != "no contact to send to"
        ]
        told = [row.detail for row in world.rows(Attempt) if row.delivery_id == message.id]
        assert message.target == "mail"
        assert "refused" in told[0]
        browser.get("/verify")
        browser.post("/verify/method", method="totp")
        browser.prove(world.totp())
        wait_for(lambda: receiver.callbacks)


def test_a_message_lives_no_longer_than_its_code(small_world: World) -> None:
    small_world.receiver.sms_answers = [503] * 50
    browser = small_world.browser()
    browser.begin("abc")
    wait_for(lambda: len(small_world.rows(Attempt)) >= 2)

    def has_ended() -> bool:
        small_world.clock.advance(10)
        return next(row.state for row in small_world.rows(Delivery) if row.kind == "message") != "pending"

    wait_for(has_ended)
    message = next(row for row in small_world.rows(Delivery) if row.kind == "message")
    assert message.state == "given_up"


@pytest.mark.parametrize(
    "portal", ["Acme Bank", "Société Générale d'Épargne et de Crédit du Sénégal, S.A.R.L.", "北京" * 30]
)
@pytest.mark.parametrize("name", ["Check", "A very long name of a journey that somebody thought of, sixty c"])
@pytest.mark.parametrize("host", ["x.co", "verify." + "a" * 50 + ".example.com"])
def test_an_sms_is_one_message_with_the_line_that_fills_itself_in(portal: str, name: str, host: str) -> None:
    text = sms_text(CodeMessage("1234567890", portal[:60], name, host, 300))
    assert len(text) <= SMS_LENGTH
    assert text == gsm(text)
    assert text.splitlines()[-1] == f"@{host} #1234567890"
    assert text.startswith("1234567890 ")
    assert "Never share this code" in text
    assert "5 min" in text
    assert portal[:4] in text or not portal.isascii()
