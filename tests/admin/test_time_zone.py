"""The time zone of the settings: every page tells and takes times in it, programs are told UTC."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from auth_portal.store.models import Delivery, Portal
from tests.admin.desk import Desk, signed_in
from tests.admin.test_settings import FORM, save
from tests.receiver import Receiver
from tests.security.tools import STILL, deliver
from tests.world import World, open_world

FOOTER = re.compile(r"<footer>\s*<p>([^<]*)")


@pytest.fixture
def desk(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[Desk]:
    """An owner, where nothing leaves until the test says so."""
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as opened:
        yield signed_in(opened)


def move_to(world: World, moment: str) -> None:
    world.clock.now = datetime.fromisoformat(moment).replace(tzinfo=UTC)


def back(desk: Desk) -> None:
    """At the home page again, whatever the session says to the moved clock."""
    if desk.get("/admin/").request.path != "/admin/":
        desk.sign_in()


def verify(world: World, reference: str) -> None:
    """One verification, all at this moment."""
    browser = world.browser()
    browser.begin(reference, "app")
    browser.prove(world.totp())
    deliver(world)


def times(text: str) -> list[str]:
    """The times on a page, as people read them."""
    return re.findall(r"<time [^>]*>([^<]*)</time>", text)


def chosen(desk: Desk, name: str) -> None:
    assert save(desk, time_zone=name).status_code == 200
    (row,) = desk.world.rows(Portal)
    assert row.settings["time_zone"] == name


def test_without_a_setting_times_are_utc(desk: Desk) -> None:
    move_to(desk.world, "2026-11-22 22:30")
    back(desk)
    verify(desk.world, "ref-1")
    page = desk.get("/admin/verifications").text
    assert times(page) == [f"2026-11-22 22:30:{desk.world.clock.now:%S}"]
    assert FOOTER.search(page).group(1).strip() == "Times are in UTC."  # type: ignore[union-attr]
    story = desk.get(re.search(r"/admin/verifications/\w{20,}", page).group()).text  # type: ignore[union-attr]
    assert times(story)[0].startswith("22:30")


def test_every_page_tells_times_in_the_zone_and_names_it_once(desk: Desk) -> None:
    world = desk.world
    move_to(world, "2026-11-22 22:30")
    back(desk)
    verify(world, "ref-1")
    world.services.overview._cache.clear()
    chosen(desk, "Africa/Johannesburg")
    listed = desk.get("/admin/verifications").text
    told = re.search(r"/admin/verifications/\w{20,}", listed).group()  # type: ignore[union-attr]
    (callback,) = [row for row in world.rows(Delivery) if row.kind == "callback"]
    pages = ("/admin/", "/admin/verifications", told, "/admin/deliveries", f"/admin/deliveries/{callback.id}",
             "/admin/audit", "/admin/account", "/admin/journeys", "/admin/journeys/app", "/admin/journeys/app/versions")  # fmt: skip
    for path in pages:
        page = desk.get(path).text
        assert page.count("Times are") == 1, path
        assert FOOTER.search(page).group(1).strip() == "Times are in Africa/Johannesburg (UTC+2 now)."  # type: ignore[union-attr]
        assert times(page), path
        # The small hours of the next day; the config was imported at about noon of the one before.
        # The list of journeys has days alone.
        known = ("2026-11-23 00:3", "00:3", "2026-11-22 14:0")
        page = re.sub(r'<details class="plain">.*?</details>', "", page, flags=re.DOTALL)  # the table of a chart
        assert all(text.startswith(known) or text in ("2026-11-22", "now") for text in times(page)), path
    story = desk.get(told).text
    assert re.search("<h1>T••• N•••, today 00:30", story)
    assert re.search(r"00:3.:..</time>.*Began on the journey.*00:3.:..</time>.*Verified with", story, re.DOTALL)
    assert 'datetime="2026-11-22T22:3' in story, "machines are told UTC"
    assert "The count restarts at 02:00 each day (midnight UTC)" in desk.get("/admin/channels/sms").text


def test_a_story_past_midnight_says_the_day(desk: Desk) -> None:
    chosen(desk, "Africa/Johannesburg")
    move_to(desk.world, "2026-11-22 21:58")
    browser = desk.world.browser()
    browser.begin("ref-1", "app")
    desk.world.clock.advance(240)
    browser.prove(desk.world.totp())
    back(desk)
    listed = desk.get("/admin/verifications").text
    page = desk.get(re.search(r"/admin/verifications/\w{20,}", listed).group()).text  # type: ignore[union-attr]
    assert "<h1>T••• N•••, 2026-11-22 23:58" in page
    assert re.search(r"2026-11-23 00:02:00</time>.*?Verified with", page, re.DOTALL)


def test_what_is_typed_into_a_filter_is_of_the_zone(desk: Desk) -> None:
    world = desk.world
    chosen(desk, "America/New_York")
    passes = ("2026-11-01 05:30", "2026-11-01 06:30")  # both are half past one there
    for number, moment in enumerate(("2026-11-01 04:30", *passes, "2026-11-01 07:30")):
        move_to(world, moment)
        verify(world, f"ref-{number}")
    move_to(world, "2026-11-01 08:00")
    back(desk)

    def found(path: str, **asked: str) -> list[str]:
        query = "&".join(f"{name}={value}" for name, value in asked.items())
        return times(desk.get(f"/admin/{path}?{query}").text.partition('class="cards lead"')[2])

    everything = [
        "2026-11-01 02:30:00",
        "2026-11-01 01:30:00 UTC-5",
        "2026-11-01 01:30:00 UTC-4",
        "2026-11-01 00:30:00",
    ]
    for path in ("verifications", "deliveries"):
        assert found(path, kind="callback", since="2026-11-01") == everything
        assert found(path, kind="callback", since="2026-11-01T01:30") == everything[:3]
        assert found(path, kind="callback", since="2026-11-01T01:31") == everything[:2], (
            "the second half past one is later"
        )
        assert found(path, kind="callback", until="2026-11-01T01:30") == everything[2:], "so is only the very moment"
        assert found(path, kind="callback", until="2026-11-01T02:00") == everything[1:]
        assert found(path, kind="callback", since="2026-11-01T02:00") == everything[:1]
    page = desk.get("/admin/audit?since=2026-11-01T01:30&until=2026-11-01T02:00").text
    assert set(times(page)) == set(everything[1:3])
    assert 'value="2026-11-01T01:30"' in page, "what was typed stays"
    assert desk.get("/admin/audit?since=half+past").status_code == 422


def test_a_wrong_zone_is_refused_with_field_and_reason(desk: Desk) -> None:
    for wrong in ("Johannesburg", "africa/johannesburg", "", "../../etc/passwd", "Factory"):
        page = save(desk, time_zone=wrong)
        assert page.status_code == 422
        assert re.search(r'id="time_zone-fault">.*is not a time zone', page.text), wrong
    assert desk.world.rows(Portal)[0].settings["time_zone"] == "UTC"
    page = save(desk, time_zone="Mars/Olympus Mons").text
    assert '<option value="Mars/Olympus Mons" selected>' in page, "what was typed stays"


def test_the_config_file_knows_it(desk: Desk) -> None:
    chosen(desk, "Africa/Johannesburg")
    exported = desk.get("/admin/settings/file").text
    assert tomllib.loads(exported)["portal"]["time_zone"] == "Africa/Johannesburg"
    desk.get("/admin/settings/import")
    page = desk.post("/admin/settings/import", text='[portal]\ntime_zone = "America/New_York"\n').text
    assert re.search(r"<code>time_zone</code>.*Africa/Johannesburg.*America/New_York", page, re.DOTALL)
    desk.get("/admin/settings/import")
    refused = desk.post("/admin/settings/import", text='[portal]\ntime_zone = "Nowhere"\n')
    assert refused.status_code == 422
    assert "portal time_zone: is not a time zone" in refused.text


def test_programs_are_told_utc_all_the_same(desk: Desk) -> None:
    chosen(desk, "Africa/Johannesburg")
    verify(desk.world, "ref-1")
    desk.get("/admin/audit")
    rows = desk.post("/admin/audit/export", format="csv").text.splitlines()
    assert re.match(r"2026-11-22T12:0\d:\d\d\.000000Z,", rows[1])


def test_an_old_portal_without_the_setting_is_utc(desk: Desk) -> None:
    """What was stored before there was this setting has no such key."""
    assert "time_zone" in FORM
    portal = {name: value for name, value in desk.world.rows(Portal)[0].settings.items() if name != "time_zone"}
    assert type(desk.world.services.journeys.current().portal).model_validate(portal).time_zone == "UTC"
