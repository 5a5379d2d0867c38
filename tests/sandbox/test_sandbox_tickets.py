"""A flow that registers tickets: its API node asks the real portal, and each node says what it did.

What comes back from the portal's browser pages is played by hand here, as in the other conversations;
``tests/e2e/test_relay_play.py`` has all of it in a browser.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from auth_portal.bootstrap import Process, create_app
from auth_portal.services.operations.demo import KEY_FILE, KEY_NAME, load_demo, sandbox_key
from auth_portal.services.operations.installation import initialise
from auth_portal.services.serving import Services, build
from auth_portal.settings import Settings, read_settings
from tests.compiled import share_templates
from tests.sandbox.conftest import Chat, MovableClock

THANDI, SIPHO, FAMILY, STRANGER = "+27821234567", "+27831234567", "+27845551234", "+27605550199"
URL = "http://localhost"  # where a test client looks
PAYMENT = {"amount": "500.00", "currency": "ZAR", "payee": "N. Dlamini"}
APPROVED = {f"payment_{name}": value for name, value in PAYMENT.items()}
HEADING = "Pay <bdi>R\u00a0500</bdi> to <bdi>N. Dlamini</bdi>?"
WAITING = """
[[journeys]]
slug = "pay-waiting"
name = "Confirm and wait"
relay_defence = "phone_match"
steps = [
  { kind = "identify", by = ["customer_id"] },
  { kind = "verify", any_of = ["totp"] },
]
[journeys.callback]
server = "sandbox"
contract = "wait_for_callback"
"""


class Demo:
    """A portal with its demo, in this process; nothing is delivered."""

    def __init__(self, client: FlaskClient, settings: Settings, clock: MovableClock) -> None:
        self.client = client
        self.settings = settings
        self.clock = clock

    def start(self, journey: str = "pay", **fields: str) -> Chat:
        return Chat(self.client, journey=journey, **fields)

    @contextmanager
    def command(self) -> Iterator[Services]:
        with closing(build(self.settings, self.clock)) as portal:
            yield portal


@contextmanager
def demo_at(folder: Path, clock: MovableClock, more: Mapping[str, str]) -> Iterator[Demo]:
    environment = {
        "PORTAL_INSTANCE": str(folder), "PORTAL_SANDBOX": "1", "PORTAL_DISPATCH": "off", "PORTAL_PUBLIC_URL": URL, **more,
    }  # fmt: skip
    settings = read_settings(environment)
    initialise(settings, clock)
    with closing(build(settings, clock)) as portal:
        load_demo(portal.settings, portal.configuration, portal.command_import, portal.api_keys)
    app = create_app(clock=clock)
    share_templates(app)
    process: Process = app.extensions["auth_portal_process"]
    process.start(environment)
    try:
        yield Demo(app.test_client(), settings, clock)
    finally:
        process.stop()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One for all tests that only chat."""
    with demo_at(tmp_path_factory.mktemp("demo"), MovableClock(), {}) as made:
        yield made


@pytest.fixture
def own_demo(tmp_path: Path, clock: MovableClock) -> Iterator[Demo]:
    """One that a test may spoil."""
    with demo_at(tmp_path / "instance", clock, {}) as made:
        yield made


def nodes(chat: Chat) -> dict[str, str]:
    """The state of each node, by its name."""
    return {node["name"]: node["state"] for node in chat.state()["nodes"]}


def path_of(chat: Chat) -> str:
    return chat.link.removeprefix(URL).partition("?")[0]


def test_the_flow_registers_a_ticket_for_the_number_of_the_chat(demo: Demo) -> None:
    chat = demo.start(phone="+27 83 123 4567")
    call = chat.state()["api_call"]
    assert call["body"] == {"journey": "pay", "msisdn": "27831234567", "payment": PAYMENT}
    assert (call["status"], chat.state()["phone"]) == (201, SIPHO)
    assert path_of(chat).startswith("/j/pay/t/")
    assert nodes(chat) == {
        "API Integration": "done",
        "External Link": "now",
        "Logic section": "ahead",
        "Compare": "ahead",
    }
    landing = demo.client.get(path_of(chat), query_string={"reference": chat.reference}).text
    assert HEADING in landing
    assert "••• 567" in landing
    assert 'name="identifier"' not in landing
    page = unescape(chat.page().text)
    for told in (f"POST {URL}/api/v1/tickets", '"msisdn": "27831234567"', ">201<", "[[session:msisdn]]"):
        assert told in page
    assert sandbox_key(demo.settings.instance) not in page


