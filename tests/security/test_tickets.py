"""What tickets change in what is counted, and that at one moment only one reference gets a ticket: R6, R12, races."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from auth_portal.clock import system_clock
from auth_portal.crypto import MasterKeys
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.verification.tickets import NewTicket, TicketRequest, Tickets
from auth_portal.store.db import Database, Transactions
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import MESSAGE, Delivery, TicketRow, Tries, Verification
from tests.api.program import program
from tests.postgres import MASTER_KEY
from tests.receiver import Receiver, wait_for
from tests.security.test_limits import capped, many_people
from tests.security.test_races import rows, together
from tests.security.tools import (
    STILL,
    code_for,
    deliver,
    disable,
    expire,
    face,
    results,
    spend_tries,
    wrong,
    wrong_totp,
)
from tests.serving import Server, Visitor, serving
from tests.ticketed import JOURNEYS, link, open_ticketed, opened, ticket
from tests.world import CONFIG, PASSWORD, PHONE, World, configure, journey

DAY = 86_400
BEGINS = 40


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_ticketed(tmp_path, database_url, receiver, STILL) as opened_world:
        yield opened_world


@pytest.fixture
def small(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    with open_ticketed(tmp_path, sqlite_url, receiver, STILL) as opened_world:
        yield opened_world


def spent(world: World, slug: str = "app") -> None:
    """A stranger types all the wrong codes that the open budget allows: 50, over days and references."""
    for number in range(10):
        spend_tries(world, slug, f"stranger-{number}", 5)
        world.clock.advance(DAY / 2)


def passes(world: World, reference: str, path: str = "/j/app") -> bool:
    browser = world.browser()
    browser.get(link(path, reference))
    browser.post(path, **({"identifier": "C-1001"} if "/t/" not in path else {}))
    browser.prove(world.totp())
    return browser.path == "/done"


def test_r06_a_stranger_spends_all_he_can_and_the_ticketed_person_still_gets_in(world: World) -> None:
    spent(world)
    assert not passes(world, "open")
    assert passes(world, "with-a-ticket", ticket(world, "pay-app").path)
    assert results(world)[-1] == "verified_pay-app"
    world.clock.advance(60)
    assert passes(world, "open-again")  # the ticketed success opened the credential again


def test_r06_the_budget_of_the_day_too(world: World) -> None:
    for number in range(3):
        spend_tries(world, "app", f"stranger-{number}", 5)
    assert not passes(world, "open")
    assert passes(world, "with-a-ticket", ticket(world, "pay-app").path)


def test_r06_a_spent_open_budget_keeps_no_code_from_a_ticketed_chat(world: World) -> None:
    for number in range(3):
        browser = world.browser()
        browser.begin(f"stranger-{number}")
        code = code_for(world, PHONE)
        for _ in range(5):
            browser.prove(wrong(code))
    before = len(world.receiver.messages)
    world.browser().begin("open")
    deliver(world, (MESSAGE,))
    assert len(world.receiver.messages) == before
    browser = opened(world, ticket(world).path, "with-a-ticket")
    browser.prove(code_for(world, PHONE))
    assert browser.path == "/done"


def spend_ticketed(world: World, reference: str, tries: int = 5) -> None:
    browser = opened(world, ticket(world, "pay-app").path, reference)
    for _ in range(tries):
        browser.prove(wrong_totp(world))


def test_r06_a_spent_ticketed_budget_stays_closed_until_it_is_renewed(world: World) -> None:
    for number in range(3):
        spend_ticketed(world, f"first-{number}")
    assert not passes(world, "fifteen-a-day", ticket(world, "pay-app").path)
    for number in range(7):
        world.clock.advance(DAY)
        spend_ticketed(world, f"more-{number}")
    counts = {row.is_ticketed: row.total for row in world.rows(Tries)}
    assert counts == {True: 50}
    world.clock.advance(DAY)
    assert not passes(world, "closed", ticket(world, "pay-app").path)
    assert passes(world, "open")  # a budget of its own, and its success does not open the other
    world.clock.advance(DAY)
    assert not passes(world, "still-closed", ticket(world, "pay-app").path)


def test_r48_wrong_tries_under_tickets_by_customer_id_are_open_ones(world: World) -> None:
    """A customer ID may have been typed into the chat by anyone: the person with the phone still gets in."""
    for number in range(3):
        browser = opened(world, ticket(world, "app", customer_id="C-1001").path, f"typed-{number}")
        for _ in range(5):
            browser.prove(wrong_totp(world))
    assert {row.is_ticketed: row.day_count for row in world.rows(Tries)} == {False: 15}
    assert not passes(world, "typed", ticket(world, "app", customer_id="C-1001").path)
    assert passes(world, "by-phone", ticket(world, "pay-app").path)
    assert results(world).count("verified_pay-app") == 1


@pytest.mark.parametrize("slug", ["balance", "app", "password", "either", "transfer"])
def test_r52_a_ticket_by_customer_id_shows_nothing_of_the_customer(world: World, slug: str) -> None:
    """Known, disabled and unknown: one answer to the flow, one face to the person in the chat, the same statements."""
    disable(world, "C-1002")
    flow = program(world, "tickets:write")
    flow.post("/tickets", {"journey": slug, "customer_id": "C-1001"})  # a key's first use of a minute is written
    world.services.journeys._read_at = float("inf")  # no look for a newer configuration
    seen = []
    for number, customer_id in enumerate(("C-1001", "C-1002", "C-1003", "C-9999")):
        with world.statements() as statements:
            made = flow.post("/tickets", {"journey": slug, "customer_id": customer_id})
        answer = json.loads(made.text)
        steps: list[Any] = [(made.status_code, sorted(answer), answer["names_customer"], len(statements))]
        browser, reference = world.browser(f"203.0.113.{number}"), f"reference-{number}"
        browser.get(link(answer["path"], reference))
        page = browser.page
        for move in ({}, {"method": "sms_code"}, {"code": "000000", "password": "not the right one"}):
            # At the choice of methods, the form goes elsewhere.
            path = answer["path"] if not move else "/verify/method" if "method" in move else "/verify"
            if f'action="{path}"' in browser.page.text:
                with world.statements() as statements:
                    page = browser.post(path, follow=False, **move)
                status, headers, body = face(page)
                body = body.replace(reference, "").replace(answer["path"], "")
                steps.append((status, headers, body, [re.sub(r"\s+", " ", text)[:60] for text in statements]))
                browser._followed()
                steps.append((face(browser.page)[0], face(browser.page)[2]))
        assert "•••" not in str(steps)
        assert len(steps) > 3
        seen.append(steps)
    for other in seen[1:]:
        assert other == seen[0]


def test_r52_an_unknown_customer_of_a_ticket_never_proves_and_ends_like_anyone(small: World) -> None:
    browser = opened(small, ticket(small, "app", customer_id="C-9999").path)
    browser.prove(small.totp())
    assert browser.path == "/verify"
    assert "4 tries" in browser.help()
    small.clock.advance(600)
    expire(small)
    assert results(small) == ["failed"]


def test_r52_the_masked_number_shows_only_where_the_ticket_names_it(small: World) -> None:
    by_id = opened(small, ticket(small, "balance", customer_id="C-1001").path, "by-id")
    by_number = opened(small, ticket(small, "balance").path, "by-number")
    assert "••• 567" not in by_id.page.text
    assert "••• 567" in by_number.page.text


def test_r48_a_success_under_a_ticket_by_customer_id_opens_nothing_else(small: World) -> None:
    spend_ticketed(small, "by-phone", 3)
    assert passes(small, "typed", ticket(small, "app", customer_id="C-1001").path)
    assert {row.is_ticketed: row.total for row in small.rows(Tries)} == {False: 0, True: 3}


@pytest.mark.parametrize(("path", "left"), [("/j/password", 3), ("ticket", 0)])
def test_r11_a_right_password_clears_the_budget_it_came_by(small: World, path: str, left: int) -> None:
    for slug in ("password", "ticket"):
        browser = small.browser()
        if slug == "ticket":
            browser = opened(small, ticket(small, "pay-twice").path, slug)
        else:
            browser.begin(slug, "password")
        for _ in range(3):
            browser.prove("not the right battery staple")
    assert {row.is_ticketed: row.total for row in small.rows(Tries)} == {False: 3, True: 3}
    if path == "ticket":
        browser = opened(small, ticket(small, "pay-twice").path, "right")
    else:
        browser = small.browser()
        browser.begin("right", "password")
    browser.prove(PASSWORD)
    assert {row.is_ticketed: row.total for row in small.rows(Tries)} == {False: 0, True: left}


def test_r12_thirty_percent_of_a_daily_cap_are_kept_for_tickets(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    configure(database_url, receiver, CONFIG + JOURNEYS, many_people(14))
    with open_ticketed(tmp_path, database_url, receiver, STILL, more=capped(10)) as world:
        for number in range(9):
            world.browser().begin(f"open-{number}", "capped", f"P-{number}")
        deliver(world, (MESSAGE,))
        assert len(world.receiver.messages) == 7
        for number in range(9, 14):
            made = ticket(world, "capped", msisdn=f"2782123{4600 + number}")
            opened(world, made.path, f"ticketed-{number}")
        deliver(world, (MESSAGE,))
        assert len(world.receiver.messages) == 10
        assert Counter(row.reason for row in world.rows(Delivery))["the channel's daily cap is reached"] == 4


def test_r48_tickets_by_customer_id_do_not_spend_the_cap_that_is_kept(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    configure(sqlite_url, receiver, CONFIG + JOURNEYS, many_people(14))
    with open_ticketed(tmp_path, sqlite_url, receiver, STILL, more=capped(10)) as world:
        for number in range(9):
            made = ticket(world, "capped", customer_id=f"P-{number}")
            opened(world, made.path, f"typed-{number}")
        deliver(world, (MESSAGE,))
        assert len(world.receiver.messages) == 7


def test_r12_a_destination_gets_no_more_for_having_tickets(small: World) -> None:
    for number in range(8):
        opened(small, ticket(small).path, f"reference-{number}")
    deliver(small, (MESSAGE,))
    assert len(small.receiver.messages) == 5


# -- races ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, database_url: str, receiver: Receiver) -> Server:
    more = journey("pay-race", "totp", relay_defence="phone_match")
    configure(database_url, receiver, CONFIG + JOURNEYS + more)
    return Server(tmp_path, database_url, server="gunicorn-preload", workers=4)


def registered(database_url: str, **values: Any) -> NewTicket:
    database = Database(database_url)
    keyring = load_keyring(database, MasterKeys((MASTER_KEY,)))
    journeys = Journeys(Transactions(database, keyring, system_clock), has_sandbox=False)
    try:
        return Tickets(Transactions(database, keyring, system_clock), journeys).register(
            TicketRequest("pay", msisdn=PHONE, **values)
        )
    finally:
        database.close()


def test_forty_references_at_once_one_gets_the_ticket(server: Server, database_url: str, receiver: Receiver) -> None:
    made = registered(database_url)
    with serving(server):
        visitors = [Visitor(server.url) for _ in range(BEGINS)]
        for number, visitor in enumerate(visitors):
            visitor.get(f"{made.path}?reference=reference-{number}")
        answers = together(BEGINS, lambda index: visitors[index].post(made.path, follow=False))
        wait_for(lambda: receiver.messages)
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {303: 1, 410: BEGINS - 1}
    (verification,) = rows(database_url, Verification)
    (row,) = rows(database_url, TicketRow)
    assert row.reference_hash == verification.reference_hash
    assert len(receiver.messages) == 1


def test_one_reference_from_forty_browsers_at_once_is_one_verification(
    server: Server, database_url: str, receiver: Receiver
) -> None:
    made = registered(database_url)
    with serving(server):
        visitors = [Visitor(server.url) for _ in range(BEGINS)]
        for visitor in visitors:
            visitor.get(f"{made.path}?reference=one-reference")
        answers = together(BEGINS, lambda index: visitors[index].post(made.path, follow=False))
        wait_for(lambda: receiver.messages)
    assert {answer.status_code for answer in answers} == {303}
    assert len(rows(database_url, Verification)) == 1
    assert len(receiver.messages) == 1
