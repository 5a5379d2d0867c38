"""The last step offers where to go on, by opening hours; the other system can tell whose chat it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest

from auth_portal.store.models import Verification, Visit
from tests.admin.desk import signed_in
from tests.receiver import Receiver
from tests.security.tools import STILL
from tests.services.steps import HANDOVER, IDENTIFY, PASSWORD_STEP, results, started, stepped
from tests.world import CONFIG, PASSWORD, Browser, World, journey, open_world

JOURNEYS = (
    journey("balance", "sms_code", default=True)
    + stepped("agent", HANDOVER)
    + stepped("proved", IDENTIFY, PASSWORD_STEP, HANDOVER)
)
OPEN = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)  # a Monday, 11:00 in Johannesburg


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, database_url, receiver, config=JOURNEYS, settings=STILL) as opened:
        opened.clock.now = OPEN
        yield opened


def link_on(browser: Browser) -> str:
    """The address that the last page offers."""
    return unescape(re.findall(r'href="(https://chat[^"]*|tel:[^"]*|https://wa[^"]*)"', browser.page.text)[0])


def claims_of(world: World, address: str, slug: str, option: str) -> dict[str, Any]:
    key = world.services.keyring.shared_key("handover", slug, option)
    (token,) = parse_qs(urlsplit(address).query)["handover"]
    found: dict[str, Any] = jwt.decode(
        token, key, algorithms=["HS256"], audience="chat.example", options={"verify_exp": False, "verify_iat": False}
    )
    return found


def offered(page: str) -> list[str]:
    return re.findall(r'name="choice" value="(\w+)"', page)


def test_open_now_and_a_choice_hands_over(world: World) -> None:
    browser = started(world, "agent")
    assert "Open now, until 18:00" in browser.page.text
    assert offered(browser.page.text) == ["web", "call", "mine", "stay"]
    browser.post("/verify", choice="web")
    assert browser.path == "/done"
    address = link_on(browser)
    assert address.startswith("https://chat.example/start?team=cards&handover=")
    (verification,) = world.rows(Verification)
    assert claims_of(world, address, "agent", "web") == {
        "iss": "agent",
        "jti": verification.id,
        "methods": [],
        "iat": int(OPEN.timestamp()),
        "exp": int(OPEN.timestamp()) + 300,
        "aud": "chat.example",
    }
    assert "abc" not in address
    assert results(world) == [
        {"result": "handed_over", "outcome": "handed_over", "journey": "agent", "handover": "web"}
    ]


def test_nothing_is_sent_anywhere_before_the_result_is_in_the_outbox(world: World) -> None:
    browser = started(world, "agent")
    assert "https://chat.example" not in browser.page.text
    page = browser.post("/verify", choice="web", follow=False)
    assert page.status_code == 303
    assert "chat.example" not in page.headers["Location"]
    assert world.rows(Verification)[0].outcome == "handed_over"


def test_a_proof_stays_verified_and_the_value_says_what_was_proved(world: World) -> None:
    browser = started(world, "proved", identifier="C-1001")
    browser.prove(PASSWORD)
    browser.post("/verify", choice="web")
    claims = claims_of(world, link_on(browser), "proved", "web")
    assert (claims["methods"], claims.get("sub")) == (["password"], None)
    (found,) = results(world)
    assert (found["result"], found["customer_id"], found["handover"]) == ("verified_proved", "C-1001", "web")


def test_only_an_option_that_may_know_it_gets_the_customer(world: World) -> None:
    browser = started(world, "proved", identifier="C-1001")
    browser.prove(PASSWORD)
    browser.post("/verify", choice="mine")
    assert claims_of(world, link_on(browser), "proved", "mine")["sub"] == "C-1001"
    other = started(world, "agent", "other")
    other.post("/verify", choice="mine")
    assert "sub" not in claims_of(world, link_on(other), "agent", "mine")


def test_each_option_and_journey_has_a_key_of_its_own(world: World) -> None:
    keys = {world.services.keyring.shared_key("handover", *of) for of in (("agent", "web"), ("agent", "mine"),
                                                                        ("proved", "web"), ("agentw", "eb"))}  # fmt: skip
    assert len(keys) == 4
    browser = started(world, "agent")
    browser.post("/verify", choice="web")
    with pytest.raises(jwt.InvalidSignatureError):
        claims_of(world, link_on(browser), "agent", "mine")


@pytest.mark.parametrize(
    ("choice", "address"), [("call", "tel:+27860100200"), ("message", "https://wa.me/27115550100")]
)
def test_a_call_and_whatsapp_get_no_value(world: World, choice: str, address: str) -> None:
    if choice == "message":
        world.clock.now = OPEN.replace(hour=20)
    browser = started(world, "agent")
    browser.post("/verify", choice=choice)
    assert link_on(browser) == address


def test_staying_in_the_chat_completes(world: World) -> None:
    browser = started(world, "agent")
    browser.post("/verify", choice="stay")
    assert "One more tap" not in browser.page.text
    assert results(world) == [{"result": "completed", "outcome": "completed", "journey": "agent", "handover": ""}]


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (OPEN.replace(hour=5), "We're closed until 08:00"),
        (OPEN.replace(hour=16), "We're closed until 08:00 on Wednesday"),  # Tuesday is a holiday
        (datetime(2026, 11, 27, 17, 0, tzinfo=UTC), "We're closed until 09:00 tomorrow"),
        (datetime(2026, 11, 28, 12, 0, tzinfo=UTC), "We're closed until 08:00 on Monday"),
        (datetime(2026, 11, 24, 9, 0, tzinfo=UTC), "We're closed until 08:00 tomorrow"),
    ],
)
def test_a_closed_page_says_when_it_opens(world: World, now: datetime, words: str) -> None:
    world.clock.now = now
    browser = started(world, "agent")
    assert words in browser.page.text
    assert "Opening hours" in browser.page.text
    assert offered(browser.page.text) == ["message", "mine", "stay"]
    assert "Johannesburg" in browser.page.text


def test_what_has_closed_meanwhile_is_refused_with_the_page_as_it_is_now(world: World) -> None:
    world.clock.now = OPEN.replace(hour=15, minute=58)
    browser = started(world, "agent")
    world.clock.advance(180)
    page = browser.post("/verify", choice="web")
    assert page.status_code == 422
    assert "That's closed now. Choose another option." in page.text
    assert browser.post("/verify", choice="nowhere").status_code == 422
    assert world.rows(Verification)[0].outcome is None


def test_only_the_browser_that_chose_gets_the_link_and_not_after_the_chat(world: World) -> None:
    browser, other = started(world, "agent"), started(world, "agent")
    browser.post("/verify", choice="web")
    other.get("/done")
    assert "chat.example" not in other.page.text
    browser.get("/done")
    assert "handover=" in browser.page.text
    world.clock.advance(601)
    browser.get("/done")
    assert "chat.example" not in browser.page.text
    assert len([row for row in world.rows(Visit) if row.given_sealed is not None]) == 1


def test_owners_alone_see_the_keys_of_the_options(world: World) -> None:
    keys = {
        option: world.services.keyring.shared_key("handover", "agent", option) for option in ("web", "mine", "call")
    }
    page = signed_in(world).get("/admin/journeys/agent").text
    assert keys["web"] in page
    assert keys["mine"] in page
    assert keys["call"] not in page
    assert "handover-web" not in signed_in(world, "support").get("/admin/journeys/agent").text


LATE = HANDOVER.replace('sat = ["09:00-13:00"]', 'sat = ["09:00-24:00"]')
SATURDAY = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("region", "now", "words", "hours"),
    [
        ("ZA", SATURDAY, "Open now, until 24:00", ""),
        ("US", SATURDAY, "Open now, until 12:00 AM", ""),
        ("ZA", datetime(2026, 11, 29, 9, 0, tzinfo=UTC), "closed until 08:00 tomorrow", "09:00–24:00"),
        ("US", datetime(2026, 11, 29, 9, 0, tzinfo=UTC), "closed until 8:00 AM tomorrow", "9:00 AM–12:00 AM"),
        ("ZA", datetime(2026, 12, 20, 9, 0, tzinfo=UTC), "closed until 08:00 on 28 December 2026", ""),
        ("US", datetime(2026, 12, 20, 9, 0, tzinfo=UTC), "closed until 8:00 AM on December 28, 2026", ""),
    ],
)
def test_times_and_dates_are_written_as_in_the_region(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, region: str, now: datetime, words: str, hours: str
) -> None:
    base = CONFIG.replace('default_region = "ZA"', f'default_region = "{region}"')
    week_off = ", ".join(f'"2026-12-{day}"' for day in range(20, 28))
    config = stepped("agent", LATE.replace('"2026-11-24"', week_off), more="default = true")
    with open_world(tmp_path, sqlite_url, receiver, config=config, base=base, settings=STILL) as world:
        world.clock.now = now
        page = started(world, "agent").page.text.replace("\u202f", " ")
        assert words in page
        assert hours in page
