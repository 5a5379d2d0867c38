"""The home page: what needs attention, the funnel, the first steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from auth_portal.services.history.overview import duration
from auth_portal.store.models import Delivery
from tests.admin.desk import Desk, signed_in
from tests.receiver import Receiver, wait_for
from tests.security.tools import STILL, deliver
from tests.world import World, open_world


def told(world: World) -> bool:
    """Whether nothing is on its way any more."""
    return all(row.state != "pending" for row in world.rows(Delivery))


def row_of(text: str, slug: str) -> list[int]:
    found = re.search(rf'href="/admin/journeys/{slug}">.*?</tr>', text, re.DOTALL)
    assert found, text
    return [int(count) for count in re.findall(r">(\d+)</td>", found.group())]


def test_the_funnel_counts_how_far_people_got(world: World) -> None:
    desk = signed_in(world)
    for number, proof in enumerate((world.totp(), "000000", None)):
        browser = world.browser()
        browser.begin(f"ref-{number}", "app")
        if proof:
            browser.prove(proof)
    world.browser().open("ref-3", "app")
    sms = world.browser()
    sms.begin("ref-4", "balance")
    wait_for(lambda: told(world))
    page = desk.get("/admin/?period=hour").text
    assert row_of(page, "app") == [3, 3, 0, 1, 1]
    assert row_of(page, "balance") == [1, 1, 1, 0, 0]
    assert "4 begun, 1 proved, 1 where the chat has the answer" in page
    assert "authenticator app: 1" in page
    world.clock.advance(3601)
    signed = signed_in(world, "auditor")
    world.services.overview._cache.clear()
    assert "No verification in this period." in signed.get("/admin/?period=hour").text
    assert row_of(signed.get("/admin/?period=day").text, "app") == [3, 3, 0, 1, 1]


def test_an_unknown_period_is_a_day(owner: Desk) -> None:
    assert "Last 24 hours" in owner.get("/admin/?period=%01").text


def test_a_locked_customer_needs_attention(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    """Sent by the test itself: where an attempt fails on a busy machine, its retry would wait for a clock that stands."""
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        owner = signed_in(world)
        deliver(world)
        assert "Nothing needs attention." in owner.get("/admin/").text
        for number in range(3):
            browser = world.browser()
            browser.begin(f"ref-{number}", "app")
            for _try in range(5):
                browser.prove("000000")
        page = owner.get("/admin/").text
        assert "Locked customers" in page
        assert "C-1001" in page


def test_the_first_steps_lead_from_nothing_to_a_verification(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, config="", base="") as world:
        page = signed_in(world).get("/admin/").text
        assert "First steps" in page
        assert page.count("to do</span>") == 3, "customers were imported"


def test_the_first_steps_go_once_they_are_done(small_world: World, owner: Desk) -> None:
    assert "First steps" in owner.get("/admin/").text
    browser = small_world.browser()
    browser.begin("ref-1", "app")
    browser.prove(small_world.totp())
    assert "First steps" not in owner.get("/admin/").text


@pytest.mark.parametrize(
    ("sample", "median", "p95", "counts"), [([3.0], 3.0, 3.0, (0, 1, 0)), ([1.0, 2.0, 9.0], 2.0, 9.0, (2, 0, 1))]
)
def test_durations(sample: list[float], median: float, p95: float, counts: tuple[int, ...]) -> None:
    found = duration(sample, (2, 5))
    assert found is not None
    assert (found.median, found.p95, found.counts) == (median, p95, counts)
    assert duration([], (2, 5)) is None


def test_the_locked_are_found_by_their_index(small_world: World, owner: Desk) -> None:
    """Of a million people who once mistyped, the few who are locked are asked for on each look at the page."""
    with small_world.statements() as seen:
        owner.get("/admin/")
    (statement,) = [text for text in seen if "JOIN tries" in text]
    with small_world.database.read() as connection:
        parameters = tuple([small_world.clock.now] + [1] * (statement.count("?") - 1))
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert any("ix_tries_many" in str(row) for row in plan), plan
