"""A test drive: the real pages, codes in place, and nothing that leaves. The sandbox is off in all of it."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from html import unescape
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import update

from auth_portal.gateways.outbound import Outbound
from auth_portal.gateways.way_out import Blocked, DeadEnd
from auth_portal.services.operations import retention
from auth_portal.services.operations.demo import CONFIG as DEMO
from auth_portal.services.rehearsal.drive_world import empty_tables, unfolded
from auth_portal.store.db import Database, parted_facts
from auth_portal.store.models import (
    AuditEvent,
    Challenge,
    Counter,
    CustomerRow,
    Delivery,
    DriveRow,
    Journey,
    JourneyVersion,
    TicketRow,
    Tries,
    Verification,
    Visit,
    table_of,
)
from tests.admin.desk import MAIL_OF, Desk, signed_in
from tests.admin.test_journeys import edit, fields_of_logo, live, make
from tests.pictures import PNG
from tests.receiver import Receiver
from tests.world import Browser, World, journey, open_world

REAL = (Verification, Visit, Challenge, Delivery, Tries)


def begin(desk: Desk, slug: str = "balance") -> str:
    """Begins a drive by the form; gives its page's path."""
    desk.get(f"/admin/journeys/{slug}/drive")
    desk.post(f"/admin/journeys/{slug}/drive")
    assert desk.page.status_code == 200, desk.page.text
    desk.root = f"/drive/{desk.path.rpartition('/')[2]}"
    return desk.path


def link_of(desk: Desk) -> str:
    found = re.search(r'href="http://127.0.0.1:8000(/[^"]*reference=[^"]+)"', desk.page.text)
    assert found, desk.page.text
    return unescape(found.group(1))


def reference_of(desk: Desk) -> str:
    return link_of(desk).partition("reference=")[2]


def fact(desk: Desk, name: str) -> str:
    found = re.search(rf"<dt>{name}</dt>\s*<dd><code>([^<]*)</code>", desk.page.text)
    assert found, (name, desk.page.text)
    return unescape(found.group(1))


def code_of(desk: Desk) -> str:
    """The newest code that the drive's page shows."""
    found = re.search(r"<pre>(\d{6,10}) is your", desk.page.text)
    assert found, desk.page.text
    return found.group(1)


def untouched(world: World) -> dict[str, int]:
    return {model.__tablename__: len(world.rows(model)) for model in REAL}


def nothing_left(world: World) -> bool:
    """Whether neither Flow nor a phone or mailbox heard of a drive; notices to the owners may leave."""
    mail_of_admins = set(MAIL_OF.values())
    return not world.receiver.callbacks and all(sent["to"] in mail_of_admins for sent in world.receiver.messages)


def driven(desk: Desk, path: str, identifier: str = "TEST-1") -> str:
    """Walks to the page of the code, in the same browser; the code that the drive's page shows then."""
    desk.root = f"/drive/{path.rpartition('/')[2]}"
    desk.get(link_of(desk))
    desk.name(identifier)
    customer_page = desk.page
    desk.get(path)
    code = code_of(desk)
    desk.page = customer_page
    return code


def test_a_whole_drive_by_http_without_a_sandbox(world: World) -> None:
    assert not world.services.settings.has_sandbox
    desk, before = signed_in(world), untouched(world)
    path = begin(desk)
    assert desk.page.headers["Refresh"]
    code = driven(desk, path)
    assert "Test drive" in desk.page.text
    desk.prove(code)
    assert desk.path == f"{desk.root}/done"
    assert "Your chat has your answer." in desk.page.text
    desk.get(path)
    assert "the chat knows who you are" in desk.page.text
    assert "Refresh" not in desk.page.headers
    assert fact(desk, "Result") == "verified"
    assert fact(desk, "customer_id") == "TEST-1"
    assert untouched(world) == before, "a drive leaves no row among the real ones"
    assert nothing_left(world)
    kinds = [event.kind for event in world.rows(AuditEvent)]
    assert kinds.count("drive_began") == 1
    assert kinds.count("drive_passed") == 1
    desk.get(path)
    assert [event.kind for event in world.rows(AuditEvent)] == kinds, "it passes once"
    assert "Test drive a journey" not in desk.get("/admin/").text, "a test drive is the last of the first steps"
    assert "verification_began" not in kinds
    (began,) = [event for event in world.rows(AuditEvent) if event.kind == "drive_began"]
    assert (began.admin_id, parted_facts(began.facts)[0]) == (desk.admin_id, {"journey": "balance", "of": "live"})