def test_the_first_phone_of_the_demo_stands_where_none_is_given(demo: Demo) -> None:
    assert demo.start().state()["phone"] == THANDI
    chat = demo.start("balance", phone=SIPHO)
    assert (chat.state()["phone"], chat.state()["api_call"]) == (SIPHO, None)
    assert list(nodes(chat)) == ["External Link", "Logic section"]


@pytest.mark.parametrize("phone", ["", "0831234567", "12", "+27 83 x", "9" * 16])
def test_a_phone_is_a_number_with_its_country(demo: Demo, phone: str) -> None:
    answer = demo.client.post("/sandbox/conversations", json={"journey": "pay", "phone": phone})
    assert answer.status_code == (400 if phone else 201)


def test_no_customer_has_a_strangers_number_so_no_link_is_sent(demo: Demo) -> None:
    chat = demo.start(phone=STRANGER)
    state = chat.state()
    assert (chat.link, state["state"], state["stage"]) == ("", "stopped", "no_ticket")
    assert (state["api_call"]["status"], nodes(chat)["API Integration"]) == (422, "stopped")
    assert "ticket_nobody" in state["api_call"]["answer"]
    assert chat.said() == ["We can't verify you in this chat. Nothing was paid."]
    assert "link" not in {line["from"] for line in state["messages"]}
    assert "The flow stopped before it sent a link" in chat.page().text
    assert chat.tell("verified_pay", phone_match="yes").status_code == 400
    assert chat.post("again").get_json()["stage"] == "no_ticket"


def test_a_phone_that_two_people_share_asks_which_of_them_it_is(demo: Demo) -> None:
    chat = demo.start(phone=FAMILY)
    assert '"names_customer":false' in chat.state()["api_call"]["answer"].replace(" ", "")
    assert 'name="identifier"' in demo.client.get(path_of(chat), query_string={"reference": chat.reference}).text


def test_the_compare_node_lets_through_who_matched(demo: Demo) -> None:
    chat = demo.start()
    chat.tell("verified_pay", phone_match="yes", customer_id="C-1001", **APPROVED)
    assert chat.state()["stage"] == "thanked"
    assert nodes(chat)["Compare"] == "done"
    assert chat.said()[-1] == "Thank you, customer C-1001. R 500 is on its way to N. Dlamini."


@pytest.mark.parametrize("found", [{"phone_match": ""}, {"phone_match": "no"}, {}])
def test_the_compare_node_stops_whoever_did_not_match(demo: Demo, found: dict[str, str]) -> None:
    chat = demo.start()
    chat.tell("verified_pay", customer_id="C-1001", **found)
    assert chat.state()["stage"] == "refused"
    assert (nodes(chat)["Logic section"], nodes(chat)["Compare"]) == ("done", "stopped")
    assert "nothing was paid" in chat.said()[-1]


@pytest.mark.parametrize("amount", ["5000.00", "500", ""])
def test_the_compare_node_stops_a_payment_that_was_not_asked_for(demo: Demo, amount: str) -> None:
    chat = demo.start()
    chat.tell("verified_pay", phone_match="yes", customer_id="C-1001", **{**APPROVED, "payment_amount": amount})
    assert chat.state()["stage"] == "refused"
    assert nodes(chat)["Compare"] == "stopped"
    page = unescape(chat.page().text)
    assert "This was not the payment that the chat asked for" in page
    assert "Continues only if phone_match is “yes” and payment_amount is “500.00”." in page


def test_each_round_has_a_ticket_of_its_own(demo: Demo) -> None:
    chat = demo.start()
    chat.tell("failed", outcome="cancelled")
    state = chat.post("again").get_json()
    assert (state["reference"], state["state"], state["round"]) == (chat.reference, "waiting", 2)
    assert state["link"] != chat.link
    assert "/j/pay/t/" in state["link"]
    assert state["messages"][-1]["text"] == state["link"]
    assert "with a new ticket" in chat.page().text


def test_a_chat_that_has_ended_registers_nothing(demo: Demo) -> None:
    chat = demo.start()
    demo.clock.move(700)
    assert chat.post("again").status_code == 409
    assert "registered" not in chat.state()["link"]


def test_a_flow_that_waits_for_its_callback_registers_its_own_reference(own_demo: Demo) -> None:
    with own_demo.command() as portal:
        portal.configuration.import_toml(WAITING, file_name="waiting.toml")
    own_demo.clock.move(5)
    chat = own_demo.start("pay-waiting")
    assert chat.state()["api_call"]["body"]["reference"] == chat.reference
    assert path_of(chat) == "/j/pay-waiting"
    assert list(nodes(chat))[:3] == ["Set Variable", "API Integration", "Message, then Wait for Callback"]
    assert HEADING in own_demo.client.get(path_of(chat), query_string={"reference": chat.reference}).text


