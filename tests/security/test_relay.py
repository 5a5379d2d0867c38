"""Link relay, the central attack, played in full: the attacker's chat and browser, the victim's browser and phone.

The attacker starts a chat and sends *his* link to the victim. If the victim verifies, his chat is the victim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.receiver import Receiver
from tests.security.tools import STILL, deliver
from tests.ticketed import JOURNEYS, link, open_ticketed, opened, ticket
from tests.world import PHONE, World

VICTIM, VICTIMS_PHONE = "C-1001", PHONE
ATTACKERS_PHONE, ATTACKER = "+27831234567", "C-1002"
SLUGS = {"none": "", "chat_code": "code-back", "phone_match": "pay"}


@dataclass
class Chat:
    """One chat in Flow: its node's Logic section, and the compare node that the journey's defence asks for."""

    world: World
    phone: str
    reference: str
    defence: str
    is_waiting_for_code: bool = False
    customer_id: str = ""

    def link(self) -> str:
        """What the External Link node sends into this chat."""
        if self.defence == "phone_match":
            return link(ticket(self.world, "pay", msisdn=self.phone.lstrip("+")).path, self.reference)
        slug = SLUGS[self.defence]
        return link(f"/j/{slug}" if slug else "/", self.reference)

    def hear(self) -> None:
        """Takes the result of this chat's reference, as the flow's branches do."""
        deliver(self.world)
        for call in self.world.receiver.callbacks:
            if call.header != self.reference:
                continue
            result, data = call.body["result"], call.body["data"]
            if self.defence == "none" and result == "verified":
                self.customer_id = data["customer_id"]
            elif self.defence == "chat_code" and result == "check_code_code-back":
                self.is_waiting_for_code, self.expected = True, (data["chat_code"], data["customer_id"])
            elif self.defence == "phone_match" and result == "verified_pay" and data["phone_match"] == "yes":
                self.customer_id = data["customer_id"]

    def type(self, text: str) -> None:
        """What somebody types into the chat at the input node."""
        code, customer_id = self.expected
        if self.is_waiting_for_code and text == code:
            self.customer_id = customer_id


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_ticketed(tmp_path, database_url, receiver, STILL) as opened_world:
        yield opened_world


def obey(world: World, address: str) -> str:
    """The victim does all that the link asks of her; gives what her last page says."""
    path = address.partition("?")[0]
    browser = world.browser("192.0.2.10")
    browser.get(address)
    browser.post(path, identifier=VICTIM)
    deliver(world)
    hers = [message for message in world.receiver.messages if message["to"] == VICTIMS_PHONE]
    if hers:
        browser.prove(world.receiver.code_for(VICTIMS_PHONE))
    return browser.page.text


def test_with_no_defence_it_succeeds(world: World) -> None:
    chat = Chat(world, ATTACKERS_PHONE, "attackers-chat", "none")
    obey(world, chat.link())
    chat.hear()
    assert chat.customer_id == VICTIM


def test_with_a_chat_code_the_attackers_chat_stops(world: World) -> None:
    chat = Chat(world, ATTACKERS_PHONE, "attackers-chat", "chat_code")
    his = world.browser("198.51.100.66")
    his.get(chat.link())
    his.post("/j/code-back", identifier=VICTIM)
    page = obey(world, chat.link())
    chat.hear()
    code, _ = chat.expected
    shown = f"{code[:3]} {code[3:]}"
    assert shown in page  # she alone is shown it,
    assert "Never share it with a person" in page  # and told what for
    assert code not in his.get("/done").text.replace(" ", "")
    again = world.browser("198.51.100.67")
    again.get(chat.link())
    again.post("/j/code-back", identifier=VICTIM)
    assert code not in again.page.text.replace(" ", "")
    for guess in ("000000", "123456", ""):
        chat.type(guess if guess != code else "")
    assert chat.customer_id == ""


def test_with_phone_match_the_victim_never_gets_a_code(world: World) -> None:
    chat = Chat(world, ATTACKERS_PHONE, "attackers-chat", "phone_match")
    page = obey(world, chat.link())
    assert "••• 567" in page or "on file" in page
    chat.hear()
    assert chat.customer_id == ""
    assert not [message for message in world.receiver.messages if message["to"] == VICTIMS_PHONE]
    # Nor does she where she presses the button as the page is: the code goes to the chat's own number, his.
    opened(world, chat.link().partition("?")[0], chat.reference, "192.0.2.10")
    deliver(world)
    assert {message["to"] for message in world.receiver.messages} <= {ATTACKERS_PHONE}


@pytest.mark.parametrize("path", ["/j/pay", "/j/balance", "/", "/j/app"])
def test_with_phone_match_taking_the_ticket_out_of_the_link_passes_for_nothing(world: World, path: str) -> None:
    """Whoever holds the reference can edit the path. No other path gives the text that this chat waits for."""
    chat = Chat(world, ATTACKERS_PHONE, "attackers-chat", "phone_match")
    chat.link()
    victim = world.browser("192.0.2.10")
    victim.get(link(path, chat.reference))
    victim.post(path, identifier=VICTIM)
    deliver(world)
    if [message for message in world.receiver.messages if message["to"] == VICTIMS_PHONE]:
        victim.prove(world.receiver.code_for(VICTIMS_PHONE))
    if path == "/j/app":
        victim.prove(world.totp())
    chat.hear()
    assert chat.customer_id == ""
    if path == "/j/pay":
        assert not world.receiver.messages


def test_with_phone_match_the_attacker_is_only_himself(world: World) -> None:
    chat = Chat(world, ATTACKERS_PHONE, "attackers-chat", "phone_match")
    address = chat.link()
    browser = opened(world, address.partition("?")[0], chat.reference)
    deliver(world)
    browser.prove(world.receiver.code_for(ATTACKERS_PHONE))
    chat.hear()
    assert chat.customer_id == ATTACKER


def test_with_phone_match_the_victims_own_ticket_answers_her_own_chat_alone(world: World) -> None:
    """He who has seen her link, ticket and all, binds it to his reference too late, or locks himself out."""
    hers = Chat(world, VICTIMS_PHONE, "victims-chat", "phone_match")
    path, _, _ = hers.link().partition("?")
    browser = opened(world, path, hers.reference, "192.0.2.10")
    his = world.browser("198.51.100.66")
    his.get(link(path, "attackers-chat"))
    assert his.post(path).status_code == 410
    deliver(world)
    browser.prove(world.receiver.code_for(VICTIMS_PHONE))
    hers.hear()
    assert hers.customer_id == VICTIM
    assert {call.header for call in world.receiver.callbacks} == {"victims-chat"}


def test_every_defence_is_played_here() -> None:
    assert {defence for defence in SLUGS if SLUGS[defence] == "" or f'slug = "{SLUGS[defence]}"' in JOURNEYS} == {
        "none", "chat_code", "phone_match",
    }  # fmt: skip
