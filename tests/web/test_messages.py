"""Codes that travel by real SMTP and by Clickatell's API, and what people see when a channel is down."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from hypothesis import given
from hypothesis import strategies as st

from auth_portal.services.delivery.texts import (
    GSM_7,
    UCS_2,
    CodeMessage,
    gsm,
    measured,
    notice_sms,
    sms_text,
)
from auth_portal.services.directory.fields import change_notices
from auth_portal.store.models import Attempt, ChannelState, CustomerRow, Delivery
from tests.admin.desk import signed_in
from tests.admin.test_settings import FORM as SETTINGS
from tests.languages import all_texts
from tests.receiver import Receiver, wait_for
from tests.serving import free_port
from tests.world import CONFIG, PHONE, STANDARD, World, journey, open_world
from translations.catalogs import ids_of

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


HOSTS = ["x.co", "verify." + "a" * 50 + ".example.com"]


@pytest.mark.parametrize("portal", ["Acme Bank", "Société Générale d'Épargne et de Crédit du Sénégal, S.A.R.L."])
@pytest.mark.parametrize("name", ["Check", "A very long name of a journey that somebody thought of, sixty c"])
@pytest.mark.parametrize("host", HOSTS)
def test_an_sms_is_one_message_with_the_line_that_fills_itself_in(portal: str, name: str, host: str) -> None:
    sms = sms_text(CodeMessage("1234567890", portal[:60], name, host, 300))
    assert (sms.encoding, sms.parts) == (GSM_7, 1)
    assert len(sms.text) <= 160
    assert sms.text == gsm(sms.text)
    assert sms.text.splitlines()[-1] == f"@{host} #1234567890"
    assert sms.text.startswith("1234567890 ")
    assert "Never share this code" in sms.text
    assert "5 min" in sms.text
    assert portal[:4] in sms.text


@pytest.mark.parametrize(
    ("portal", "latin_name", "shown", "encoding", "parts"),
    [
        ("بنك مصر", "", "بنك مصر", UCS_2, 2),
        ("بنك مصر", "Banque Misr", "Banque Misr", GSM_7, 1),
        ("Łódź Bank", "", "Lodz Bank", GSM_7, 1),
        ("Łódź Bank", "Other", "Lodz Bank", GSM_7, 1),
        ("Сбербанк", "", "Сбербанк", UCS_2, 2),
        ("北京银行", "", "北京银行", UCS_2, 2),
        ("भारतीय स्टेट बैंक", "", "भारतीय स्टेट बैंक", UCS_2, 2),
        ("Acme 🏦 Bank", "", "your Acme Bank code", GSM_7, 1),
        ("🏦", "", "is your code", GSM_7, 1),
        ("Ba\u0301nk\u00a0½ “x”", "", 'your Bank 1/2 "x" code', GSM_7, 1),
        ("A{b}", "", "your A{b} code", GSM_7, 1),
    ],
)
def test_a_name_keeps_its_script_and_decides_the_encoding(
    portal: str, latin_name: str, shown: str, encoding: str, parts: int
) -> None:
    sms = sms_text(CodeMessage("482913", portal, "Check", "verify.acme.example", 300, latin_name=latin_name))
    assert shown in sms.text
    assert (sms.encoding, sms.parts) == (encoding, parts)


def test_a_journey_in_another_script_does_not_make_the_message_dearer() -> None:
    sms = sms_text(CodeMessage("482913", "Acme", "الرصيد", "verify.acme.example", 300))
    assert (sms.encoding, sms.parts) == (GSM_7, 1)
    assert "Acme" in sms.text


@pytest.mark.parametrize(
    ("text", "encoding", "parts"),
    [
        ("a" * 160, GSM_7, 1), ("a" * 161, GSM_7, 2), ("a" * 306, GSM_7, 2), ("a" * 307, GSM_7, 3),
        ("€" * 80, GSM_7, 1), ("€" * 80 + "a", GSM_7, 2),
        ("a" + "€" * 152, GSM_7, 2), ("a" * 152 + "€" + "a" * 152, GSM_7, 3),  # an escape is not divided
        ("ب" * 70, UCS_2, 1), ("ب" * 71, UCS_2, 2), ("ب" * 134, UCS_2, 2), ("ب" * 135, UCS_2, 3),
        ("🏦" * 35, UCS_2, 1), ("🏦" * 36, UCS_2, 2), ("🏦" * 67, UCS_2, 3), ("ç" * 70, UCS_2, 1),
    ],
)  # fmt: skip
def test_parts_are_counted_as_networks_do(text: str, encoding: str, parts: int) -> None:
    found = measured(text)
    assert (found.encoding, found.parts) == (encoding, parts)


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp", "Cn", "Co")), min_size=1, max_size=60
) | st.sampled_from(
    ["بنك مصر", "Łódź", "👩‍👩‍👧‍👦 Bank", "e\u0301" * 30, "\u202eBank\u202c", "한국은행", "ธนาคารกรุงเทพ", "€" * 60]
)


@given(portal=NAMES, journey=NAMES, latin=st.sampled_from(["", "Acme"]), host=st.sampled_from(["a.co", *HOSTS]))
def test_whatever_a_bank_is_called_the_code_its_life_and_the_warning_arrive(
    portal: str, journey: str, latin: str, host: str
) -> None:
    sms = sms_text(CodeMessage("482913", portal, journey, host, 300, latin_name=latin))
    assert sms.text.startswith("482913 is your ")
    assert sms.text.endswith(f". Valid 5 min. Never share this code.\n\n@{host} #482913")
    assert measured(sms.text) == sms
    assert sms.encoding == UCS_2 or sms.text == gsm(sms.text)
    assert sms.parts == 1 or sms.encoding == UCS_2
    shown = sms.text.removeprefix("482913 is your ").rpartition(". Valid")[0]
    assert sms.encoding == GSM_7 or unicodedata.normalize("NFC", portal) in unicodedata.normalize("NFC", shown)


@given(text=st.text(min_size=1, max_size=2000))
def test_a_notice_is_cut_and_never_longer_than_three_parts(text: str) -> None:
    sms = notice_sms(text)
    assert sms.parts <= 3
    assert measured(sms.text) == sms
    sms.text.encode("utf-16-le", "surrogatepass")


def sent_codes(world: World) -> list[Any]:
    return [row for row in world.rows(Delivery) if row.kind == "message"]


CUSTOMER = f"""customer_id,name,phone,email,locale,password,totp_secret
C-1001,Thandi Nkosi,{PHONE},thandi@example.com,{{locale}},,
C-1002,Sipho Dlamini,+27831234567,,,,
"""


@pytest.mark.parametrize(
    ("link", "browser_likes", "locale", "expected"),
    [
        ("?lang=fr&reference=abc", "ar", "zu", "fr"),  # the link
        ("?reference=abc", "fr", "zu", "zu"),  # the customer's own, once known
        ("?reference=abc", "fr", "de", "fr"),  # which is not offered
        ("?reference=abc", "fr", "", "fr"),  # the browser
        ("?reference=abc", "de", "", "en"),  # the portal
    ],
)
@pytest.mark.usefixtures("languages")
def test_a_message_is_in_the_language_that_was_chosen_or_the_customers_own(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, link: str, browser_likes: str, locale: str, expected: str
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, customers=CUSTOMER.format(locale=locale)) as world:
        browser = world.browser()
        likes = {"Accept-Language": browser_likes}
        browser.get(f"/{link}", headers=likes)
        browser.post("/", headers=likes, identifier="C-1001")
        (message,) = wait_for(lambda: receiver.messages)
        mark = "" if expected == "en" else f"[{expected} "
        code = re.search(r"\n\n@127\.0\.0\.1 #(\d{6})$", message["text"])
        assert code is not None, message["text"]
        assert re.match(
            rf"{re.escape(mark)}[^]]*]? ?{code[1]} is your" if mark else rf"{code[1]} is your", message["text"]
        )
        assert ("[" in message["text"]) == bool(mark)
        assert sent_codes(world)[0].locale == expected


@pytest.mark.usefixtures("languages")
def test_a_message_sent_again_is_in_the_language_chosen_since(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin("abc")
    wait_for(lambda: small_world.receiver.messages)  # in the language of its time
    small_world.clock.advance(31)
    browser.get("/language")
    browser.post("/language", lang="ar")
    browser.post("/verify/resend")
    wait_for(lambda: len(small_world.receiver.messages) == 2)
    assert [message["text"].startswith("[ar ") for message in small_world.receiver.messages] == [False, True]
    assert measured(small_world.receiver.messages[1]["text"]).encoding == GSM_7, "these are Latin letters"


@pytest.mark.usefixtures("languages")
def test_an_email_is_in_the_language_and_its_direction(small_world: World) -> None:
    browser = small_world.browser()
    browser.get("/j/mail?lang=ar&reference=abc")
    browser.name("C-1001")
    (mail,) = wait_for(lambda: small_world.receiver.messages)
    assert mail["subject"].startswith("[ar] ")
    assert "[ar] Never share this code, not even with us." in mail["text"]
    assert "&" not in mail["text"], "plain text is not escaped"


def test_a_name_in_another_script_arrives_by_both_kinds_of_gateway(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    config = CLICKATELL.replace('"sms"', '"clicks"', 1) + journey("clicks", "sms_code", channels=("clicks",))
    base = CONFIG.replace('name = "Acme Bank"', 'name = "بنك مصر"', 1)
    with open_world(tmp_path, sqlite_url, receiver, config=STANDARD + config, base=base) as world:
        world.browser().begin("abc", "clicks")
        (request,) = wait_for(lambda: receiver.platform)
        assert "بنك مصر" in json.loads(request["body"])["messages"][0]["content"]
        world.browser().begin("abd", identifier="C-1002")
        (message,) = wait_for(lambda: receiver.messages)
        assert "بنك مصر" in message["text"]


def test_the_settings_show_the_sms_of_each_language_with_its_parts(
    languages: None, tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    base = CONFIG.replace('name = "Acme Bank"', 'name = "بنك مصر"', 1)
    with open_world(tmp_path, sqlite_url, receiver, base=base) as world:
        desk = signed_in(world)
        page = desk.get("/admin/settings")
        assert page.text.count("@127.0.0.1 #000000") == 4
        assert "000000 is your بنك مصر code" in page.text
        assert "2 parts in Unicode" in page.text
        form = {"latin_name": "Banque Misr", "default_region": "ZA"}
        page = desk.post("/admin/settings", **{**SETTINGS, **form, "name": "بنك مصر"})
        assert page.status_code == 200, page.text
        assert "000000 is your Banque Misr code" in page.text
        assert "parts in Unicode" not in page.text


def test_a_customer_is_notified_in_their_language_and_owners_in_english(
    languages: None, tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, customers=CUSTOMER.format(locale="zu")) as world:
        desk = signed_in(world)
        row = next(row.id for row in world.rows(CustomerRow) if row.customer_id == "C-1001")
        path = f"/admin/customers/{row}"
        desk.get(f"{path}/edit")
        desk.post(f"{path}/edit", customer_id="C-1001", phone="083 000 2222", reason="called")
        wait_for(lambda: len([one for one in receiver.messages if "phone number" in one["text"]]) == 2)
        for message in [one for one in receiver.messages if "phone number" in one["text"]]:
            assert message["text"].startswith("Acme Bank: [zu] Your phone number was changed. [zu] If you didn't")
        receiver.messages.clear()
        desk.get(f"{path}/credentials/password")
        desk.post(f"{path}/credentials/password/link", way="email", reason="called")
        mail = wait_for(lambda: next((one for one in receiver.messages if "/credentials/" in one["text"]), None))
        assert mail["subject"] == "Acme Bank: [zu] Set your password"
        link = re.search(r"/credentials/[\w-]+", mail["text"])
        assert link is not None, mail["text"]
        assert "[zu] http://127.0.0.1:8000/credentials/" in mail["text"]
        receiver.messages.clear()
        browser = world.browser()
        browser.get(f"{link[0]}?lang=zu")
        browser.post(f"{link[0]}?lang=zu", decline="1")
        assert "[zu]" in browser.page.text
        mail = wait_for(lambda: next((one for one in receiver.messages if "declined" in one.get("subject", "")), None))
        assert "[zu]" not in mail["subject"] + mail["text"]


def test_every_notice_to_a_customer_can_be_translated() -> None:
    found = {text for message in all_texts() for text in ids_of(message)}
    changes: dict[str, str | None] = {"phone": None, "email": "a@example.com", "password": "x", "totp_secret": None}
    for notice in change_notices({"phone": PHONE, "email": "b@example.com"}, changes):
        assert {notice.subject, notice.text} <= found
