"""A contact that was changed lately is not the only proof of a journey that says so (R45)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pyotp
import pytest

from auth_portal.services.imports.imports import ImportReport
from auth_portal.services.operations.installation import examine
from auth_portal.services.serving import build
from auth_portal.store.models import AuditEvent, Challenge, Delivery
from tests.admin.desk import Desk, signed_in
from tests.admin.test_imports import imported
from tests.api.program import program
from tests.receiver import Receiver, wait_for
from tests.world import TOTP_SECRET, Browser, World, journey, open_world

HOURS = "changed_contact_hours = 24"
JOURNEYS = (
    journey("one", "sms_code", default=True, limits=HOURS)
    + journey("choice", "sms_code|email_code|totp", limits=HOURS)
    + journey("twice", "sms_code", "email_code", limits=HOURS)
    + journey("app-last", "sms_code", "sms_code|totp|email_code", limits=HOURS)
    + journey("app-first", "totp", "sms_code", limits=HOURS)
    + journey("short", "sms_code", limits="changed_contact_hours = 2")
    + journey("never", "sms_code")
)
NEW = "+27829998877"
OTHER = "+27831234567"  # of C-1002


@pytest.fixture
def waiting(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, sqlite_url, receiver, config=JOURNEYS) as opened:
        yield opened


@pytest.fixture
def both(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, database_url, receiver, config=JOURNEYS) as opened:
        yield opened


def change(world: World, **fields: str | None) -> None:
    saved = world.services.customers.change(world.services.customers.row_of("C-1001"), fields)
    assert saved.changed, saved
    world.services.dispatcher.wake()


def code_of(world: World) -> str:
    """The code of the newest challenge, sent or not: a guess that happens to be right."""
    newest = max(world.rows(Challenge), key=lambda row: row.id)
    return world.services.keyring.code(newest.id, newest.digits, newest.key_id)


def proved(world: World, slug: str, *methods: str, reference: str = "", customer_id: str = "C-1001") -> Browser:
    """A browser that has proved these methods with the right codes, or was told that they are wrong."""
    browser = world.browser()
    browser.begin(reference or f"{slug}-{world.clock.now:%d%H%M}", slug, customer_id)
    for method in methods:
        if "/verify/method" in browser.page.text:
            browser.post("/verify/method", method=method)
        is_app = method == "totp"
        browser.prove(pyotp.TOTP(TOTP_SECRET).at(world.clock.now.timestamp()) if is_app else code_of(world))
    return browser


def withheld(world: World) -> list[str]:
    return [row.reason for row in world.rows(Delivery) if "changed lately" in (row.reason or "")]


def edit(world: World) -> None:
    desk: Desk = signed_in(world, "support")
    path = f"/admin/customers/{world.services.customers.row_of('C-1001')}/edit"
    desk.get(path)
    desk.post(path, customer_id="C-1001", phone=NEW)
    assert desk.path == path.removesuffix("/edit")


def patch(world: World) -> None:
    assert program(world).patch("/customers/C-1001", {"phone": NEW}).status_code == 200


def bulk(world: World) -> None:
    many = {"customers": [{"customer_id": "C-1001", "phone": NEW}, {"customer_id": "C-9", "phone": "+27825550000"}]}
    assert program(world).post("/customers/bulk", many).status_code == 200


def command(world: World) -> None:
    report: ImportReport = world.services.command_import.import_csv(
        f"customer_id,phone\nC-1001,{NEW}\n".encode(), default_region="ZA", dry_run=False
    )
    assert report.changed == 1


def undo(world: World) -> None:
    """Bring a number back that someone has set before: an undo is no way around the wait."""
    desk = signed_in(world, "support")
    path = imported(desk, f"Customer Number;Cell phone\nC-1001;{NEW}\n", "customer_id", "phone")
    world.clock.advance(25 * 3600)
    desk.sign_in()
    desk.get(path)
    desk.post(f"{path}/undo", second_factor=desk.second_factor())
    wait_for(lambda: "Refresh" not in desk.get(path).headers, 20)


def again(world: World) -> None:
    change(world, phone=None)
    world.clock.advance(25 * 3600)
    change(world, phone=NEW)


@pytest.mark.parametrize("way", [edit, patch, bulk, command, undo, again], ids=lambda way: str(way.__name__))
def test_r45_a_contact_that_anyone_changed_is_not_the_only_proof_until_its_time(
    both: World, way: Callable[[World], None]
) -> None:
    world = both
    way(world)
    browser = proved(world, "one", "sms_code")
    assert browser.path == "/verify"
    assert "isn't the code." in browser.page.text
    assert len(withheld(world)) == 1
    assert [event.facts["why"] for event in world.rows(AuditEvent) if event.kind == "proof_failed"] == [
        "changed_lately"
    ]
    assert proved(world, "never", "sms_code").path == "/done", "a journey that asks for no wait"
    world.clock.advance(24 * 3600 - 60)
    assert proved(world, "one", "sms_code").path == "/verify"
    world.clock.advance(61)
    assert proved(world, "one", "sms_code").path == "/done"


def test_r45_each_journey_has_its_own_wait(waiting: World) -> None:
    change(waiting, phone=NEW)
    waiting.clock.advance(2 * 3600)
    assert proved(waiting, "short", "sms_code").path == "/done"
    assert proved(waiting, "one", "sms_code").path == "/verify"


def test_r45_what_was_on_file_at_the_creation_has_not_changed(waiting: World) -> None:
    waiting.services.customers.create({"customer_id": "C-77", "phone": NEW})
    assert proved(waiting, "one", "sms_code", customer_id="C-77").path == "/done"
    change(waiting, name="Thandi D", email="new@example.com")
    assert proved(waiting, "one", "sms_code", reference="other").path == "/done", "another field"


def test_r45_with_another_method_besides_it_is_fine(waiting: World) -> None:
    change(waiting, phone=NEW)
    assert proved(waiting, "app-first", "totp", "sms_code").path == "/done"
    waiting.clock.advance(61)
    assert proved(waiting, "app-last", "sms_code", "totp").path == "/done"
    waiting.clock.advance(61)
    assert proved(waiting, "twice", "sms_code", "email_code").path == "/done", "the mailbox is the old one"
    waiting.clock.advance(61)
    assert proved(waiting, "choice", "totp").path == "/done"
    assert not withheld(waiting)


def test_r45_two_changed_contacts_are_no_two_proofs(waiting: World) -> None:
    change(waiting, phone=NEW, email="new@example.com")
    assert proved(waiting, "twice", "sms_code").path == "/verify"
    assert len(withheld(waiting)) == 1


def test_r45_after_a_changed_contact_only_another_method_is_offered(waiting: World) -> None:
    """A first proof was made, so the page may depend on who it is (R24)."""
    change(waiting, phone=NEW, email="new@example.com")
    browser = proved(waiting, "app-last", "sms_code")
    assert "Enter the code from your app" in browser.page.text, "the only one that is left"
    assert "/verify/method" not in browser.page.text


def test_r45_a_change_between_two_steps_counts_too(waiting: World) -> None:
    browser = proved(waiting, "twice", "sms_code")
    assert browser.path == "/verify"
    change(waiting, phone=NEW, email="new@example.com")
    browser.get("/verify")
    browser.prove(code_of(waiting))
    assert browser.path == "/verify"


@pytest.mark.parametrize("slug", ["one", "choice", "twice"])
def test_r24_r45_a_changed_contact_looks_like_a_stranger(waiting: World, slug: str) -> None:
    change(waiting, phone=NEW, email="new@example.com")
    seen = []
    for number, who in enumerate(("C-1001", "C-9999", "C-1002")):
        browser = waiting.browser()
        browser.begin(f"same-{number}", slug, who)
        if slug == "choice":
            browser.post("/verify/method", method="sms_code")
        pages = [browser.page.text, browser.prove("000000").text, browser.help()]
        secret = [browser.hidden("/verify")[name] for name in ("prompt", "csrf_token", "v")]
        seen.append([_without(page, who, *secret) for page in pages])
        assert "Was your number or email address changed lately?" in pages[2]
        assert "24 hours" in pages[2]
    assert seen[0] == seen[1] == seen[2]


def _without(page: str, *parts: str) -> list[str]:
    """The lines of a page that no visit has for itself alone."""
    for part in parts:
        page = page.replace(part, "…")
    return [line for line in page.splitlines() if 'name="prompt"' not in line and "csrf_token" not in line]


def test_r45_support_sees_until_when(waiting: World) -> None:
    desk = signed_in(waiting, "support")
    change(waiting, phone=NEW)
    until = (waiting.clock.now + timedelta(hours=24)).strftime("%Y-%m-%dT%H:%M")
    desk.get(f"/admin/customers/{waiting.services.customers.row_of('C-1001')}")
    page = " ".join(desk.page.text.split())
    assert "the contact was changed lately, so it doesn't count alone until" in page
    assert "a phone number that was changed lately, which doesn't count alone yet" in page
    assert until in page
    wait_for(lambda: "which doesn't count alone yet" in desk.get("/admin/journeys/one/reach").text)
    people = desk.get("/admin/journeys/one/reach/people").text
    assert "C-1001" in people
    assert until in people
    wait_for(lambda: "can pass" in desk.get("/admin/journeys/app-last/reach").text)
    assert "C-1001" not in desk.get("/admin/journeys/app-last/reach/people").text
    proved(waiting, "one")
    wait_for(lambda: bool(withheld(waiting)))
    story = desk.get("/admin/verifications").text
    assert "/admin/verifications/" in story


def test_r45_a_journey_that_a_change_alone_closes_is_named_where_it_is_saved_and_by_the_doctor(waiting: World) -> None:
    summary = waiting.services.configuration.import_toml(
        waiting.services.configuration.export_toml(), file_name="same.toml"
    )
    named = {line.partition(":")[0] for line in summary.warnings if "changed_contact_hours" in line}
    assert named == {"journey one", "journey twice", "journey short"}
    finding = [line for line in _doctor(waiting) if "can't pass for 2 hours" in line]
    assert [line.partition(" can't")[0].rpartition("journey short")[1] for line in finding] == ["journey short"]


def _doctor(world: World) -> list[str]:
    settings = world.services.settings
    return [str(found) for found in examine(settings, lambda given: build(given, world.clock))]
