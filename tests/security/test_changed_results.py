"""How a verification ended (R54): changed by SQL, and what the API, lists and pages show of it then."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text, update

from auth_portal.crypto import OPEN_MACS
from auth_portal.services.operations.installation import close_restored, examine_macs
from auth_portal.store.db import new_id
from auth_portal.store.keys import broken_rows, seal_tables
from auth_portal.store.models import Delivery, Portal, TicketRow, Verification, table_of
from tests.admin.desk import Desk, signed_in
from tests.api.program import program
from tests.receiver import Receiver
from tests.security.test_macs import command
from tests.security.tools import STILL, deliver
from tests.ticketed import JOURNEYS, link, ticket
from tests.world import World, open_configured, open_world, wrap_as_before_macs

CHANGED = "changed in the database"


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, database_url, receiver, config=JOURNEYS, settings=STILL) as opened:
        yield opened


def sql(world: World, statement: str, **values: Any) -> None:
    with world.database.write() as connection:
        assert connection.execute(text(statement), values).rowcount


def ended(world: World, *, verified: bool) -> str:
    """A chat that is over, and whose result has left: verified with the app as C-1001, or cancelled."""
    browser = world.browser()
    browser.begin(f"r-{verified}", "app")
    if verified:
        browser.prove(world.totp())
    else:
        browser.post("/verify/cancel", reason="cancelled")
    deliver(world)
    (row,) = world.rows(Verification)
    assert row.outcome == ("verified" if verified else "cancelled")
    return str(row.id)


def shown(world: World, verification_id: str) -> dict[str, Any]:
    """What the API says of a verification, the same by itself and in the list."""
    api = program(world)
    one = json.loads(api.get(f"/verifications/{verification_id}").text)
    listed = json.loads(api.get("/verifications").text)["data"]
    assert one in listed
    return {name: one[name] for name in ("outcome", "customer_id", "methods")}


def pages(desk: Desk, verification_id: str) -> list[str]:
    """The admins' list, the story and the page of the callback: their text without the audit's and Flow's record."""
    (callback,) = [row for row in desk.world.rows(Delivery) if row.kind == "callback"]
    paths = ("verifications", f"verifications/{verification_id}", f"deliveries/{callback.id}")
    found = []
    for path in paths:
        assert desk.get(f"/admin/{path}").status_code == 200
        main = desk.page.text.partition("<main")[2]
        main = re.sub(r'<form.*?</form>|<details class="record">.*?</details>', "", main, flags=re.DOTALL)
        found.append(html.unescape(re.sub(r"<[^>]+>", " ", main)))
    return found


NOTHING: dict[str, Any] = {"outcome": "changed", "customer_id": None, "methods": []}
FORGED = "UPDATE verifications SET outcome = 'verified', methods = 'password'"
ATTACKS = {
    "outcome": "UPDATE verifications SET outcome = 'verified'",
    "all of it": f"{FORGED}, customer_row = (SELECT id FROM customers WHERE customer_id = 'C-1002')",
    "an outcome that there is not": "UPDATE verifications SET outcome = 'proved'",
    "alive again": "UPDATE verifications SET outcome = NULL, ended_at = NULL",
    "no MAC": "UPDATE verifications SET mac = NULL",
    "no other MAC": "UPDATE verifications SET route_mac = NULL",
    "journey": "UPDATE verifications SET slug = 'password'",
}
ATTACKS_ON_VERIFIED = {
    "customer": "UPDATE verifications SET customer_row = (SELECT id FROM customers WHERE customer_id = 'C-1002')",
    "methods": "UPDATE verifications SET methods = 'password'",
    "outcome": "UPDATE verifications SET outcome = 'wrong'",
    "the customer's ID": "UPDATE customers SET customer_id = 'C-7777' WHERE customer_id = 'C-1001'",
    "journey": "UPDATE verifications SET slug = 'password'",
    "server": "UPDATE verifications SET server = 'https://evil.example'",
}


@pytest.mark.parametrize(
    ("attack", "verified"),
    [*((attack, False) for attack in ATTACKS.values()), *((attack, True) for attack in ATTACKS_ON_VERIFIED.values())],
    ids=[*ATTACKS, *(f"verified: {name}" for name in ATTACKS_ON_VERIFIED)],
)
def test_r54_a_result_that_was_changed_by_sql_is_shown_as_changed(world: World, attack: str, verified: bool) -> None:
    desk, row = signed_in(world), ended(world, verified=verified)
    before = shown(world, row)
    assert before["outcome"] == ("verified" if verified else "cancelled")
    assert CHANGED not in "".join(pages(desk, row))
    sql(world, attack)
    assert shown(world, row) == NOTHING
    listed, story, delivery = pages(desk, row)
    assert CHANGED in listed
    assert CHANGED in delivery
    assert "Our record of this isn't reliable" in story
    assert "not shown" in story
    assert "which are signed, say how it ended" in story
    for forged in ("C-1001", "C-1002", "C-7777"):
        assert forged not in listed + story + delivery
    for forged in ("Verified with", "verified at", "received “verified", "received “failed"):
        assert forged not in story
    if "slug" not in attack and "proved" not in attack:
        world.accept()
        assert shown(world, row) != NOTHING


def test_r54_a_verified_row_that_was_copied_by_sql_is_shown_as_changed(world: World) -> None:
    row = ended(world, verified=True)
    (stored,) = world.rows(Verification)
    other = new_id(world.clock.now)
    with world.database.write() as connection:
        connection.execute(insert(table_of(Verification)).values({**stored._mapping, "id": other}))
    assert shown(world, other) == NOTHING
    assert shown(world, row) == {"outcome": "verified", "customer_id": "C-1001", "methods": ["totp"]}


