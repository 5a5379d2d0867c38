"""The frame of the configuration page: the menu of each role, what is open, where a page is, and the search."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import insert, update

from auth_portal.store.models import ChannelState, Delivery, table_of
from tests.admin.desk import Desk, signed_in
from tests.admin.test_routes import TABLE
from tests.receiver import wait_for
from tests.world import World

MENU = {
    "": "verifications_home",
    "verifications": "verifications_verifications",
    "deliveries": "deliveries_deliveries",
    "customers": "customers_listed",
    "imports": "imports_imports",
    "journeys": "journeys_journeys",
    "channels": "channels_channels",
    "admins": "admins_people",
    "api-keys": "api_keys_keys",
    "audit": "audit_audit",
    "settings": "settings_settings",
}


def menu(desk: Desk, path: str = "/admin/") -> str:
    found = re.search(r'<nav aria-label="Sections">.*?</nav>', desk.get(path).text, re.DOTALL)
    assert found, desk.page.text
    return found[0]


@pytest.mark.parametrize("role", ["owner", "support", "auditor"])
def test_the_menu_shows_what_a_role_may_open_and_where_they_are(small_world: World, role: str) -> None:
    desk = signed_in(small_world, role)
    allowed = [path for path, endpoint in MENU.items() if role in TABLE[endpoint]]
    assert re.findall(r'href="/admin/([^"]*)"', menu(desk)) == allowed
    for path in allowed:
        shown = re.findall(r'href="/admin/([^"]*)" aria-current="page"', menu(desk, f"/admin/{path}"))
        assert shown == [path]
        assert desk.page.status_code == 200
    assert 'aria-current="page"' not in menu(desk, "/admin/account")


def test_what_waits_for_an_admin_is_counted_in_the_menu(owner: Desk) -> None:
    world, now = owner.world, owner.world.clock.now
    assert 'class="open"' not in menu(owner)
    notice = wait_for(lambda: next((row for row in world.rows(Delivery) if row.state == "accepted"), None))
    used = {row.name for row in world.rows(ChannelState)}
    name = next(name for name in world.services.journeys.current().channels if name not in used)
    state = {"name": name, "failures_in_row": 1, "failed_at": now, "failing_since": now, "reason": "no funds"}
    gone = {**state, "name": "deleted-long-ago"}
    with world.services.transactions.write() as work:
        work.execute(insert(table_of(ChannelState)), [state, gone])
        work.execute(update(Delivery).where(Delivery.id == notice.id).values(state="refused", body_sealed=b"its text"))
    world.clock.advance(11)
    shown = re.sub(r"<svg.*?</svg>", "", menu(owner))
    assert '>Channels <span class="open">1<span class="visually-hidden"> failing' in shown
    assert '>Deliveries <span class="open">1<span class="visually-hidden"> can be sent again' in shown
    # One that a retry would refuse is not open: its text is erased.
    with world.services.transactions.write() as work:
        work.execute(update(Delivery).where(Delivery.id == notice.id).values(body_sealed=None))
        work.execute(update(ChannelState).values(failures_in_row=0))
    world.clock.advance(11)
    assert 'class="open"' not in menu(owner)


def test_a_page_of_one_thing_says_where_it_is_and_in_which_state(owner: Desk) -> None:
    row = owner.world.services.customers.page().customers[0].row
    page = owner.get(f"/admin/customers/{row}/edit").text
    crumbs = re.search(r'<nav class="crumbs".*?</nav>', page, re.DOTALL)
    assert crumbs
    assert re.findall(r'href="([^"]*)"', crumbs[0]) == ["/admin/customers", f"/admin/customers/{row}"]
    assert 'aria-current="page">Change customer' in crumbs[0]
    head = owner.get(f"/admin/customers/{row}").text.partition('class="pill"')[2].partition("</div>")[0]
    assert re.sub(r"<svg.*?</svg>|<[^>]+>", "", head).strip(">").strip() == "on"
    assert 'class="crumbs"' not in owner.get("/admin/customers").text
