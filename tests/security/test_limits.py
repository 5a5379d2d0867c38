"""What is counted, for whom, and that nothing but time gives it back: R6, R7, R9, R11, R12, R12a."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from html import unescape
from pathlib import Path

import pytest
from sqlalchemy import event

from auth_portal.errors import Busy
from auth_portal.services.limits import SPENT_CREDENTIALS_ALARM
from auth_portal.store.models import CALLBACK, MESSAGE, Challenge, Counter, Delivery, Tries, Verification, Visit
from tests.receiver import Receiver
from tests.security.tools import (
    STILL,
    code_for,
    deliver,
    expire,
    face,
    logged,
    results,
    spend_tries,
    wrong,
    wrong_totp,
)
from tests.world import CONFIG, MAIL, PASSWORD, PHONE, STANDARD, Browser, World, configure, journey, open_world

DAY = 86_400


def passes(world: World, reference: str, slug: str = "app") -> bool:
    browser = world.browser()
    browser.begin(reference, slug)
    browser.prove(PASSWORD if slug == "password" else world.totp())
    return browser.path == "/done"


# -- wrong tries ------------------------------------------------------------------------------------------------


def test_r06_r07_fifteen_a_day_over_references(still: World) -> None:
    for number in range(3):
        assert spend_tries(still, "app", f"wrong-{number}", 5).path == "/done"
    (tries,) = still.rows(Tries)
    assert (tries.day_count, tries.total) == (15, 15)
    still.clock.advance(60)
    assert not passes(still, "right, but too late".replace(" ", "-"))
    (tries,) = still.rows(Tries)
    assert (tries.day_count, tries.total) == (15, 15)  # what is not evaluated is not counted
    still.clock.advance(DAY)
    assert passes(still, "the-next-day")
    (tries,) = still.rows(Tries)
    assert (tries.day_count, tries.total) == (0, 0)


def test_r06_fifty_in_all_close_the_credential(small_still: World) -> None:
    world = small_still
    for number in range(10):
        spend_tries(world, "app", f"wrong-{number}", 5)
        world.clock.advance(DAY / 2)
    (tries,) = world.rows(Tries)
    assert tries.total == 50
    for days in range(3):
        assert not passes(world, f"day-{days}")
        world.clock.advance(DAY)
    assert passes(world, "another-credential", "password")
    assert not passes(world, "still-closed")


def test_r06_r09_the_count_outlives_a_restart(tmp_path: Path, database_url: str, receiver: Receiver) -> None:
    for start in range(3):
        with open_world(tmp_path, database_url, receiver, settings=STILL) as world:
            spend_tries(world, "app", f"wrong-{start}", 5)
    with open_world(tmp_path, database_url, receiver, settings=STILL) as world:
        assert not passes(world, "right")


def test_r09_the_tries_of_a_verification_outlive_a_restart(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    for _ in range(2):
        with open_world(tmp_path, database_url, receiver, settings=STILL) as world:
            spend_tries(world, "app", "one", 2)
    with open_world(tmp_path, database_url, receiver, settings=STILL) as world:
        browser = world.browser()
        browser.begin("one", "app")
        assert "1 try" in browser.help()


def test_r07_every_name_of_a_person_draws_from_one_budget(still: World) -> None:
    for number, identifier in enumerate(("c-1001", "082 123 4567", MAIL.upper())):
        spend_tries(still, "app", f"wrong-{number}", 5, identifier)
    (tries,) = still.rows(Tries)
    assert tries.day_count == 15
    assert not passes(still, "right")


def test_r07_codes_by_sms_over_ten_references(still: World) -> None:
    evaluated = 0
    for number in range(10):
        browser = still.browser(f"198.51.100.{number}")
        browser.begin(f"reference-{number}")
        deliver(still)
        sent = still.receiver.code_for(PHONE)
        for _ in range(5):
            browser.prove(wrong(sent))
        (tries,) = still.rows(Tries)
        evaluated = max(evaluated, tries.day_count)
    assert evaluated == 15
    assert len(still.receiver.messages) <= 5


def test_r06_wrong_passwords_are_budgeted_and_a_right_one_then_is_wrong(small_still: World) -> None:
    for number in range(3):
        browser = small_still.browser()
        browser.begin(f"wrong-{number}", "password")
        for _ in range(5):
            browser.prove("not the right battery staple")
    assert not passes(small_still, "right", "password")
    assert "verified_password" not in results(small_still)


def test_r06_an_alarm_when_many_credentials_are_spent(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    config = journey("app", "totp", default=True, limits="credential_tries_day = 5")
    with open_world(tmp_path, sqlite_url, receiver, config=config, settings=STILL) as world, logged() as log:
        for number in range(SPENT_CREDENTIALS_ALARM):
            spend_tries(world, "", f"reference-{number}", 5, f"C-{number}")
        assert "many_credentials_spent" not in log.getvalue()
        spend_tries(world, "", "one-more", 5, "C-1001")
        assert "many_credentials_spent" in log.getvalue()


def test_r11_a_success_resets_only_what_it_proved(still: World) -> None:
    browser = still.browser()
    browser.begin("one", "password")
    browser.prove("not the right battery staple")
    spend_tries(still, "app", "two", 4)
    assert passes(still, "three")
    counts = {row.method: (row.total, row.day_count) for row in still.rows(Tries)}
    assert counts == {"password": (1, 1), "totp": (0, 0)}


def test_r11_a_success_gives_an_address_nothing_back(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    config = STANDARD + "\n[portal.limits]\nbegins_per_minute = 3\npassword_checks_per_minute = 3\n"
    with open_world(tmp_path, sqlite_url, receiver, config=config, settings=STILL) as world:
        assert passes(world, "one")
        assert passes(world, "two", "password")
        browser = world.browser()
        browser.begin("three", "password")
        for _ in range(2):
            assert browser.prove("not the right battery staple").status_code == 422
        page = browser.prove(PASSWORD)
        assert page.status_code == 429
        assert 0 < int(page.headers["Retry-After"]) <= 60
        assert max(row.wrong_tries for row in world.rows(Verification)) == 2  # nothing was counted
        assert world.browser().begin("four").status_code == 429
        world.clock.advance(61)
        browser.get("/verify")
        browser.prove(PASSWORD)
        assert browser.path == "/done"


def test_r08_a_password_takes_a_transaction_to_count_its_try_and_one_to_settle(small_still: World) -> None:
    browser = small_still.browser()
    browser.begin("abc", "password")
    commits: list[int] = []
    engine = small_still.transactions.database.engine
    event.listen(engine, "commit", lambda _connection: commits.append(small_still.rows(Verification)[0].wrong_tries))
    for typed, tries in (("not the right battery staple", [0, 1]), (PASSWORD, [1, 2])):  # as they were just before each
        commits.clear()
        browser.prove(typed, follow=False)
        assert commits == tries
    assert small_still.rows(Verification)[0].wrong_tries == 1


def test_r08_while_hashing_is_full_a_password_counts_nothing(small_still: World) -> None:
    browser = small_still.browser()
    browser.begin("abc", "password")
    prompt = small_still.rows(Visit)[0].prompt
    with ExitStack() as others:
        with suppress(Busy):
            while True:
                others.enter_context(small_still.services.customers._passwords.slot())
        for typed in (PASSWORD, "not the right battery staple"):
            page = browser.prove(typed, follow=False)
            assert page.status_code == 503
            assert int(page.headers["Retry-After"]) > 0
            assert "haven't used a try" in unescape(page.text)
            browser.get("/verify")
        assert browser.prove("", follow=False).status_code == 422  # nothing typed is nothing hashed
    assert small_still.rows(Visit)[0].prompt == prompt
    assert [row.wrong_tries for row in small_still.rows(Verification)] == [0]
    assert not small_still.rows(Tries)
    assert not [row for row in small_still.rows(Counter) if row.key.startswith("checks:")]
    browser.get("/verify")
    browser.prove(PASSWORD)
    assert browser.path == "/done"


# -- sends ------------------------------------------------------------------------------------------------------


def sent(world: World) -> int:
    deliver(world, (MESSAGE,))
    return len(world.receiver.messages)


def resend(browser: Browser) -> int:
    browser.get("/verify")
    if 'action="/verify/resend"' not in browser.page.text:
        return 0
    return browser.post("/verify/resend").status_code


def test_r12_thirty_then_sixty_seconds_and_three_in_all(still: World) -> None:
    browser = still.browser()
    browser.begin("one")
    assert sent(still) == 1
    for wait, count in ((29, 1), (1, 2), (59, 2), (1, 3), (120, 3), (120, 3)):
        still.clock.advance(wait)
        assert resend(browser) in (200, 429, 0)
        assert sent(still) == count
    assert 'action="/verify/resend"' not in browser.get("/verify").text


def test_r12_a_form_kept_back_sends_no_more(still: World) -> None:
    """The limit is the server's: the button of an old page, pressed again and again."""
    browser = still.browser()
    browser.begin("one")
    form = browser.hidden("/verify/resend")
    for _ in range(30):
        still.clock.advance(15)
        browser.client.post("/verify/resend", data=form, base_url=browser.base_url)
        sent(still)
    assert sent(still) == 3


