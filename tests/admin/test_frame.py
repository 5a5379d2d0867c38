"""The frame of the configuration page: the menu of each role, what is open, where a page is, and the search."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from auth_portal.store.models import AuditEvent, ChannelState, Delivery, Verification, table_of
from tests.admin.desk import MAIL_OF, Desk, signed_in
from tests.admin.test_routes import TABLE
from tests.receiver import Receiver, wait_for
from tests.security.tools import STILL
from tests.world import World, open_world

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
    wait_for(lambda: world.rows(Delivery) and all(row.state == "accepted" for row in world.rows(Delivery)))
    notice = world.rows(Delivery)[0]
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


EMPTY = {  # by page: the heading, and where its button leads an owner and support
    "verifications": ("No verification yet", "/admin/journeys", "/admin/journeys"),
    "deliveries": ("Nothing has been sent yet", "/admin/channels", "/admin/channels"),
    "customers": ("No customer yet", "/admin/imports", "/admin/imports"),
    "journeys": ("No journey yet", "/admin/journeys/_new", ""),
    "channels": ("No channel yet", "", ""),  # every way to make one is below, as a tile
    "api-keys": ("No key yet", "/admin/api-keys/new", None),
}


def test_a_list_without_anything_says_what_to_do_and_offers_it_to_who_may(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, config="", base="", settings=STILL) as world:
        for customer in world.services.customers.page().customers:
            world.services.erasure.erase(customer.row)
        desks = signed_in(world), signed_in(world, "support")
        for path, (heading, *links) in EMPTY.items():
            for desk, link in zip(desks, links, strict=True):
                if link is None:
                    continue
                part = desk.get(f"/admin/{path}").text.partition('<div class="empty yet">')[2].partition("</div>")[0]
                assert heading in part, path
                assert re.findall(r'href="([^"]*)"', part) == ([link] if link else []), (path, desk.email)
        assert "No verifications match." in desks[0].get("/admin/verifications?outcome=expired").text


# --- The search


def searched(desk: Desk, text: str) -> str:
    """What a search answers: the address that it leads to, or "" for its own page."""
    desk.get("/admin/")
    answer = desk.post("/admin/search", follow=False, q=text)
    assert answer.status_code in (200, 303), answer.text
    return str(answer.headers.get("Location", ""))


@pytest.fixture(params=["owner", "support", "auditor"])
def desk(request: pytest.FixtureRequest, small_world: World) -> Desk:
    return signed_in(small_world, request.param)


def test_the_search_opens_what_a_text_names_exactly(desk: Desk) -> None:
    world = desk.world
    customer = next(one for one in world.services.customers.page().customers if one.customer_id == "C-1001")
    clear = world.services.customers.get(customer.row)
    world.browser().begin("f7_4hn5=8f&%#nK=", "mail")
    (verification,) = world.rows(Verification)
    delivery = wait_for(lambda: next((row for row in world.rows(Delivery) if row.verification_id), None))
    person = f"/admin/customers/{customer.row}"
    story = f"/admin/verifications/{verification.id}"
    national = f"0{clear.phone.removeprefix('+27')}"
    found = {
        "C-1001": person,
        " c-1001 ": person,
        clear.phone: person,
        national: person,
        f"{national[:3]} {national[3:6]} {national[6:]}": person,
        f"tel:{clear.phone}": person,
        clear.phone.removeprefix("+"): person,
        clear.email.upper(): person,
        f"Someone <{clear.email}>": person,
        clear.name: person,
        "f7_4hn5=8f&%#nK=": story,
        "https://verify.example/j/mail?reference=f7_4hn5=8f&%#nK=": story,
        verification.id: story,
        f"https://verify.example{story}": story,
        delivery.id: f"/admin/deliveries/{delivery.id}",
        "https://verify.example/j/mail": "/admin/journeys/mail",
        "deliveries": "/admin/deliveries",
        "Your account": "/admin/account",
        "new customer": "/admin/customers/new" if desk.email != MAIL_OF["auditor"] else "",
    }
    assert {text: searched(desk, text) for text in found} == found


def test_no_address_or_log_holds_what_was_searched_for(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    world = desk.world
    clear = world.services.customers.get(world.services.customers.page().customers[0].row)
    world.browser().begin("secret-reference-1", "mail")
    for text in (clear.phone, clear.email, clear.name, clear.customer_id, "secret-reference-1", "+27 83 999 0001"):
        digits = re.sub(r"\D", "", text)
        seen = searched(desk, text) + desk.page.request.full_path
        assert text not in seen
        assert len(digits) < 7 or digits not in seen
        assert text not in capsys.readouterr().err
    before = len(world.rows(AuditEvent))
    searched(desk, clear.phone)
    assert len(world.rows(AuditEvent)) == before


def test_a_search_that_may_mean_several_things_says_how_it_was_read(desk: Desk) -> None:
    world = desk.world
    world.browser().begin("of-a-stranger", "mail", identifier="083 999 0001")
    assert searched(desk, "083 999 0001") == ""
    text = " ".join(re.sub(r"<[^>]+>", " ", desk.page.text).split())
    assert "083 999 0001 was read as +27 83 999 0001 (South Africa)." in text
    assert "No customer · now" in text
    assert "All of them" in text
    assert searched(desk, "0899990001234") == ""
    assert "This is no phone number of South Africa, so it was read as an ID." in " ".join(desk.page.text.split())


def test_contacts_stay_masked_in_what_a_search_finds(desk: Desk) -> None:
    world = desk.world
    one, other = world.services.customers.page().customers[:2]
    shared = world.services.customers.get(one.row)
    world.services.customers.change(other.row, {"email": shared.email})
    assert searched(desk, shared.email) == ""
    page = desk.page.text
    assert f"/admin/customers/{one.row}" in page
    assert f"/admin/customers/{other.row}" in page
    shown = re.sub(r'<input id="search"[^>]*>', "", page)
    assert shared.email not in shown
    assert shared.phone not in shown
    assert shared.name not in shown


@pytest.mark.parametrize(
    "text", ["", "   ", "a", "%", "no such thing", "x" * 3000, "’; DROP TABLE", "0" * 40, "\u202e"]
)
def test_a_search_for_nothing_says_so(owner: Desk, text: str) -> None:
    assert searched(owner, text) == ""
    page = owner.page.text
    assert "Type or paste something first." in page or "Nothing found." in page, page
    assert "<script>" not in page


def test_a_part_of_a_name_finds_journeys_channels_and_pages_that_the_role_may_open(desk: Desk) -> None:
    searched(desk, "key")
    is_support = desk.email == MAIL_OF["support"]
    assert ('href="/admin/api-keys"' in desk.page.text) != is_support
    assert "/admin/api-keys/new" not in desk.page.text or desk.email == MAIL_OF["owner"]
    searched(desk, "ai")
    assert 'href="/admin/journeys/mail"' in desk.page.text
    assert 'href="/admin/channels/mail"' in desk.page.text


def panel(desk: Desk, text: str) -> str:
    """What the panel below the box shows while an admin types."""
    desk.get("/admin/")
    answer = desk.post("/admin/search", follow=False, q=text, panel="1")
    assert answer.status_code == 200, answer.text
    return str(answer.text)


def test_the_panel_shows_what_the_page_of_the_search_shows(desk: Desk) -> None:
    """Also for what the form would open at once; contacts are masked, and each role sees what it may open."""
    customer = next(one for one in desk.world.services.customers.page().customers if one.customer_id == "C-1001")
    clear = desk.world.services.customers.get(customer.row)
    desk.world.browser().begin("for-the-panel", "mail")
    seen = panel(desk, clear.phone)
    assert re.findall(r'data-path="(/admin/customers/[^"]*)"', seen) == [f"/admin/customers/{customer.row}"]
    assert len(re.findall(r'data-path="/admin/verifications/', seen)) == 1
    assert f"was read as {clear.phone[:3]} " in seen
    assert not [text for text in (clear.email, clear.name) if text in seen]
    assert "<html" not in seen, "only the panel"
    is_support = desk.email == MAIL_OF["support"]
    assert ('data-path="/admin/api-keys"' in panel(desk, "key")) != is_support
    assert "Nothing found." in panel(desk, "no such thing")
    assert 'role="option"' not in panel(desk, "no such thing")


def test_the_panel_has_at_most_eight_entries(owner: Desk) -> None:
    names = [f"part-{number}" for number in range(12)]
    slugs = (
        f"""[[journeys]]
slug = "{name}"
name = "{name}"
active = false
callback = {{ server = "uat" }}
steps = [{{ kind = "identify", by = ["customer_id"] }}, {{ kind = "verify", any_of = ["totp"] }}]
"""
        for name in names
    )
    owner.world.services.configuration.import_toml("\n".join(slugs), file_name="many.toml")
    found = re.findall(r'role="option"', panel(owner, "part-"))
    assert len(found) == 8
    searched(owner, "part-")
    assert owner.page.text.count('<li><a href="/admin/journeys/part-') == 12


def test_the_keys_lead_only_to_what_a_role_may_open(desk: Desk) -> None:
    page = desk.get("/admin/").text
    keys = dict(re.findall(r'<a href="([^"]+)"[^>]* data-key="([a-z])"', page))
    assert keys == {
        "/admin/": "h",
        "/admin/verifications": "v",
        "/admin/deliveries": "d",
        "/admin/customers": "c",
        "/admin/journeys": "j",
        "/admin/audit": "a",
    }
    shown = page[page.index('id="keys"') :]
    assert re.findall(r"<kbd>([a-z])</kbd></dt>", shown) == list(keys.values())