@pytest.mark.parametrize("slug", ["mail", "app", "password", "transfer", "waiting"])
def test_every_method_and_contract_can_be_driven(small_world: World, slug: str) -> None:
    desk = signed_in(small_world)
    path = begin(desk, slug)
    facts = desk.page.text
    desk.get(link_of(desk))
    desk.name("TEST-1")
    for _step in range(2):
        if desk.path != f"{desk.root}/verify":
            break
        if 'name="method"' in desk.page.text and 'name="code"' not in desk.page.text:
            desk.post(f"{desk.root}/verify/method", method="sms_code")
        here = desk.page
        desk.get(path)
        facts = desk.page.text
        proofs = {
            "password": _fact_in(facts, "Password"),
            "totp": _fact_in(facts, "Authenticator app shows"),
            "sent": next(iter(re.findall(r"<pre>(\d{6}) is your|<strong>(\d{6}) is your", facts)), ("", "")),
        }
        desk.page = here
        if 'name="password"' in here.text:
            desk.post(f"{desk.root}/verify", password=proofs["password"])
        else:
            desk.post(f"{desk.root}/verify", code="".join(proofs["sent"]) or proofs["totp"])
    assert desk.path == f"{desk.root}/done", desk.page.text
    desk.get(path)
    assert "the chat knows who you are" in desk.page.text


def _fact_in(text: str, name: str) -> str:
    found = re.search(rf"<dt>{name}</dt>\s*<dd><code>([^<]*)</code>", text)
    return unescape(found.group(1)) if found else ""


def test_a_chat_code_is_typed_into_the_chat(small_world: World) -> None:
    desk = signed_in(small_world)
    path = begin(desk, "code-back")
    desk.prove(driven(desk, path))
    shown = re.search(r'id="chat-code">(\d{3} \d{3})<', desk.page.text)
    assert shown
    desk.get(path)
    wrong = "000000" if shown.group(1) != "000 000" else "111111"
    desk.post(f"{path}/code", typed=wrong)
    assert "Tries left: 2" in desk.page.text
    desk.post(f"{path}/code", typed=f" {shown.group(1)} ")
    assert "the chat knows who you are" in desk.page.text


def test_three_wrong_chat_codes_stop_the_chat(small_world: World) -> None:
    desk = signed_in(small_world)
    path = begin(desk, "code-back")
    desk.prove(driven(desk, path))
    desk.get(path)
    for _ in range(3):
        desk.post(f"{path}/code", typed="no")
    assert "takes the other branch" in desk.page.text


def test_the_flow_asks_again_with_the_same_link(small_world: World) -> None:
    desk = signed_in(small_world)
    path = begin(desk)
    link = link_of(desk)
    desk.prove(driven(desk, path))
    desk.get(path)
    desk.post(f"{path}/again")
    assert "The chat is waiting" in desk.page.text
    small_world.clock.advance(40)
    desk.get(link)
    assert "Start again" in desk.page.text
    desk.post(desk.path, again="1", identifier="TEST-1")
    page = desk.page
    desk.get(path)
    code = code_of(desk)
    desk.page = page
    desk.prove(code)
    desk.get(path)
    assert "the chat knows who you are" in desk.page.text
    assert desk.page.text.count(">accepted<") == 2


def test_declining_and_running_out_of_time_are_answered_too(small_world: World) -> None:
    desk = signed_in(small_world)
    path = begin(desk)
    desk.get(link_of(desk))
    desk.post(desk.path, decline="not_me")
    desk.get(path)
    assert fact(desk, "outcome") == "not_me"
    path = begin(desk)
    desk.get(link_of(desk))
    desk.name("TEST-1")
    small_world.clock.advance(520)
    desk.get(path)
    assert fact(desk, "outcome") == "expired", "nobody looked: the page of the drive ends what is due"