def test_r12_five_an_hour_and_ten_a_day_whatever_is_rotated(still: World) -> None:
    names = ["C-1001", " c-1001", "082 123 4567", "+27 82 123 4567", "0027821234567", MAIL]

    def begin_many(hour: int) -> None:
        for number in range(12):
            browser = still.browser(f"198.51.{hour}.{number}")
            browser.client.environ_base["HTTP_X_FORWARDED_FOR"] = f"203.0.{hour}.{number}"
            browser.begin(f"reference-{hour}-{number}", identifier=names[number % len(names)])
            assert browser.path == "/verify"

    begin_many(0)
    assert sent(still) == 5
    still.clock.advance(3601)
    begin_many(1)
    assert sent(still) == 10
    still.clock.advance(3601)
    begin_many(2)
    assert sent(still) == 10
    still.clock.advance(DAY)
    begin_many(3)
    assert sent(still) == 15
    assert {message["to"] for message in still.receiver.messages} == {PHONE}
    assert {row.reason for row in still.rows(Delivery) if row.state == "dropped"} == {"destination limit reached"}


def test_r12_renaming_within_one_verification_sends_three(still: World) -> None:
    browser = still.browser()
    browser.begin("one")
    for name in ("082 123 4567", MAIL, "c-1001", PHONE):
        if 'action="/verify/change"' in browser.page.text:
            browser.post("/verify/change")
            browser.post("/verify", identifier=name)
    assert sent(still) == 3