def test_r54_filters_and_figures_find_a_changed_result_by_what_is_stored(world: World) -> None:
    row = ended(world, verified=False)
    sql(world, ATTACKS["all of it"])
    api, desk = program(world), signed_in(world)
    for query in ("outcome=verified", "outcome=verified&customer_id=C-1001", "journey=app"):
        (found,) = json.loads(api.get(f"/verifications?{query}").text)["data"]
        assert (found["id"], found["outcome"]) == (row, "changed")
    assert json.loads(api.get("/verifications?outcome=cancelled").text)["data"] == []
    sql(world, ATTACKS["an outcome that there is not"])
    for path in ("verifications?outcome=changed", "verifications?outcome=proved", "", "verifications"):
        assert desk.get(f"/admin/{path}").status_code == 200


def test_r54_a_changed_result_is_in_no_ones_export_and_no_last_use(world: World) -> None:
    ended(world, verified=True)
    mine, theirs = (world.services.customers.row_of(name) for name in ("C-1001", "C-1002"))
    (stored,) = world.services.person_export.of(mine)["verifications"]
    assert (stored["outcome"], stored["methods"]) == ("verified", "totp")
    assert "verified_app" in stored["told"]["said"]
    sql(world, "UPDATE verifications SET customer_row = :theirs", theirs=theirs)
    for row in (mine, theirs):
        (stored,) = world.services.person_export.of(row)["verifications"]
        assert (stored["outcome"], stored["methods"], stored["told"]) == ("changed", "", None)
    assert all(one.last_used_at is None for one in world.services.credentials.of(theirs))


def test_r54_until_macs_are_required_results_show_as_they_are_stored(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, database_url, receiver, config=JOURNEYS, settings=STILL) as before:
        row = ended(before, verified=True)
        wrap_as_before_macs(before.database)
        sql(before, "UPDATE verifications SET mac = NULL, route_mac = NULL")
        sql(before, "UPDATE customers SET identity_mac = NULL")
        with before.database.write() as connection:
            connection.execute(update(Portal).values(macs=before.transactions.keyring.mac(OPEN_MACS)))
    with open_configured(tmp_path, database_url, receiver, STILL) as world:
        assert shown(world, row) == {"outcome": "verified", "customer_id": "C-1001", "methods": ["totp"]}
        assert CHANGED not in "".join(pages(signed_in(world), row))


def seal_all(world: World, tmp_path: Path) -> None:
    with world.database.write() as connection:
        connection.execute(update(Portal).values(macs=world.transactions.keyring.mac(OPEN_MACS)))
    wrap_as_before_macs(world.database)
    sealed = command(world, tmp_path, "macs", "seal")
    assert sealed.exit_code == 0, sealed.output


@pytest.mark.parametrize("seal", [seal_all, lambda world, _path: seal_tables(world.transactions)], ids=["all", "chats"])
def test_r54_the_seal_signs_verifications_that_ended_long_ago(
    world: World, tmp_path: Path, seal: Callable[[World, Path], object]
) -> None:
    row = ended(world, verified=True)
    sql(world, "UPDATE verifications SET mac = NULL, route_mac = NULL")
    world.clock.advance(timedelta(days=20).total_seconds())
    assert shown(world, row) == NOTHING
    seal(world, tmp_path)
    world.services.journeys.renew()
    assert shown(world, row) == {"outcome": "verified", "customer_id": "C-1001", "methods": ["totp"]}


def test_r54_the_audit_check_names_changed_results_and_the_doctor_only_live_ones(world: World, tmp_path: Path) -> None:
    row = ended(world, verified=False)
    assert command(world, tmp_path, "audit", "verify").exit_code == 0
    sql(world, ATTACKS["outcome"])
    checked = command(world, tmp_path, "audit", "verify")
    assert checked.exit_code != 0
    assert f"row {row} of verifications was changed by someone else" in checked.stderr
    assert examine_macs(world.transactions).is_well


def test_r54_what_a_restore_ends_is_signed_unless_it_was_changed_before(world: World) -> None:
    for name in ("r-1", "r-2"):
        world.browser().begin(name, "app")
    path = ticket(world, "pay-app").path
    good, forged = (row.id for row in world.rows(Verification))
    sql(world, "UPDATE verifications SET methods = 'totp' WHERE id = :row", row=forged)
    counts = close_restored(world.transactions)
    assert (counts["live verifications ended"], counts["tickets closed"]) == (2, 1)
    assert shown(world, good) == {"outcome": "expired", "customer_id": None, "methods": []}
    assert shown(world, forged) == NOTHING
    with world.transactions.read() as work:
        assert [(row.table, row.row) for row in broken_rows(work, ended=True)] == [("verifications", forged)]
    (closed,) = world.rows(TicketRow)
    assert world.transactions.keyring.holds("tickets", closed._mapping)
    browser = world.browser()
    browser.get(link(path, "r-3"))
    assert browser.page.status_code == 410


def test_r54_a_result_stays_as_it_was_after_its_customer_was_erased(world: World) -> None:
    row = ended(world, verified=True)
    world.services.erasure.erase(world.services.customers.row_of("C-1001"))
    assert shown(world, row) == {"outcome": "verified", "customer_id": None, "methods": ["totp"]}
