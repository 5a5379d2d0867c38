"""How many statements each request costs; one transaction each. More is a slower portal under load."""

from __future__ import annotations

from tests.receiver import wait_for
from tests.web.test_way import sent, told
from tests.world import PHONE, World


def settled(world: World) -> None:
    """Waits until no dispatcher thread is at work, so that only the request's own statements are counted."""
    world.services.dispatcher.stop()


def test_landing_needs_none(world: World) -> None:
    browser = world.browser()
    browser.open("warm")
    settled(world)
    world.services.journeys._read_at = float("inf")
    with world.statements() as seen:
        browser.open("abc")
    assert seen == []


def test_begin_needs_nine(world: World) -> None:
    browser = world.browser()
    browser.open("abc")
    settled(world)
    world.services.journeys._read_at = float("inf")
    with world.statements() as seen:
        browser.post("/", follow=False, identifier="C-1001")
    assert len(seen) <= 9, "\n".join(seen)


def test_a_code_check_needs_six_and_done_one(world: World) -> None:
    browser = world.browser()
    browser.begin("abc")
    code = sent(world, PHONE)
    settled(world)
    world.services.journeys._read_at = float("inf")
    with world.statements() as seen:
        browser.prove(code, follow=False)
    assert len(seen) <= 6, "\n".join(seen)
    with world.statements() as seen:
        browser.get("/done")
    assert len(seen) == 1, "\n".join(seen)


def test_a_wrong_code_needs_six(world: World) -> None:
    browser = world.browser()
    browser.begin("abc", "app")
    settled(world)
    world.services.journeys._read_at = float("inf")
    with world.statements() as seen:
        browser.prove("000000", follow=False)
    assert len(seen) <= 6, "\n".join(seen)


def test_totp_needs_six(world: World) -> None:
    browser = world.browser()
    browser.begin("abc", "app")
    settled(world)
    world.services.journeys._read_at = float("inf")
    with world.statements() as seen:
        browser.prove(world.totp(), follow=False)
    assert len(seen) <= 6, "\n".join(seen)
    assert not world.receiver.callbacks


def test_the_first_try_starts_at_once_not_at_the_next_poll(small_world: World) -> None:
    small_world.services.dispatcher.lanes[0].loop._every_seconds = 60.0
    small_world.clock.advance(1)
    browser = small_world.browser()
    browser.begin("abc", "app")
    wait_for(lambda: browser.path == "/verify")
    browser.prove(small_world.totp())
    assert told(small_world).body["result"] == "verified_app"