def test_r12_no_more_leaves_after_a_crash(still: World) -> None:
    """The dispatcher dies between its claim and its record; whoever takes over counts again."""
    for number in range(6):
        still.browser().begin(f"reference-{number}")
    lane = still.services.dispatcher.lanes[1]
    assert len(lane.outbox.claim(MESSAGE, 50)) == 6
    still.clock.advance(16)
    assert sent(still) == 5


def many_people(count: int) -> str:
    rows = [f"P-{number},+2782123{4600 + number}" for number in range(count)]
    return "customer_id,phone\n" + "\n".join(rows) + "\nP-UK,+447400123456\n"


def capped(cap: int) -> str:
    return f"""
[[channels]]
name = "capped"
kind = "http"
carries = "sms"
method = "POST"
url = "{{receiver}}/sms"
content_type = "application/json"
body = '{{{{"to": "{{{{to}}}}", "text": "{{{{text}}}}"}}}}'
countries = ["ZA"]
daily_cap = {cap}
""" + journey("capped", "sms_code").replace('channels = ["sms", "mail"]', 'channels = ["capped"]')


def test_r12_seventy_percent_of_a_daily_cap_and_an_alarm(tmp_path: Path, database_url: str, receiver: Receiver) -> None:
    configure(database_url, receiver, CONFIG + STANDARD, many_people(14))
    with (
        open_world(tmp_path, database_url, receiver, config=STANDARD + capped(10), settings=STILL) as world,
        logged() as log,
    ):
        for number in range(14):
            world.browser().begin(f"reference-{number}", "capped", f"P-{number}")
        assert sent(world) == 7
        assert "daily_cap_near" in log.getvalue()
        assert "the channel's daily cap is reached" in {row.reason for row in world.rows(Delivery)}
        world.clock.advance(DAY)
        world.browser().begin("the-next-day", "capped", "P-1")
        assert sent(world) == 8


