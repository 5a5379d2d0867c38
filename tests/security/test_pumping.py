"""The brake on SMS pumping: who is sent codes without using them, at one address and in one country (R49)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from auth_portal.services import limits
from auth_portal.services.delivery.messages import SLOWED_DOWN
from auth_portal.store.db import Transactions
from auth_portal.store.models import Counter, Delivery
from tests.receiver import Receiver
from tests.security.tools import STILL, deliver
from tests.services.conftest import NOW, transactions
from tests.world import CONFIG, FakeClock, World, journey, open_world

__all__ = ["transactions"]  # a fixture
SMS = journey("balance", "sms_code", default=True)


@pytest.fixture
def clock() -> FakeClock:
    moved = FakeClock()
    moved.now = NOW
    return moved


def people(count: int) -> str:
    return "customer_id,phone\n" + "\n".join(f"P-{number},+2782100{4000 + number}" for number in range(count)) + "\n"


def begin(world: World, number: int, address: str = "203.0.113.7") -> int:
    """One person asks for a code; returns how many SMS have left so far."""
    world.browser(address).begin(f"reference-{number}", "", f"P-{number}")
    deliver(world, ("message",))
    return len(world.receiver.messages)


def test_r49_one_address_with_known_people_stops_well_below_a_hundred(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, config=SMS, settings=STILL, customers=people(62)) as world:
        for number in range(60):
            sent = begin(world, number)
        assert limits.ADDRESS_FLOOR <= sent <= limits.ADDRESS_FLOOR + 2
        held = [row for row in world.rows(Delivery) if row.kind == "message" and row.state == "dropped"]
        assert {row.reason for row in held} == {SLOWED_DOWN}
        world.services.alerts.look()
        (alert,) = [one for one in world.services.alerts.open(world.clock()) if one.kind == "pumping"]
        assert "did not use its code" in alert.text
        assert begin(world, 60, "198.51.100.9") == sent + 1, "another address is not slowed"
        world.clock.advance(limits.BRAKED_SECONDS)
        assert begin(world, 61) == sent + 2, "slowed down, not closed"


def test_r49_honest_people_behind_one_address_are_not_slowed(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    """Of twelve, every fourth one does not use the code; the others count for their address and their country."""
    with open_world(tmp_path, sqlite_url, receiver, config=SMS, settings=STILL, customers=people(12)) as world:
        for number in range(12):
            browser = world.browser()
            browser.begin(f"reference-{number}", "", f"P-{number}")
            deliver(world)
            if number % 4:
                browser.prove(receiver.code_for(f"+2782100{4000 + number}"))
                deliver(world)
        assert len(receiver.messages) == 12
        wins = {row.key: row.events for row in world.rows(Counter) if row.key.startswith("wins:")}
        assert sorted(wins.values()) == [9, 9]
        assert [events for key, events in wins.items() if key.startswith("wins:ZA:")] == [9]
        browser = world.browser()
        browser.begin("reference-again", "", "P-1")
        deliver(world)
        browser.prove(receiver.code_for("+27821004001"))
        deliver(world)
        wins = {row.key: row.events for row in world.rows(Counter) if row.key.startswith("wins:")}
        assert sorted(wins.values()) == [9, 9], "people are counted, not their verifications"
        assert max(len(row.key) for row in world.rows(Counter)) <= 96, "what the column has room for"


def ask(transactions: Transactions, numbers: range, address: str = "carrier", country: str = "ZA") -> list[bool]:
    with transactions.write() as work:
        return [limits.may_pay_for(work, address, country, f"person-{number}") for number in numbers]


def win(transactions: Transactions, numbers: range, address: str = "carrier", country: str = "ZA") -> None:
    with transactions.write() as work:
        for number in numbers:
            limits.note_successes(work, [(address, country, f"person-{number}")])


def test_r49_a_carriers_address_with_two_thousand_honest_people_an_hour_is_not_slowed(
    transactions: Transactions,
) -> None:
    """Thirty at a time are typing their code, and one in five gives up."""
    for first in range(0, 2000, 30):
        assert all(ask(transactions, range(first, first + 30)))
        win(transactions, range(first, first + 24))


@pytest.mark.parametrize(("an_hour", "half_minutes"), [(300, 260), (1500, 30), (10_000, 14)])
def test_r49_two_hours_of_honest_traffic_are_not_slowed(
    transactions: Transactions, clock: FakeClock, an_hour: int, half_minutes: int
) -> None:
    """The first one fails, the first success is 20 minutes later; then 97 % use their code after half a minute."""
    clock.advance(1800)
    ask(transactions, range(-1, 0))
    clock.advance(1200)  # ten minutes before the hour, if the clock began with one
    step, asked, before = an_hour // 120, 0, range(0)
    for half_minute in range(half_minutes):
        # The traffic of a carrier does not begin in one second: it grows for five minutes.
        now = range(asked, asked + max(1, step * min(half_minute + 1, 10) // 10))
        with transactions.write() as work:
            for number in before:
                if number % 100 >= 3:
                    limits.note_successes(work, [("carrier", "ZA", f"person-{number}")])
            for number in now:
                assert limits.may_pay_for(work, "carrier", "ZA", f"person-{number}"), (half_minute, number)
        asked, before = now.stop, now
        clock.advance(30)


def test_r49_one_address_with_three_hundred_people_does_not_slow_its_country(transactions: Transactions) -> None:
    assert sum(ask(transactions, range(310), "attacker")) == limits.ADDRESS_FLOOR + 1
    for number in range(1000, 1200):
        assert all(ask(transactions, range(number, number + 1), f"home-{number}"))


def test_r49_a_success_counts_once_and_only_for_who_was_counted(transactions: Transactions) -> None:
    ask(transactions, range(limits.ADDRESS_FLOOR))
    for _ in range(100):
        win(transactions, range(1))
    win(transactions, range(500, 700))
    assert sum(ask(transactions, range(100, 300))) <= 5, "one person who used a code makes no room for 200"


def test_r49_people_who_ask_again_are_the_same_people(transactions: Transactions) -> None:
    for _ in range(5):
        assert all(ask(transactions, range(limits.ADDRESS_FLOOR)))


@pytest.mark.parametrize("step", [1, 20])
def test_r49_many_addresses_of_one_country_are_slowed_together(transactions: Transactions, step: int) -> None:
    sent = []
    for number in range(0, 400, step):
        sent += ask(transactions, range(number, number + step), f"address-{number}")
    assert limits.COUNTRY_FLOOR <= sum(sent) <= limits.COUNTRY_FLOOR + 2
    assert all(ask(transactions, range(500, 510), "elsewhere", "NA"))


def test_r49_an_hourly_cap_stops_a_channel_for_the_rest_of_the_hour(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    capped = CONFIG.replace("daily_cap = 100000", "daily_cap = 100000\nhourly_cap = 10")
    with open_world(
        tmp_path, sqlite_url, receiver, base=capped, config=SMS, settings=STILL, customers=people(20)
    ) as world:
        for number in range(12):
            sent = begin(world, number)
        assert sent == 7, "30 % is reserved for tickets"
        assert "the channel's hourly cap is reached" in {row.reason for row in world.rows(Delivery)}
        world.clock.advance(3600)
        assert begin(world, 12) == 8


@pytest.mark.parametrize(
    ("slug", "words"),
    [
        ("app", "Even a right answer may be refused until tomorrow."),
        ("balance", "We send only a few codes an hour to one number or network."),
    ],
)
def test_r49_what_helps_where_a_budget_is_spent_is_said_to_strangers_too(
    small_world: World, slug: str, words: str
) -> None:
    for number in range(3):
        spender = small_world.browser()
        spender.begin(f"spent-{number}", slug)
        for _ in range(5):
            spender.prove("000000")
        assert "Even a right answer may be refused until tomorrow." in spender.page.text
    seen = []
    for number, who in enumerate(("C-1001", "C-9999")):
        browser = small_world.browser()
        browser.begin(f"after-{number}", slug, who)
        assert "Need help?" in browser.page.text
        for _ in range(3):
            page = browser.prove("000000")
        assert "2 tries left" in page.text
        texts = [page.text.replace(who, "…"), browser.get("/verify/help").text.replace(who, "…")]
        assert words in texts[1]
        lines = [
            re.sub(r'(v=|name="v" value=")[\w-]{8}"', r'\1…"', line) for text in texts for line in text.splitlines()
        ]
        seen.append([line for line in lines if "csrf_token" not in line and 'name="prompt"' not in line])
    assert seen[0] == seen[1]