def test_a_draft_is_driven_as_it_was_typed_and_saves_nothing(owner: Desk) -> None:
    world, versions = owner.world, len(owner.world.rows(JourneyVersion))
    edit(owner, act="drive", name="Typed and not saved", **{"results.verified": "let_them_in"})
    assert "Typed and not saved" in owner.page.text
    assert "uses the form as you typed it" in owner.page.text
    path = owner.path
    owner.prove(driven(owner, path))
    owner.get(path)
    assert fact(owner, "Result") == "let_them_in"
    assert "the chat knows who you are" in owner.page.text
    assert len(world.rows(JourneyVersion)) == versions
    assert world.services.journeys.current().journey("balance").config.name == "Balance"


def test_a_new_journey_is_driven_before_it_is_saved(owner: Desk) -> None:
    make(owner, act="drive")
    path = owner.path
    assert path.startswith("/admin/journeys/loans/drive/")
    assert 'href="/admin/journeys/loans"' not in owner.page.text, "it has no page yet"
    owner.prove(driven(owner, path))
    owner.get(path)
    assert fact(owner, "Result") == "verified_loans"
    assert "loans" not in owner.world.services.journeys.current().journeys


def test_a_draft_that_cannot_work_comes_back_with_the_reason(owner: Desk) -> None:
    make(owner, act="drive", channel=[])
    assert owner.page.status_code == 422
    assert "carries SMS" in owner.page.text
    assert 'value="Ask about a loan"' in owner.page.text
    make(owner, act="drive", name="")
    assert owner.page.status_code == 422
    assert owner.world.rows(DriveRow) == []


def test_a_logo_is_driven_too(owner: Desk) -> None:
    data = {**fields_of_logo(owner), "logo": (BytesIO(PNG), "logo.png", "image/png")}
    owner.client.post("/admin/journeys/balance/logo", data=data, base_url=owner.base_url)
    digest = owner.world.services.journey_history.journey("balance").config.logo
    assert live(owner.world, "balance", logo=digest)
    begin(owner)
    assert f"/logo/{digest}" in owner.get(link_of(owner)).text


# --- Who may


def test_another_admin_a_stranger_and_nobody_see_no_code_and_no_page(world: World) -> None:
    desk = signed_in(world)
    path = begin(desk)
    link = link_of(desk)
    code = driven(desk, path)
    for other in (signed_in(world, "support"), Browser(world)):
        other.get(path)
        assert code not in other.page.text.replace(" ", "")
        assert other.page.status_code == 410 or other.path == "/admin/sign-in"
        other.get(link)
        assert other.page.status_code == 410
        assert "TEST-1" not in other.page.text
        other.client.set_cookie("drive", _cookie(desk), domain="127.0.0.1")
        other.get(f"{desk.root}/verify")
        assert other.page.status_code == 410
    auditor = signed_in(world, "auditor")
    assert auditor.get(path).status_code == 403


def _cookie(desk: Desk) -> str:
    found = desk.client.get_cookie("drive", domain="127.0.0.1")
    assert found is not None
    return str(found.value)


def test_a_signed_out_admin_is_let_in_no_more(small_world: World) -> None:
    desk = signed_in(small_world)
    path = begin(desk)
    link = link_of(desk)
    driven(desk, path)
    desk.get("/admin/")
    desk.post("/admin/sign-out")
    assert desk.get(f"{desk.root}/verify").status_code == 410
    assert desk.get(link).status_code == 410


def test_a_drive_ends_with_its_chat_and_is_forgotten(small_world: World) -> None:
    desk = signed_in(small_world)
    path = begin(desk)
    link = link_of(desk)
    small_world.clock.advance(601)
    assert desk.get(link).status_code == 410
    assert "has ended without an answer" in desk.get(path).text
    small_world.clock.advance(3600)
    desk.sign_in()
    assert desk.get(path).status_code == 410
    assert retention.prune(small_world.transactions)["test drives"] == 1
    assert small_world.rows(DriveRow) == []


def test_ending_a_drive_forgets_it_and_a_new_one_replaces_the_old(small_world: World) -> None:
    desk = signed_in(small_world)
    first = begin(desk)
    second = begin(desk)
    assert [f"/admin/journeys/balance/drive/{row.id}" for row in small_world.rows(DriveRow)] == [second]
    assert desk.get(first).status_code == 410
    desk.get(second)
    desk.post(f"{second}/end")
    assert small_world.rows(DriveRow) == []


# --- Apart from what is real