def test_r12_only_the_countries_of_the_channel(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    configure(sqlite_url, receiver, CONFIG + STANDARD, many_people(1))
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        foreign, local = world.browser(), world.browser()
        foreign.begin("one", identifier="P-UK")
        local.begin("two", identifier="P-00")
        assert sent(world) == 0
        assert face(foreign.page, "P-UK") == face(local.page, "P-00")  # and nothing shows it
        assert "the channel does not send to GB" in {row.reason for row in world.rows(Delivery)}


def test_countries_of_a_channel_hold_no_mail_back(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    named = CONFIG.replace('carries = "email"', 'carries = "email"\ncountries = ["ZA"]')
    with open_world(tmp_path, sqlite_url, receiver, base=named, settings=STILL) as world:
        world.browser().begin("one", "mail")
        deliver(world)
        assert [row.state for row in world.rows(Delivery)] == ["accepted"]
        assert receiver.code_for(MAIL)


def test_r12_a_failing_provider_is_not_paid_for_ever(small_still: World) -> None:
    """A message that cannot be sent and loops, at a price (Zitadel #7186)."""
    small_still.receiver.sms_answers = [500] * 100
    small_still.browser().begin("one")
    while deliver(small_still):
        small_still.clock.now = small_still.rows(Delivery)[0].next_at
    (message,) = small_still.rows(Delivery)
    assert message.state == "unconfirmed"
    assert 100 - len(small_still.receiver.sms_answers) == 2


# -- addresses --------------------------------------------------------------------------------------------------


def posts(world: World, address: str, count: int, prefix: str, **more: str) -> list[int]:
    """Landing forms sent as fast as can be, each with another reference."""
    browser = world.browser(address)
    browser.open("first")
    form = {**browser.hidden("/"), "identifier": "C-1", **more}
    return [
        browser.client.post(
            "/", data={**form, "reference": f"{prefix}-{number}"}, base_url=browser.base_url
        ).status_code
        for number in range(count)
    ]


def test_r12a_three_hundred_begins_a_minute(small_still: World) -> None:
    assert posts(small_still, "203.0.113.7", 300, "a", decline="not_me") == [303] * 300
    before = len(small_still.rows(Verification)), len(small_still.rows(Delivery))
    assert posts(small_still, "203.0.113.7", 3, "more") == [429] * 3
    assert (len(small_still.rows(Verification)), len(small_still.rows(Delivery))) == before
    assert posts(small_still, "203.0.113.8", 1, "b", decline="not_me") == [303]
    browser = small_still.browser()
    page = browser.begin("one-more")
    assert page.status_code == 429
    assert 0 < int(page.headers["Retry-After"]) <= 60
    assert "Too many people are starting from your network. Try again in a moment." in page.text
    small_still.clock.advance(61)
    assert posts(small_still, "203.0.113.7", 1, "c", decline="not_me") == [303]
    assert len(small_still.rows(Verification)) == 302
    typed = re.search(r'id="identifier"[^>]* value="([^"]*)"', page.text)
    assert typed
    browser.post("/", identifier=typed[1])  # the same page again, with what was typed
    assert browser.path == "/verify"


@pytest.mark.parametrize(
    ("addresses", "last"),
    [
        (["2001:db8:1:2::1", "2001:db8:1:2:ffff::2", "2001:db8:1:2:1234:5678:9abc:def0", "2001:db8:1:2::1"], 429),
        (["2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8:1:4::1", "2001:db8:1:5::1"], 303),
        (["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "::ffff:c000:201"], 429),
        (["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"], 303),
    ],
)
def test_r12a_an_address_is_one_ipv4_or_one_ipv6_network(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, addresses: list[str], last: int
) -> None:
    config = STANDARD + "\n[portal.limits]\nbegins_per_minute = 3\n"
    with open_world(tmp_path, sqlite_url, receiver, config=config, settings=STILL) as world:
        statuses = [posts(world, address, 1, f"r{number}")[0] for number, address in enumerate(addresses)]
    assert statuses == [303, 303, 303, last]


def test_r12a_whoever_invents_references_is_slowed(still: World) -> None:
    still.receiver.answers = [400] * 20
    posts(still, "203.0.113.66", 20, "invented", decline="not_me")
    deliver(still, (CALLBACK,))
    assert posts(still, "203.0.113.66", 1, "a") == [303]
    browser = still.browser("203.0.113.66")
    page = browser.begin("another")
    assert page.status_code == 429
    assert 0 < int(page.headers["Retry-After"]) <= 10
    assert posts(still, "203.0.113.7", 3, "b") == [303] * 3
    still.clock.advance(10)
    assert posts(still, "203.0.113.66", 2, "c") == [303, 429]
    still.clock.advance(3600)
    assert posts(still, "203.0.113.66", 3, "d") == [303] * 3


def test_r12a_half_of_the_answers_or_few_of_them_slow_nobody(small_still: World) -> None:
    small_still.receiver.answers = [200, 400] * 15
    posts(small_still, "203.0.113.9", 30, "half", decline="not_me")
    small_still.receiver.answers += [400] * 19
    posts(small_still, "203.0.113.10", 19, "few", decline="not_me")
    deliver(small_still, (CALLBACK,))
    assert posts(small_still, "203.0.113.9", 3, "a") == [303] * 3
    assert posts(small_still, "203.0.113.10", 3, "b") == [303] * 3


def test_r12a_verified_leaves_first_and_expired_last(still: World) -> None:
    for number in range(3):
        still.browser().begin(f"expired-{number}", "app")
    still.clock.advance(400)
    cancelled, verified = still.browser(), still.browser()
    cancelled.begin("cancelled", "app")
    verified.begin("verified", "app")
    still.clock.advance(100)
    assert expire(still) == 3
    cancelled.get("/verify")
    cancelled.post("/verify/cancel", reason="cancelled")
    verified.prove(still.totp())
    deliver(still, (CALLBACK,), most=1)
    told = [call.body["data"]["outcome"] for call in still.receiver.callbacks]
    assert told == ["verified", "cancelled", "expired", "expired", "expired"]


def test_r12_strangers_are_counted_and_queued_like_anyone(still: World) -> None:
    for identifier in ("C-1001", "C-9999"):
        still.browser().begin(f"reference-{identifier}", identifier=identifier)
    assert len(still.rows(Challenge)) == len(still.rows(Delivery)) == 2
    assert code_for(still, PHONE)
    assert sent(still) == 1
    assert wrong_totp(still) != still.totp()