def test_a_key_that_was_revoked_is_refused_and_comes_back_with_the_demo(own_demo: Demo) -> None:
    with own_demo.command() as portal:
        (made,) = [key for key in portal.api_keys.recent() if key.name == KEY_NAME]
        assert made.scopes == ("tickets:write",)
        portal.api_keys.revoke(made.id, None)
    chat = own_demo.start()
    assert (chat.state()["api_call"]["status"], chat.state()["stage"]) == (401, "no_ticket")
    assert "401" in chat.page().text
    with own_demo.command() as portal:
        assert any(
            KEY_NAME in line
            for line in load_demo(portal.settings, portal.configuration, portal.command_import, portal.api_keys)
        )
        assert not any(
            KEY_NAME in line
            for line in load_demo(portal.settings, portal.configuration, portal.command_import, portal.api_keys)
        ), "the one in force stays"
    assert own_demo.start().state()["api_call"]["status"] == 201
    assert (own_demo.settings.instance / KEY_FILE).stat().st_mode & 0o077 == 0


def test_a_portal_without_the_demo_has_no_key(own_demo: Demo) -> None:
    (own_demo.settings.instance / KEY_FILE).unlink()
    assert own_demo.start().state()["api_call"]["status"] == 401


def test_behind_a_proxy_the_node_comes_by_the_same_road(tmp_path: Path, clock: MovableClock) -> None:
    hops = {"PORTAL_TRUSTED_PROXIES": "1"}
    with demo_at(tmp_path / "instance", clock, hops) as demo:
        demo.client.environ_base |= {
            "REMOTE_ADDR": "", "HTTP_X_FORWARDED_FOR": "203.0.113.7", "SERVER_SOFTWARE": "gunicorn/27",
        }  # fmt: skip
        assert demo.start().state()["api_call"]["status"] == 201


def test_a_file_of_an_earlier_release_is_made_anew(client: FlaskClient, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "sandbox.db")) as old:
        old.executescript(
            "CREATE TABLE conversations (id TEXT); CREATE TABLE lines (id TEXT); PRAGMA user_version = 1;"
        )
    assert client.post("/sandbox/conversations").status_code == 201


# --- The attack


def attack(start: Callable[..., Any], journey: str) -> Any:
    """The attacker's chat, with the answer that the victim's browser brought about."""
    chat = start(journey=journey, phone="+27 83 765 4321", attack="1")
    assert "This is the attacker&#39;s chat" in chat.page().text
    return chat


def test_without_a_defence_the_attack_works_and_it_is_said_loudly(start: Callable[..., Any]) -> None:
    chat = attack(start, "balance")
    chat.tell("verified", customer_id="C-1001")
    page = unescape(chat.page().text)
    assert '<h1 class="loud bad">The attack worked: the attacker\'s chat is now Thandi Mokoena</h1>' in page


def test_with_a_chat_code_the_attackers_chat_stops(start: Callable[..., Any]) -> None:
    chat = attack(start, "card")
    chat.tell("check_code_card", chat_code="482913", customer_id="C-1001")
    page = unescape(chat.page().text)
    assert "The attacker's chat stops here" in page
    for _ in range(3):
        chat.post("messages", text="000000")
    assert '<h1 class="loud good">The attack failed</h1>' in chat.page().text


def test_with_phone_match_the_victim_gets_no_code(demo: Demo) -> None:
    chat = demo.start(phone=SIPHO, attack="1")
    assert "press the main button anyway" in chat.page().text
    sms = {"kind": "sms", "to": SIPHO, "text": "123456 is your code", "message_id": "1", "subject": "", "html": ""}
    demo.client.post("/sandbox/messages", json=sms)
    page = unescape(chat.page().text)
    assert "The attack failed: Thandi Nkosi gets no code" in page
    assert "Thandi Nkosi, the victim: <strong>0</strong>" in page
    chat.tell("verified_pay", phone_match="yes", customer_id="C-1002", **APPROVED)
    assert "The attacker is only himself" in chat.page().text


def test_the_page_of_the_attack_has_each_defence(demo: Demo, client: FlaskClient) -> None:
    text = demo.client.get("/sandbox/attack").text
    for journey in ("balance", "code-back", "pay"):
        assert f'name="journey" value="{journey}"' in text
    assert text.count(f'name="phone" value="{SIPHO}"') == 3
    assert 'value="card"' in client.get("/sandbox/attack").text