def test_no_real_customer_can_be_named_in_a_drive(world: World) -> None:
    """Whoever is typed but the test person is a stranger: no code is made for them that the page could show."""
    desk = signed_in(world)
    path = begin(desk)
    for identifier in ("C-1001", "+27821234567", "thandi@example.com"):
        desk.get(link_of(desk)) if identifier == "C-1001" else None
        desk.name(identifier) if identifier == "C-1001" else None
        desk.get(path)
        assert "is your Acme Bank code" not in desk.page.text
        assert "None yet." in desk.page.text
        begin(desk)
        path = desk.path
        desk.get(link_of(desk))
        desk.name(identifier)
    assert nothing_left(world)


def test_the_test_person_is_unknown_to_the_real_portal(small_world: World) -> None:
    desk = signed_in(small_world)
    begin(desk)
    assert "TEST-1" not in [row.customer_id for row in small_world.rows(CustomerRow)]
    visitor = Browser(small_world)
    visitor.begin("a-real-reference", "app", identifier="TEST-1")
    visitor.prove(fact_totp(desk))
    assert "verified" not in visitor.page.text.lower()
    assert visitor.page.status_code == 422


def fact_totp(desk: Desk) -> str:
    begin(desk, "app")
    return fact(desk, "Authenticator app shows")


@pytest.mark.parametrize("slug", ["", "app", "mail", "transfer"])
def test_a_drives_pages_begin_nothing_on_a_real_journey(small_world: World, slug: str) -> None:
    """With its admin's session they open the drive's own portal, which has no other journey; without one, nothing."""
    desk = signed_in(small_world)
    begin(desk)
    reference, before = reference_of(desk), untouched(small_world)
    path, stranger = f"/j/{slug}" if slug else "/", Browser(small_world)
    written = (quote(reference, safe=""), reference, "".join(f"%{ord(char):02x}" for char in reference))
    for browser in (stranger, desk):
        expected = (410,) if browser is stranger else (200,) if slug == "" else (404,)
        for text in written:
            assert browser.get(f"{desk.root}{path}?reference={text}").status_code in expected, text
        browser.get(f"{path}?reference=something-else")
        fields = {**browser.hidden(path), "reference": reference, "identifier": "C-1001"}
        browser.page = browser.client.post(f"{desk.root}{path}", data=fields, base_url=browser.base_url)
        assert browser.page.status_code in ((410,) if browser is stranger else (400,)), "made for another portal"
    assert untouched(small_world) == before


def test_a_drives_reference_on_a_real_journey_reaches_no_drive(small_world: World) -> None:
    """A page's path decides which portal serves it, so here the drive's reference is one that no chat has."""
    desk = signed_in(small_world)
    path = begin(desk)
    reference = reference_of(desk)
    visitor = Browser(small_world)
    visitor.begin(reference, "app")
    visitor.prove(small_world.totp())
    assert visitor.path == "/done"
    assert len(small_world.rows(Verification)) == 1
    assert "The chat is waiting" in desk.get(path).text


def test_a_customers_request_runs_no_code_of_test_drives(small_world: World) -> None:
    desk = signed_in(small_world)
    driven(desk, begin(desk))
    visitor, seen = Browser(small_world), set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and "auth_portal" in (name := frame.f_code.co_filename):
            seen.add(Path(name).name)

    sys.setprofile(note)
    try:
        visitor.begin("a-real-reference", "app")
        visitor.prove(small_world.totp())
    finally:
        sys.setprofile(None)
    assert visitor.path == "/done"
    assert "visitor.py" in seen
    assert not {name for name in seen if "driv" in name}


def test_a_real_link_in_the_browser_of_a_drive_is_real(small_world: World) -> None:
    """Which portal serves a page is decided by its own path, not by what the browser did before."""
    desk = signed_in(small_world)
    path = begin(desk)
    driven(desk, path)
    desk.root = ""
    desk.begin("a-real-reference", "app", identifier="C-1001")
    assert "Test drive" not in desk.page.text
    desk.prove(small_world.totp())
    assert desk.path == "/done"
    (real,) = small_world.rows(Verification)
    assert (real.outcome, real.slug) == ("verified", "app")


def test_a_proof_in_a_drive_changes_nothing_of_a_real_verification(small_world: World) -> None:
    real = Browser(small_world)
    real.begin("a-real-reference", "", identifier="C-1001")
    desk = signed_in(small_world)
    path = begin(desk)
    desk.prove(driven(desk, path))
    assert desk.path == f"{desk.root}/done"
    assert real.get("/verify").status_code == 200
    (row,) = small_world.rows(Verification)
    assert row.outcome is None


def test_nothing_of_a_drive_is_readable_in_the_database(small_world: World) -> None:
    desk = signed_in(small_world)
    path = begin(desk)
    code = driven(desk, path)
    desk.get(path)
    (row,) = small_world.rows(DriveRow)
    for secret in (code, reference_of(desk), fact(desk, "Phone")):
        assert secret.encode() not in row.state_sealed
    assert "drive" not in "".join(counter.key for counter in small_world.rows(Counter))


def test_a_dead_end_stands_in_for_every_way_out() -> None:
    """A new public method of Outbound must get its answer here too, or a drive could find a way out by it."""
    ways = {name for name in vars(Outbound) if not name.startswith("_")}
    assert ways <= set(vars(DeadEnd))
    nowhere = DeadEnd(lambda _taken: 200)
    with pytest.raises(Blocked):
        nowhere.reach("https://flow-callback.clickatell.com")
    with pytest.raises(Blocked):
        nowhere.connect("smtp.example.com", 587, connect_seconds=1, deadline=1)


def test_a_drive_has_no_socket(small_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every delivery of a drive goes to its dead end: what would open a connection is never called."""
    desk, called = signed_in(small_world), []

    def noting(way: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **options: Any) -> Any:
            called.append(threading.current_thread())
            return way(*args, **options)

        return noted

    for name in ("request", "reach", "connect"):
        monkeypatch.setattr(Outbound, name, noting(getattr(Outbound, name)))
    path = begin(desk)
    desk.prove(driven(desk, path))
    desk.get(path)
    assert fact(desk, "Result") == "verified"
    assert threading.current_thread() not in called, "the dispatcher's own threads may tell the owners of something"


def test_a_journey_of_the_real_flow_server_is_driven_away_from_it(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    config = journey("live", "sms_code", default=True, server="production")
    with open_world(tmp_path, sqlite_url, receiver, config=config) as world:
        desk = signed_in(world)
        path = begin(desk, "live")
        desk.prove(driven(desk, path))
        desk.get(path)
        assert fact(desk, "Result") == "verified"
        assert [row for row in world.rows(Delivery) if row.kind == "callback"] == []


# --- In the way of each other


def test_a_request_waits_for_the_one_before_it(small_world: World) -> None:
    desk = signed_in(small_world)
    path = begin(desk)
    with small_world.database.write() as connection:
        connection.execute(update(DriveRow).values(leased_until=small_world.clock.now.replace(hour=23)))
    assert desk.get(path).status_code == 503
    small_world.clock.now = small_world.clock.now.replace(hour=23)
    with small_world.database.write() as connection:
        connection.execute(update(DriveRow).values(ends_at=small_world.clock.now.replace(hour=23, minute=30)))
    desk.sign_in()
    assert desk.get(path).status_code == 200, "a killed request holds nobody up for long"


def test_a_fault_in_a_drive_keeps_nothing_and_frees_it(small_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = signed_in(small_world)
    path = begin(desk)
    with monkeypatch.context() as patched:
        patched.setattr("auth_portal.web.visitor.LandingForm", lambda **_values: 1 / 0)
        desk.get(link_of(desk))
        before = small_world.rows(DriveRow)[0].state_sealed
        assert desk.name("TEST-1").status_code == 500
    assert small_world.rows(DriveRow)[0].state_sealed == before
    assert desk.get(path).status_code == 200
    assert small_world.rows(DriveRow)[0].leased_until is None


def test_a_drive_of_other_tables_is_over(small_world: World) -> None:
    """After an upgrade with a migration what is folded up no longer fits."""
    desk = signed_in(small_world)
    path = begin(desk)
    with small_world.database.write() as connection:
        connection.execute(update(DriveRow).values(revision="0001"))
    assert desk.get(path).status_code == 410


def test_folding_keeps_what_was_written() -> None:
    with unfolded(empty_tables()) as (database, fold):
        with database.write() as connection:
            connection.execute(table_of(Journey).insert().values(_journey("one")))
        kept = fold()
    with unfolded(kept) as (again, _fold):
        assert _slugs(again) == ["one"]
    with unfolded(empty_tables()) as (other, _fold):
        assert _slugs(other) == []


def _journey(slug: str) -> dict[str, Any]:
    return {"id": slug, "slug": slug, "version_id": slug, "is_active": True, "is_default": False}


def _slugs(database: Database) -> list[str]:
    with database.read() as connection:
        return [row.slug for row in connection.execute(table_of(Journey).select())]


def test_a_journey_that_cannot_work_says_why(small_world: World) -> None:
    """Its only channel is off: there is nothing to drive, and the page says so."""
    desk = signed_in(small_world)
    with small_world.database.write() as connection:
        connection.exec_driver_sql("UPDATE channels SET is_active = false WHERE name = 'sms'")
        connection.exec_driver_sql("UPDATE portal SET version = version + 1")
    small_world.services.journeys._read_at = 0.0
    desk.get("/admin/journeys/balance/drive")
    desk.post("/admin/journeys/balance/drive")
    assert desk.page.status_code == 422
    assert "none of the journey&#39;s channels carries SMS" in desk.page.text
    assert small_world.rows(DriveRow) == []


def test_the_state_is_what_a_script_would_see(small_world: World) -> None:
    """A page that fetches itself anew is not also refreshed by its header."""
    desk = signed_in(small_world)
    path = begin(desk)
    assert "data-refreshing" in desk.page.text
    desk.get(f"{path}?live=1")
    assert "Refresh" not in desk.page.headers
    assert "data-refreshing" not in desk.page.text


def test_every_journey_of_the_demo_can_be_driven(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    """Its channels are inboxes, which are bound to no country."""
    config = journey("balance", "sms_code", default=True)
    with open_world(tmp_path, sqlite_url, receiver, config=config, settings={"PORTAL_SANDBOX": "1"}) as world:
        desk = signed_in(world)
        world.services.configuration.import_toml(DEMO.read_text(encoding="utf-8"), file_name=DEMO.name)
        world.services.journeys.renew()
        slugs = [slug for slug in world.services.journeys.current().journeys if begin(desk, slug)]
        assert {"balance", "code-back", "pay"} <= set(slugs)
        path = begin(desk, "pay")
        prove_ticketed(desk, path, link_of(desk))
        assert "the chat knows who you are" in desk.page.text


@pytest.mark.parametrize("contract", ["external_link", "wait_for_callback"])
def test_phone_match_is_driven_with_a_ticket(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, contract: str
) -> None:
    """The drive registers its ticket as the flow's API node would: nobody has to say who they are."""
    config = journey("matched", "sms_code", default=True, relay_defence="phone_match", contract=contract)
    with open_world(tmp_path, sqlite_url, receiver, config=config) as world:
        desk = signed_in(world)
        path = begin(desk, "matched")
        for _round in range(2):
            link = link_of(desk)
            has_token = contract == "external_link"
            assert ("/t/" in link) == has_token
            assert "What your API Integration node does" in desk.page.text
            assert fact(desk, "msisdn") == fact(desk, "Phone").removeprefix("+")
            assert ("<dt>reference</dt>" in desk.page.text) != has_token
            assert link.startswith(fact(desk, "“link” in the response").removeprefix("http://127.0.0.1:8000"))
            prove_ticketed(desk, path, link)
            assert fact(desk, "phone_match") == "yes"
            assert fact(desk, "payment_amount") == json.loads(fact(desk, "payment"))["amount"] == "500.00"
            assert "N. Dlamini" in desk.get(link).text
            desk.get(path)
            assert "the chat knows who you are" in desk.page.text
            world.clock.advance(60)
            desk.get(path)
            desk.post(f"{path}/again")
            assert (link_of(desk) != link) == has_token, "the flow came back to its API node"
        assert world.rows(TicketRow) == []


def prove_ticketed(desk: Desk, path: str, link: str) -> None:
    """The test person's way under a ticket: nothing to say but the code."""
    desk.get(link)
    assert 'name="identifier"' not in desk.page.text
    desk.post(desk.path)
    if desk.path != f"{desk.root}/verify":  # a newer ticket asks again, and the page says so first
        desk.post(desk.path, again="1")
    if 'value="sms_code"' in desk.page.text:
        desk.post(f"{desk.root}/verify/method", method="sms_code")
    page = desk.page
    desk.get(path)
    code = code_of(desk)
    desk.page = page
    desk.prove(code)
    desk.get(path)
